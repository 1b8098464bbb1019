"""What the connections of one HTTP/1.1 server share: limits, clock, the turn, who is connected."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from modelmesh.wire import http1_heads as heads
from modelmesh.wire.transport import NO_METADATA, Call, Handler
from modelmesh.wire.turns import Turn


@dataclass(frozen=True, slots=True)
class Http1Limits:
    """What callers may ask of a server. Beyond each limit they get a clear status."""

    header_bytes: int = 8192  # all headers of a request: 431
    url_bytes: int = 32768  # 414
    body_bytes: int = 16 << 20  # 413
    head_s: float = 10.0  # from the first byte of a head to its last: 408
    body_s: float = 30.0  # silence within a body: 408
    idle_s: float = 65.0  # between requests, and for a reader that reads nothing: closed
    linger_s: float = 2.0  # reading on after a refusal, so that the caller can read it
    connections: int = 8192  # 503
    calls: int = 4096  # in all, unanswered: 429
    pipelined: int = 64  # unanswered on one connection: it is read no further
    unsent_bytes: int = 256 << 10  # of answers: the reply is slow


class Line(Protocol):
    """What a port asks of its connections."""

    def write(self) -> None:
        """Write what was gathered in this turn."""

    def check(self, now: float) -> None:
        """Has anything lasted too long?"""

    def drain(self) -> None:
        """Answer what has begun, then close."""

    def cut(self) -> None:
        """Close at once."""


class Port:
    """What the connections of one server share."""

    def __init__(
        self, handler: Handler, limits: Http1Limits, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.limits = limits
        self.loop = loop
        self.clock = loop.time
        self.turn = Turn(self._handle, loop.call_soon)
        self.connections: set[Line] = set()
        self.calls = 0
        self.draining = False
        self.date_line = self.plain_head = b""
        self._handler = handler
        self._unwritten: list[Line] = []
        self._handling = False
        self._empty: asyncio.Future[None] | None = None

    def date(self, date: str) -> None:
        """Tell the time that answers carry."""
        self.date_line = b"date: %b\r\n" % date.encode()
        head, _ = heads.answer_head(200, -1, NO_METADATA, self.date_line, False)
        self.plain_head = head[:-2] + b"content-length: "

    def write_later(self, connection: Line) -> None:
        """The connection has gathered something; it is written at the end of this turn."""
        if not self._unwritten and not self._handling:
            self.loop.call_soon(self._write)
        self._unwritten.append(connection)

    def leave(self, connection: Line) -> None:
        self.connections.discard(connection)
        if not self.connections and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    async def emptied(self, limit_s: float) -> bool:
        """Let go of every connection as soon as its calls are answered; whether all are gone."""
        self.draining = True
        for connection in list(self.connections):
            connection.drain()
        if self.connections:
            self._empty = self.loop.create_future()
            await asyncio.wait((self._empty,), timeout=limit_s)
        return not self.connections

    def cut(self) -> None:
        for connection in list(self.connections):
            connection.cut()

    def _handle(self, calls: list[Call]) -> None:
        self._handling = True
        try:
            self._handler(calls)
        finally:
            self._handling = False
            self._write()

    def _write(self) -> None:
        unwritten, self._unwritten = self._unwritten, []
        for connection in unwritten:
            connection.write()
