"""A store whose network is bad, as a test wants it: nothing here is random but by the given rng.

`Faulty` wraps a store of this process and strikes only what it is told to; `struck` counts what it
did, so that a test can assert that its fault bit.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from random import Random
from typing import Any, TypeVar

from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.registry.local import LocalStore, unavailable
from modelmesh.registry.store import (
    Change,
    Committed,
    Compare,
    Entry,
    Event,
    Page,
)
from tests.registry.doors import settle
from tests.registry.virtual_loop import VirtualLoop

T = TypeVar("T")


class Faulty:
    """`network`: "good", "silent" (calls hang), "mute" (they are done, but the answer does not
    come), "refused" (they fail); a watch that then had something to say is deaf from there on.

    `lose`, `repeat`, `delay`: the share of watch events that is lost, sent twice, or sent after
    later ones. `deaf`: watches bring nothing at all, and do not end.
    """

    def __init__(self, inner: LocalStore, rng: Random) -> None:
        self.inner = inner
        self.name = "one"
        self.network = "good"
        self.lose = self.repeat = self.delay = 0.0
        self.deaf = False
        self.full = False  # it takes no commits
        self.hold_pages: asyncio.Event | None = None
        self.struck: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._rng = rng
        self._changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._interrupt: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # --- what a test does

    def be(self, network: str) -> None:
        """The network is so from now on; calls that hang go on when it is good again."""
        self.network = network
        if not self._changed.done():
            self._changed.set_result(None)
        self._changed = asyncio.get_running_loop().create_future()

    def interrupt(self, error: Exception) -> None:
        """Every open watch ends with this."""
        self.struck["interrupt"] += 1
        self._interrupt.set_exception(error)
        self._interrupt.exception()
        self._interrupt = asyncio.get_running_loop().create_future()

    def restore(self, inner: LocalStore, name: str = "one") -> None:
        """Another state of the store takes its place; open watches hear no more."""
        self.struck["restore"] += 1
        self.inner, self.name = inner, name

    # --- the door

    async def identity(self) -> str:
        return await self._reach("identity", self._identity)

    async def commit(self, compares: Sequence[Compare], changes: Sequence[Change]) -> Committed:
        if self.full:
            self.struck["full"] += 1
            raise MeshError(Failure(Code.RESOURCE_EXHAUSTED, "no space", fault=Fault.STORE))
        return await self._reach("commit", lambda: self.inner.commit(compares, changes))

    async def get(self, key: str) -> Entry | None:
        return await self._reach("get", lambda: self.inner.get(key))

    async def page(self, prefix: str, after: str = "", limit: int = 1000) -> Page:
        page = await self._reach("page", lambda: self.inner.page(prefix, after, limit))
        if self.hold_pages is not None:
            await self.hold_pages.wait()
        return page

    async def grant(self, ttl_s: float) -> int:
        return await self._reach("grant", lambda: self.inner.grant(ttl_s))

    async def keep_alive(self, lease: int) -> bool:
        return await self._reach("keep_alive", lambda: self.inner.keep_alive(lease))

    async def revoke(self, lease: int) -> None:
        await self._reach("revoke", lambda: self.inner.revoke(lease))

    async def close(self) -> None:
        await self.inner.close()

    async def watch(self, prefix: str, after_revision: int) -> AsyncIterator[list[Event]]:
        await self._reach("watch", self._identity)
        inner, late = self.inner.watch(prefix, after_revision), list[Event]()
        interrupt = self._interrupt
        while True:
            coming = asyncio.ensure_future(anext(inner))
            try:
                both: list[asyncio.Future[Any]] = [coming, interrupt]
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if interrupt.done():
                    interrupt.result()
                events = coming.result()
            except StopAsyncIteration:
                return
            finally:
                coming.cancel()
            if self.deaf or self.network != "good":
                self.struck["deaf"] += 1
                await asyncio.shield(interrupt)
            if mangled := self._mangle(events, late):
                yield mangled

    async def _identity(self) -> str:
        return self.name

    async def _reach(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        self.calls[name] += 1
        while self.network != "good":
            self.struck[self.network] += 1
            if self.network == "mute":
                await work()
            if self.network == "refused":
                raise unavailable("connection refused")
            await asyncio.shield(self._changed)
        return await work()

    def _mangle(self, events: list[Event], late: list[Event]) -> list[Event]:
        sent: list[Event] = []
        came_late, late[:] = [*late], []
        for event in events:
            if self._rng.random() < self.lose:
                self.struck["lost"] += 1
            elif self._rng.random() < self.delay:
                self.struck["delayed"] += 1
                late.append(event)
            else:
                sent.append(event)
            if self._rng.random() < self.repeat:
                self.struck["repeated"] += 1
                late.append(event)
        return sent + came_late


async def elapse(seconds: float, step_s: float = 0.25) -> None:
    """Let that much virtual time pass, in steps, and everything run that is due."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    passed = 0.0
    while passed < seconds:
        loop.advance(min(step_s, seconds - passed))
        passed += step_s
        await settle()


async def comes(work: Awaitable[T], within_s: float, step_s: float = 0.25) -> T:
    """What `work` brings, while virtual time passes; it must come within that time."""
    task = asyncio.ensure_future(work)
    await settle()
    passed = 0.0
    while not task.done() and passed < within_s:
        await elapse(step_s)
        passed += step_s
    assert task.done(), "it did not come in time"
    return task.result()
