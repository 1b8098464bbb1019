"""One daemon's way to the shared store, and what can be wrong with it.

All daemons of a world share one store in memory; each reaches it over a link of its own, so that
one of them can be cut off. Faults strike only what they are told to, and `struck` counts them.

The store itself belongs to nobody's process: what it does for a daemon (a lease's clock) goes on
when that daemon has died. Entries are handed on by reference: fifty daemons share one record.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from random import Random
from typing import Any, Final, TypeVar

from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.store import Change, Committed, Compacted, Compare, Entry, Event, Page
from modelmesh.simulation.clock import WorldsOwn

T = TypeVar("T")

LATENCY_S: Final = 0.001


class SharedStore:
    """The store of a world, and who watches it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._own = WorldsOwn(loop)
        self.kept: MemoryStore = self._own.run(MemoryStore)
        self.links: list[StoreLink] = []
        self.identity = "simulated 0"
        self._restores = 0
        self._unsubscribe = self.kept.table("").subscribe(self._changed)

    def do(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Have it done at once: a store in memory never waits."""
        came_of_it: T = self._own.run(_drive, work)
        return came_of_it

    def restore(self, entries: dict[str, Entry], revision: int) -> None:
        """It is as it was when that was kept; leases and watches of today are gone."""
        self._unsubscribe()
        before, self.kept = self.kept, self._own.run(MemoryStore)
        self.do(before.close)
        space = self.kept.space
        for key, entry in entries.items():
            if not entry.lease:
                space._set_entry(key, entry)
        space.revision = revision
        space._compacted = revision
        self._restores += 1
        self.identity = f"simulated {self._restores}"
        self._unsubscribe = self.kept.table("").subscribe(self._changed)
        for link in self.links:
            link.broke()

    def keep(self) -> tuple[dict[str, Entry], int]:
        """A snapshot, to be restored later."""
        space = self.kept.space
        return {key: entry for key in space.keys("") if (entry := space.get(key))}, space.revision

    def _changed(self, events: list[Event]) -> None:
        for link in self.links:
            link.changed(events)


def _drive(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    coroutine = work()
    try:
        coroutine.send(None)
    except StopIteration as done:
        came_of_it: T = done.value
        return came_of_it
    raise RuntimeError("a store in memory waited")


class StoreLink:
    """A `Store`. `cut`: nothing passes, calls hang until it is over.

    `lose`, `delay`: shares of watch events that never come, or come after later ones.
    """

    def __init__(self, shared: SharedStore, rng: Random, struck: Counter[str]) -> None:
        self.lose = 0.0
        self.delay = 0.0
        self.slow_s = LATENCY_S
        self.down = False  # the store refuses connections
        self.struck = struck
        self._shared = shared
        self._rng = rng
        self._open = asyncio.Event()
        self._open.set()
        self._breaks = 0
        self._waiting: dict[asyncio.Future[None], str] = {}  # of watches, and their prefix
        shared.links.append(self)

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
        self.struck["compaction"] += 1
        self.broke()

    # --- the door

    async def identity(self) -> str:
        return await self._reach(self._identity)

    async def commit(self, compares: Sequence[Compare], changes: Sequence[Change]) -> Committed:
        return await self._reach(lambda: self._shared.kept.commit(compares, changes))

    async def get(self, key: str) -> Entry | None:
        return await self._reach(lambda: self._shared.kept.get(key))

    async def page(self, prefix: str, after: str = "", limit: int = 1000) -> Page:
        return await self._reach(lambda: self._shared.kept.page(prefix, after, limit))

    async def grant(self, ttl_s: float) -> int:
        return await self._reach(lambda: self._shared.kept.grant(ttl_s))

    async def keep_alive(self, lease: int) -> bool:
        return await self._reach(lambda: self._shared.kept.keep_alive(lease))

    async def revoke(self, lease: int) -> None:
        await self._reach(lambda: self._shared.kept.revoke(lease))

    async def close(self) -> None:
        """The store outlives its daemons."""
        if self in self._shared.links:
            self._shared.links.remove(self)

    async def watch(self, prefix: str, after_revision: int) -> AsyncIterator[list[Event]]:
        breaks, late = self._breaks, list[Event]()
        while True:
            if breaks != self._breaks:
                raise Compacted
            space = self._shared.kept.space
            events = space.events(prefix, after_revision)
            after_revision = max(after_revision, space.revision)
            if not events:
                await self._change(prefix)
                continue
            await self._pass()
            if mangled := self._mangle(events, late):
                yield mangled

    # --- watches

    def changed(self, events: list[Event]) -> None:
        """Wake the watches that this concerns."""
        for waiter, prefix in self._waiting.items():
            if not waiter.done() and any(event.key.startswith(prefix) for event in events):
                waiter.set_result(None)

    def broke(self) -> None:
        """Every watch ends with `Compacted`."""
        self._breaks += 1
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def _change(self, prefix: str) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = prefix
        try:
            await waiter
        finally:
            del self._waiting[waiter]

    # --- the way

    async def _identity(self) -> str:
        return self._shared.identity

    async def _reach(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        await self._pass()
        answer = self._shared.do(work)
        await self._pass()
        return answer

    async def _pass(self) -> None:
        """One way: it takes its time, and waits while the link is cut."""
        await asyncio.sleep(self.slow_s)
        if self.down:
            self.struck["store refused"] += 1
            raise MeshError(Failure(Code.UNAVAILABLE, "connection refused", Fault.STORE))
        if not self._open.is_set():
            self.struck["store cut"] += 1
            await self._open.wait()

    def _mangle(self, events: list[Event], late: list[Event]) -> list[Event]:
        if not (self.lose or self.delay or late):
            return events
        sent: list[Event] = []
        came_late, late[:] = [*late], []
        for event in events:
            if self.lose and self._rng.random() < self.lose:
                self.struck["watch event lost"] += 1
            elif self.delay and self._rng.random() < self.delay:
                self.struck["watch event late"] += 1
                late.append(event)
            else:
                sent.append(event)
        return sent + came_late
