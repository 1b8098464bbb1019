"""The implementations of the Store door, as the contract suite sees them.

A new one is a subclass of `Door` and a name in `DOORS`: how to open a fresh store, how to open it
again, and how time passes for its leases. One without tables (etcd: tests/registry/etcd_door.py) is
a name in `STORES` only.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.sqlite import SqliteStore
from modelmesh.registry.store import Event, Store
from modelmesh.registry.tables import TabledStore
from tests.registry.virtual_loop import VirtualLoop

S = TypeVar("S", bound=Store)
ATTEMPTS = 3
HISTORY_EVENTS = 4096


class Overslept(Exception):
    """It took so long that a lease may have ended meanwhile: what was seen shows nothing."""


class AnyDoor(ABC, Generic[S]):
    """One implementation, in a folder of its own. `history_events`: how far watchers may lag."""

    history_events = HISTORY_EVENTS
    ttl_s = 10.0  # of the leases that tests take

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    async def open(self) -> S:
        """The store of this folder."""

    @abstractmethod
    async def elapse(self, seconds: float) -> None:
        """Let that much time pass for leases."""

    @abstractmethod
    def loop(self) -> asyncio.AbstractEventLoop:
        """A loop whose time is that of `elapse`."""

    async def forget(self, store: Store) -> None:
        """Let watchers that lag by more than `history_events` have lost them."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def lives(self, since: float) -> None:
        """A lease that began, or was renewed, not before `since` is alive: or else Overslept."""
        if self.now() - since >= self.ttl_s:
            raise Overslept

    def run(self, test: Callable[[S, Any], Coroutine[Any, Any, None]]) -> None:
        """Run one scenario over a fresh store, and close it; again if it overslept."""

        async def scenario() -> None:
            store = await self.open()
            try:
                await test(store, self)
            finally:
                await store.close()

        for _ in range(ATTEMPTS):
            with asyncio.Runner(loop_factory=self.loop) as runner, suppress(Overslept):
                runner.run(scenario())
                return
        raise AssertionError("it overslept each time")


class Door(AnyDoor[TabledStore]):
    """A store of this process, with tables, on virtual time."""

    async def elapse(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.advance(seconds)

    def loop(self) -> asyncio.AbstractEventLoop:
        return VirtualLoop()


class MemoryDoor(Door):
    async def open(self) -> TabledStore:
        return MemoryStore(history_events=self.history_events)


class SqliteDoor(Door):
    async def open(self) -> TabledStore:
        return await SqliteStore.open(
            str(self.folder / "registry.db"), history_events=self.history_events
        )


DOORS: dict[str, type[Door]] = {"memory": MemoryDoor, "sqlite": SqliteDoor}

Scenario = Callable[[TabledStore, Door], Coroutine[Any, Any, None]]


def scenario(test: Scenario) -> Callable[[Door], None]:
    """Make a pytest function of a scenario: it runs once over every door."""

    def run(door: Door) -> None:
        door.run(test)

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def over_every_store(
    test: Callable[[Store, AnyDoor[Any]], Coroutine[Any, Any, None]],
) -> Callable[[AnyDoor[Any]], None]:
    """The same over the stores without tables too."""

    def run(any_door: AnyDoor[Any]) -> None:
        any_door.run(test)

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


async def next_events(watch: AsyncIterator[list[Event]]) -> list[Event]:
    """The watch's next list, whatever its loop's clock says (pytest bounds the test)."""
    return await anext(watch)


async def settle() -> None:
    """Let everything run that is ready to."""
    for _ in range(20):
        await asyncio.sleep(0)
