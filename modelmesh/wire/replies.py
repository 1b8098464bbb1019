"""What the replies and inbound streams of all wires have in common. No sockets, no asyncio."""

from collections import deque
from collections.abc import Callable
from time import monotonic

import structlog

from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.wire.transport import NO_METADATA, Body, Call, Metadata, Reply

log = structlog.get_logger("wire")


class OpenReply:
    """The life of a reply: open, then ended (by the callee) or left (by the caller), once.

    A wire's reply adds where the bytes go, and begins `answer`, `send` and `finish` by asking
    `gone`.
    """

    __slots__ = ("_callbacks", "_left", "gone")

    def __init__(self) -> None:
        self.gone = False
        self._left = False
        self._callbacks: list[Callable[[], None]] | None = None

    def when_gone(self, callback: Callable[[], None]) -> None:
        if self._left:
            callback()
        elif not self.gone:
            if self._callbacks is None:
                self._callbacks = []
            self._callbacks.append(callback)

    def end(self) -> None:
        """The callee has said its last word."""
        self.gone = True
        self._callbacks = None

    def leave(self) -> None:
        """The caller has left: whoever works on the call is told, once."""
        if self.gone:
            return
        self.gone = self._left = True
        callbacks, self._callbacks = self._callbacks or (), None
        for callback in callbacks:
            try:
                callback()
            except Exception:
                log.exception("a callback for a caller that left failed")


class Passing:
    """A reply that passes everything on to another; subclasses change what they are for."""

    __slots__ = ("_reply",)

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    @property
    def gone(self) -> bool:
        return self._reply.gone

    @property
    def slow(self) -> bool:
        return self._reply.slow

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        self._reply.answer(body, metadata)

    def send(self, message: Body) -> None:
        self._reply.send(message)

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        self._reply.finish(failure, metadata)

    def when_gone(self, callback: Callable[[], None]) -> None:
        self._reply.when_gone(callback)

    def when_writable(self, callback: Callable[[], None]) -> None:
        self._reply.when_writable(callback)


class Messages:
    """The caller's further messages, kept until somebody listens."""

    __slots__ = ("_end", "_ended", "_kept", "_message", "kept_bytes")

    def __init__(self) -> None:
        self._kept: deque[Body] = deque()
        self._ended = False
        self._message: Callable[[Body], None] | None = None
        self._end: Callable[[], None] | None = None
        self.kept_bytes = 0

    def push(self, message: Body) -> None:
        """One more message. Nobody listens yet: `kept_bytes` grows, and the wire bounds it."""
        if self._message is not None:
            self._message(message)
        else:
            self._kept.append(message)
            self.kept_bytes += len(message)

    def close(self) -> None:
        """No more messages."""
        self._ended = True
        if self._end is not None:
            end, self._end = self._end, None
            end()

    def listen(self, message: Callable[[Body], None], end: Callable[[], None]) -> None:
        while self._kept:
            message(self._kept.popleft())
        self.kept_bytes = 0
        self._message = message
        if self._ended:
            end()
        else:
            self._end = end


def refused(call: Call, down: bool, most_bytes: int) -> bool:
    """Whether a caller's end ends this call unsent: it has left, is too late, too large, or down.

    What is too late when it starts is answered by the wire; what becomes too late while it runs is
    the business of whoever set the deadline, and leaves.
    """
    if call.reply.gone:
        return True
    if down:
        call.reply.finish(unavailable(executed=False))
    elif call.deadline <= monotonic():
        call.reply.finish(
            Failure(Code.DEADLINE_EXCEEDED, "deadline exceeded", reason=Reason.DEADLINE)
        )
    elif len(call.body) > most_bytes:
        call.reply.finish(too_large(len(call.body), most_bytes))
    else:
        return False
    return True


def unavailable(executed: bool) -> Failure:
    """The link went down."""
    return Failure(Code.UNAVAILABLE, "connection lost", Fault.PEER, executed=executed)


def too_large(size: int, most_bytes: int) -> Failure:
    """More than the wire carries in one message."""
    return Failure(
        Code.RESOURCE_EXHAUSTED,
        f"message of {size} bytes is larger than the limit of {most_bytes} bytes",
        reason=Reason.MESSAGE_TOO_LARGE,
    )
