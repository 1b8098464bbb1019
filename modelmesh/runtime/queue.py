"""Who loads next: requests before background work, a bounded number at once.

Loads contend for disks, forks and hosts; a prefetch must never delay a caller. The queue only
orders and bounds: what a turn is used for is its caller's affair. Equal priorities keep their
order. A turn that is cancelled while it waits costs nothing.
"""

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum

from modelmesh.errors import Code, Failure, Fault, MeshError, Reason


class Priority(IntEnum):
    """Smaller goes first."""

    REQUEST = 0
    BACKGROUND = 1


class LoadQueue:
    """At most `concurrency` turns run at once, at most `most_waiting` wait."""

    def __init__(self, concurrency: int, most_waiting: int) -> None:
        self._free = concurrency
        self._most_waiting = most_waiting
        self._waiting: list[tuple[Priority, int, asyncio.Future[None]]] = []
        self._sequence = 0
        self._live = 0

    @property
    def waiting(self) -> int:
        """Turns that wait."""
        return self._live

    @asynccontextmanager
    async def turn(self, priority: Priority) -> AsyncIterator[None]:
        """Hold a turn inside the block; RESOURCE_EXHAUSTED if too many wait already."""
        if self._free > 0:
            self._free -= 1
        else:
            await self._wait(priority)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, priority: Priority) -> None:
        if self._live >= self._most_waiting:
            raise MeshError(
                Failure(
                    Code.RESOURCE_EXHAUSTED,
                    f"{self._live} models wait for a load already",
                    Fault.CAPACITY,
                    Reason.OVERLOADED,
                    retry_after_s=1.0,
                )
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sequence += 1
        heapq.heappush(self._waiting, (priority, self._sequence, turn))
        self._live += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()
            else:
                self._live -= 1
            raise

    def _pass_on(self) -> None:
        """A turn is free: the first who still waits gets it."""
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self._live -= 1
                turn.set_result(None)
                return
        self._free += 1
