"""One request's place in the order of a connection's answers: the reply handle of HTTP/1.1.

What it says goes out at once if its turn has come, and waits with it otherwise.
"""

from collections.abc import Callable
from typing import Final, Protocol

import structlog

from modelmesh.errors import Code, Failure, Fault
from modelmesh.wire import http1_heads as heads
from modelmesh.wire.http1_port import Port
from modelmesh.wire.replies import OpenReply
from modelmesh.wire.transport import NO_METADATA, Body, Metadata

log = structlog.get_logger("wire")

_LARGE_BYTES: Final = 65536  # a body from here on costs more to copy than a write of its own
_BROKEN: Final = Failure(
    Code.INTERNAL, "the answer holds a header that HTTP must not carry", Fault.MODEL, executed=True
)


class Outlet(Protocol):
    """What an exchange asks of its connection."""

    port: Port
    stalled: bool

    def put(self, exchange: "Exchange", data: Body, last: bool) -> None:
        """Send these bytes when it is the exchange's turn; `last`: it has said all."""

    def settle(self, exchange: "Exchange") -> None:
        """Decide whether the connection lives on, before the head that says so is made."""


class Exchange(OpenReply):
    """One request's place in the order of answers, and the reply handle of its call."""

    __slots__ = (
        "_connection",
        "_streaming",
        "_wait",
        "bodiless",
        "chunked",
        "held",
        "keep",
        "plain",
    )

    def __init__(self, connection: Outlet, keep: bool, bodiless: bool, chunked: bool) -> None:
        super().__init__()
        self._connection = connection
        self._streaming = False
        self._wait: list[Callable[[], None]] | None = None
        self.keep = keep  # the connection lives on after this answer
        self.bodiless = bodiless  # a HEAD request
        self.chunked = chunked  # what HTTP/1.0 cannot read
        self.plain = keep and not bodiless  # a whole answer needs nothing but its length
        self.held: list[Body] = []  # said before its turn

    @property
    def slow(self) -> bool:
        if self.gone:
            return False
        connection = self._connection
        return connection.stalled or (
            bool(self.held) and sum(map(len, self.held)) > connection.port.limits.unsent_bytes
        )

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        if self.gone:
            return
        if metadata or self._streaming or not self.plain or len(body) >= _LARGE_BYTES:
            self._answer_with(200, body, metadata)
            return
        self.end()
        connection = self._connection
        head = connection.port.plain_head
        connection.put(self, b"".join((head, b"%d\r\n\r\n" % len(body), body)), True)

    def send(self, message: Body) -> None:
        if self.gone:
            return
        if not self._streaming:
            self._begin(NO_METADATA)
        if not self.bodiless and len(message):
            self._put_chunk(message)

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        if self.gone:
            return
        if failure is not None and not self._streaming:
            status, body, said = heads.failure_answer(failure)
            self._answer_with(status, body, said + metadata)
        elif self._streaming:
            self._end_stream(failure, metadata)
        else:
            self._answer_with(200, b"", metadata)

    def refuse(self, status: int, message: str) -> None:
        """The wire's own answer to what is no proper request."""
        self._answer_with(status, heads.error_body(message), NO_METADATA)

    def when_writable(self, callback: Callable[[], None]) -> None:
        if not self.slow:
            self._connection.port.loop.call_soon(callback)
        elif self._wait is None:
            self._wait = [callback]
        else:
            self._wait.append(callback)

    def writable(self) -> None:
        """There is room again: who waits for that is told."""
        callbacks, self._wait = self._wait or (), None
        for callback in callbacks:
            self._connection.port.loop.call_soon(callback)

    def _answer_with(self, status: int, body: Body, metadata: Metadata) -> None:
        if self._streaming:
            self.send(body)
            self._end_stream(None, metadata)
            return
        self.end()
        connection = self._connection
        connection.settle(self)
        date = connection.port.date_line
        try:
            head, with_body = heads.answer_head(status, len(body), metadata, date, not self.keep)
        except heads.UnsafeHeader as unsafe:
            log.error("an answer was replaced", why=str(unsafe))
            status, body, said = heads.failure_answer(_BROKEN)
            head, with_body = heads.answer_head(status, len(body), said, date, not self.keep)
        if self.bodiless or not with_body or not len(body):
            connection.put(self, head, True)
        elif len(body) < _LARGE_BYTES:
            connection.put(self, b"".join((head, body)), True)
        else:
            connection.put(self, head, False)
            connection.put(self, body, True)

    def _begin(self, metadata: Metadata) -> None:
        self._streaming = True
        date = self._connection.port.date_line
        length = None if self.chunked else -1
        head, _ = heads.answer_head(200, length, metadata, date, not self.keep)
        self._connection.put(self, head, False)

    def _put_chunk(self, message: Body) -> None:
        if self.chunked:
            message = b"".join((b"%x\r\n" % len(message), message, b"\r\n"))
        self._connection.put(self, message, False)

    def _end_stream(self, failure: Failure | None, metadata: Metadata) -> None:
        """The last chunk with its trailers; or none, so that a broken answer is seen to be one."""
        self.end()
        last = b""
        if failure is None and self.chunked and not self.bodiless:
            last = b"0\r\n%b\r\n" % _trailers(metadata)
        elif failure is not None:
            self.keep = False
            log.warning("an answer broke off", why=failure.message, code=failure.code.name)
        self._connection.put(self, last, True)


def _trailers(metadata: Metadata) -> bytes:
    try:
        return b"".join(heads.header_line(name, value) for name, value in metadata)
    except heads.UnsafeHeader as unsafe:
        log.error("trailers were left out", why=str(unsafe))
        return b""
