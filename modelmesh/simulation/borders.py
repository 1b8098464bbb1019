"""Where one simulated process ends and the next begins.

A real network hands bytes over; here objects cross, and with them the context that says whose work
it is. Calls to a daemon run as that daemon, and answers run as the one who asked: else the timers
of one would stop when the other is killed.
"""

import asyncio
from collections.abc import Callable

from modelmesh.errors import Failure, MeshError
from modelmesh.peers.headers import HEALTH
from modelmesh.peers.memory import MemoryLink
from modelmesh.simulation.clock import Life
from modelmesh.wire.replies import OpenReply, Passing, unavailable
from modelmesh.wire.transport import NO_METADATA, Body, Call, Handler, Metadata, Reply


class Answering(Passing):
    """A reply whose asker lives elsewhere. The dead hear nothing."""

    __slots__ = ("_life",)

    def __init__(self, reply: Reply, life: Life) -> None:
        super().__init__(reply)
        self._life = life

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        if not self._life.dead:
            self._life.post(self._reply.answer, body, metadata)

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        if not self._life.dead:
            self._life.post(self._reply.finish, failure, metadata)


class Asked(OpenReply):
    """The reply of a caller outside the fleet. That he has left is news at the daemon only when
    the daemon hears of it; what comes after that he does not hear."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        super().__init__()
        self.future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    @property
    def slow(self) -> bool:
        return False

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        if not self.gone:
            self.end()
            if not self.future.done():
                self.future.set_result(bytes(body))

    def send(self, message: Body) -> None:
        """A prediction is one message."""

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        if not self.gone:
            self.end()
            self.lose(failure or unavailable(executed=True))

    def lose(self, failure: Failure) -> None:
        """The caller hears of this, whatever the daemon does."""
        if not self.future.done():
            self.future.set_exception(MeshError(failure))

    def when_writable(self, callback: Callable[[], None]) -> None:
        callback()


class BorderLink:
    """A `Caller` of one daemon over the network."""

    def __init__(self, link: MemoryLink, life: Life) -> None:
        self._link = link
        self._life = life

    def start(self, call: Call) -> None:
        reply = Answering(call.reply, self._life)
        self._link.start(Call(call.kind, call.body, reply, call.metadata, call.deadline))

    async def close(self) -> None:
        await self._link.close()


def border(handler: Handler, life: Life, came: Callable[[Call], None]) -> Handler:
    """The daemon's handler for calls from outside; `came` hears of each forwarded one."""

    def hand_over(calls: list[Call]) -> None:
        if life.dead:
            return
        for call in calls:
            if call.kind != HEALTH:
                came(call)
        life.post(handler, calls)

    return hand_over
