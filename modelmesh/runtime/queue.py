"""Who loads next: requests before background work, a bounded number at once.

Loads contend for disks, forks and hosts; a prefetch must never delay a caller. The queue only
orders and bounds: what a turn is used for is its caller's affair. Equal priorities keep their
order. A turn that is cancelled while it waits costs nothing, and leaves at once.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum

from modelmesh.errors import Code, Failure, Fault, MeshError, Reason


class Priority(IntEnum):
    """Smaller goes first."""

    REQUEST = 0
    BACKGROUND = 1


_Line = OrderedDict[asyncio.Future[None], None]


class LoadQueue:
    """At most `concurrency` turns run at once, at most `most_waiting` wait."""

    def __init__(self, concurrency: int, most_waiting: int) -> None:
        self._free = concurrency
        self._most_waiting = most_waiting
        self._lines = {priority: _Line() for priority in sorted(Priority)}

    @property
    def waiting(self) -> int:
        """Turns that wait."""
        return sum(map(len, self._lines.values()))

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
        waiting = self.waiting
        if waiting >= self._most_waiting:
            raise MeshError(
                Failure(
                    Code.RESOURCE_EXHAUSTED,
                    f"{waiting} models wait for a load already",
                    Fault.CAPACITY,
                    Reason.OVERLOADED,
                    retry_after_s=1.0,
                )
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line = self._lines[priority]
        line[turn] = None
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._pass_on()  # it came in this moment
            raise
        finally:
            line.pop(turn, None)

    def _pass_on(self) -> None:
        """A turn is free: the first who still waits gets it."""
        for line in self._lines.values():
            while line:
                turn, _ = line.popitem(last=False)
                if not turn.done():
                    turn.set_result(None)
                    return
        self._free += 1
