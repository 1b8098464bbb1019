"""Links to peers: opened by address, and closed without anybody waiting for it but the end.

A link outlives its use: the last call on it may just be ending, and closing takes a turn or more.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from modelmesh.observe.tasks import spawn
from modelmesh.wire.transport import Caller

Connect = Callable[[str], Caller]


class Lane:
    """One link to a peer, and how many calls are open on it. Retired: it takes no more."""

    __slots__ = ("caller", "calls", "retired")

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.calls = 0
        self.retired = False


class Links:
    """Opens lanes with `connect(address)`, and knows those that are closing."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._closing: set[asyncio.Task[Any]] = set()

    def open(self, address: str) -> Lane:
        return Lane(self._connect(address))

    def close(self, lane: Lane) -> None:
        """Close it in a while; what is open on it ends with UNAVAILABLE."""
        task = spawn(lane.caller.close(), "a link to a peer closes")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def closed(self) -> None:
        """Until all that are closing are closed: callers bound that themselves."""
        while self._closing:
            await asyncio.wait(self._closing)
