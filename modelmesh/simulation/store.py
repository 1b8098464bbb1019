"""One daemon's way to the shared store, and what can be wrong with it.

All daemons of a world share one store in memory; each reaches it over a link of its own, so that
one of them can be cut off. Faults strike only what they are told to, and `struck` counts them.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from random import Random
from typing import TypeVar

from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.store import Change, Committed, Compacted, Compare, Entry, Event, Page

T = TypeVar("T")

LATENCY_S = 0.001


class StoreLink:
    """A `Store`. `cut`: nothing passes, calls hang until it is over.

    `lose`, `delay`: shares of watch events that never come, or come after later ones.
    """

    def __init__(self, shared: MemoryStore, rng: Random, struck: Counter[str]) -> None:
        self.lose = 0.0
        self.delay = 0.0
        self.slow_s = LATENCY_S
        self.dead = False
        self._shared = shared
        self._rng = rng
        self._struck = struck
        self._open = asyncio.Event()
        self._open.set()
        self._broken = asyncio.Event()  # watches end with Compacted

    # --- faults

    @property
    def is_cut(self) -> bool:
        return not self._open.is_set()

    def cut(self) -> None:
        self._open.clear()

    def mend(self) -> None:
        self._open.set()

    def compact(self) -> None:
        """Watches have fallen too far behind: they end, and whoever watches lists again."""
        self._struck["compaction"] += 1
        self._broken.set()
        self._broken = asyncio.Event()

    # --- the door

    async def identity(self) -> str:
        return await self._reach(self._identity)

    async def commit(self, compares: Sequence[Compare], changes: Sequence[Change]) -> Committed:
        return await self._reach(lambda: self._shared.commit(compares, changes))

    async def get(self, key: str) -> Entry | None:
        return await self._reach(lambda: self._shared.get(key))

    async def page(self, prefix: str, after: str = "", limit: int = 1000) -> Page:
        return await self._reach(lambda: self._shared.page(prefix, after, limit))

    async def grant(self, ttl_s: float) -> int:
        return await self._reach(lambda: self._shared.grant(ttl_s))

    async def keep_alive(self, lease: int) -> bool:
        return await self._reach(lambda: self._shared.keep_alive(lease))

    async def revoke(self, lease: int) -> None:
        await self._reach(lambda: self._shared.revoke(lease))

    async def close(self) -> None:
        """The store outlives its daemons."""
        self.dead = True

    async def watch(self, prefix: str, after_revision: int) -> AsyncIterator[list[Event]]:
        inner, late = self._shared.watch(prefix, after_revision), list[Event]()
        broken = self._broken
        while not self.dead:
            coming = asyncio.ensure_future(anext(inner))
            end = asyncio.ensure_future(broken.wait())
            try:
                await asyncio.wait({coming, end}, return_when=asyncio.FIRST_COMPLETED)
                if end.done():
                    raise Compacted
                events = coming.result()
            except StopAsyncIteration:
                return
            finally:
                coming.cancel()
                end.cancel()
            await self._pass()
            if mangled := self._mangle(events, late):
                yield mangled

    async def _identity(self) -> str:
        return "simulated"

    async def _reach(self, work: Callable[[], Awaitable[T]]) -> T:
        await self._pass()
        answer = await work()
        await self._pass()
        return answer

    async def _pass(self) -> None:
        """One way: it takes its time, and waits while the link is cut."""
        await asyncio.sleep(self.slow_s)
        if not self._open.is_set():
            self._struck["store cut"] += 1
            await self._open.wait()

    def _mangle(self, events: list[Event], late: list[Event]) -> list[Event]:
        sent: list[Event] = []
        came_late, late[:] = [*late], []
        for event in events:
            if self.lose and self._rng.random() < self.lose:
                self._struck["watch event lost"] += 1
            elif self.delay and self._rng.random() < self.delay:
                self._struck["watch event late"] += 1
                late.append(event)
            else:
                sent.append(event)
        return sent + came_late
