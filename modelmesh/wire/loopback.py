"""The wire in memory: calls started in one turn of the loop reach the handler together in the next.

For tests, simulations and whatever runs in the daemon's own process. Bodies are handed on as they
are, never copied; nothing is ever slow but the caller itself.
"""

import asyncio
from collections.abc import Callable

from modelmesh.errors import Failure
from modelmesh.wire.replies import OpenReply, refused, unavailable
from modelmesh.wire.transport import NO_METADATA, Body, Call, Handler, Metadata
from modelmesh.wire.turns import Turn

_NO_LIMIT = 1 << 62


class LoopbackCaller:
    """A `Caller` straight to a handler in this process."""

    def __init__(self, handler: Handler) -> None:
        self._turn = Turn(self._hand_on, asyncio.get_running_loop().call_soon)
        self._handler = handler
        self._open: dict[_LoopbackReply, None] = {}
        self._closed = False

    def start(self, call: Call) -> None:
        if refused(call, self._closed, _NO_LIMIT):
            return
        reply = _LoopbackReply(call, self._open)
        call.reply.when_gone(reply.leave)
        self._turn.add(
            Call(call.kind, call.body, reply, call.metadata, call.deadline, call.inbound)
        )

    async def close(self) -> None:
        self._closed = True
        for reply in list(self._open):
            reply.lose()

    def _hand_on(self, calls: list[Call]) -> None:
        there = [call for call in calls if not call.reply.gone]
        if there:
            self._handler(there)


class _LoopbackReply(OpenReply):
    """Passes everything on to the caller's reply, until either side has ended it."""

    __slots__ = ("_call", "_open")

    def __init__(self, call: Call, open_replies: "dict[_LoopbackReply, None]") -> None:
        super().__init__()
        self._call = call
        self._open = open_replies
        open_replies[self] = None

    @property
    def slow(self) -> bool:
        return not self.gone and self._call.reply.slow

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        if not self.gone:
            self.end()
            self._call.reply.answer(body, metadata)

    def send(self, message: Body) -> None:
        if not self.gone:
            self._call.reply.send(message)

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        if not self.gone:
            self.end()
            self._call.reply.finish(failure, metadata)

    def when_writable(self, callback: Callable[[], None]) -> None:
        self._call.reply.when_writable(callback)

    def end(self) -> None:
        super().end()
        self._open.pop(self, None)

    def leave(self) -> None:
        super().leave()
        self._open.pop(self, None)

    def lose(self) -> None:
        """The link is given up: the callee's caller has left, the caller's callee is gone."""
        self.leave()
        self._call.reply.finish(unavailable(executed=True))
