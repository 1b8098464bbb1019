"""One HTTP/1.1 connection: the asyncio protocol and httptools' callbacks.

Requests go in, answers come out in the order of the requests. Everything a caller controls is
bounded: head, URL, body, silence, pipelining, calls, connections. What breaks HTTP's rules is
answered once and the connection closed, since nothing after it can be trusted to be a request.
"""

import asyncio
import time
from collections import deque
from typing import Any, Final, cast

import httptools

from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.wire import http1_heads as heads
from modelmesh.wire.http1_exchange import Exchange
from modelmesh.wire.http1_port import Port
from modelmesh.wire.transport import NO_DEADLINE, Body, Call

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%b"
) % (32, heads.error_body("too many connections"))
_BUSY: Final = Failure(
    Code.RESOURCE_EXHAUSTED, "too many calls", Fault.CAPACITY, Reason.OVERLOADED, 1.0
)
# Header names as they come and as metadata has them. It learns, up to a bound.
_NAMES: dict[bytes, str] = {}
_MOST_NAMES: Final = 1024
_LONGEST_NAME: Final = 64


class _Refused(Exception):
    """Raised through httptools' callbacks to stop the parser; becomes the connection's answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Connection(asyncio.Protocol):
    """One caller's connection."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self.stalled = False  # the caller reads too slowly
        self._transport: asyncio.Transport = _NOWHERE
        self._parser: Any = httptools.HttpRequestParser(self)
        self._queue: deque[Exchange] = deque()  # unanswered, or answered out of turn
        self._out: list[Body] = []  # gathered in this turn
        self._since = port.clock()  # when the present silence, head or stall began
        self._in_head = False
        self._reading: Exchange | None = None  # its body comes
        self._deaf = False  # nothing that comes is a request any more
        self._lingers = False  # ... but is read for a while, see Http1Limits.linger_s
        self._resting = False  # reading is paused
        self._silent_bytes = 0  # fed to the parser since it last had anything to say
        self._forget()

    def _forget(self) -> None:
        self._url = b""
        self._method = ""
        self._metadata: list[tuple[str, str | bytes]] = []
        self._head_bytes = 0
        self._length = 0
        self._body: bytes | bytearray = b""
        self._deadline = NO_DEADLINE
        self._expects = self._upgrades = self._chunked = False

    # --- what the loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        port = self.port
        if len(port.connections) >= port.limits.connections or port.draining:
            self._deaf = True
            transport.write(_FULL)
            transport.close()
            return
        transport.set_write_buffer_limits(high=port.limits.unsent_bytes)
        port.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf = True
        self.port.leave(self)
        queue, self._queue = self._queue, deque()
        self.port.calls -= len(queue)
        self._out.clear()
        self._parser = None
        for exchange in queue:
            exchange.leave()

    def pause_writing(self) -> None:
        self.stalled = True
        self._since = self.port.clock()
        self._throttle()

    def resume_writing(self) -> None:
        self.stalled = False
        self._since = self.port.clock()
        self._throttle()
        if self._queue:
            self._queue[0].writable()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._silent_bytes += len(data)
        upgrade_at: int | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            upgrade_at = stopped.args[0]
        except httptools.HttpParserError as error:
            self._refuse(error)
        if upgrade_at is not None:  # out here, since errors tell their cause by their context
            self._go_on_without_upgrade(data[upgrade_at:])
        if self._reading is not None:
            self._since = self.port.clock()
        limits = self.port.limits
        if self._silent_bytes > limits.header_bytes + limits.url_bytes:
            self._refuse(_Refused(431, "the request's head is too large"))

    # --- what the parser tells

    def on_message_begin(self) -> None:
        self._forget()
        self._in_head = True
        self._since = self.port.clock()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading is not None:
            return  # a trailer: nothing that we need
        self._head_bytes += len(name) + len(value) + 4
        known = _NAMES.get(name)
        if known is None:
            self._rare_header(name, value)
        else:
            self._metadata.append((known, value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        parser, port = self._parser, self.port
        self._in_head = False
        self._check_head()
        self._method = method = parser.get_method().decode()
        if method == "CONNECT":
            raise _Refused(405, "this is not a proxy")
        if self._upgrades and parser.should_upgrade():
            return  # the parser stops here: see _go_on_without_upgrade
        version = parser.get_http_version()
        if version != "1.1" and version != "1.0":
            raise _Refused(505, "HTTP/1.1 is spoken here")
        keep = version == "1.1" and parser.should_keep_alive()
        self._reading = exchange = Exchange(self, keep, method == "HEAD", version == "1.1")
        exchange.plain &= not port.draining
        self._since = port.clock()
        self._open(exchange)
        if self._expects and exchange.chunked:
            self.put(exchange, _CONTINUE, False)

    def on_body(self, chunk: bytes) -> None:
        self._silent_bytes = 0
        body = self._body
        if len(body) + len(chunk) > self.port.limits.body_bytes:
            raise self._too_large()
        if not body:
            self._body = chunk
        elif isinstance(body, bytearray):
            body += chunk
        else:
            self._body = bytearray(body) + chunk

    def on_message_complete(self) -> None:
        exchange = self._reading
        if exchange is None:
            return
        self._reading = None
        self._silent_bytes = 0
        self._deaf = not exchange.keep
        port = self.port
        if len(self._queue) >= port.limits.pipelined:
            self._throttle()
        if port.calls > port.limits.calls:
            exchange.finish(_BUSY)
            return
        kind, metadata = self._kind(), tuple(self._metadata)
        port.turn.add(Call(kind, self._body, exchange, metadata, self._deadline))

    # --- what exchanges say

    def put(self, exchange: Exchange, data: Body, last: bool) -> None:
        """Bytes of one answer: on their way if it is its turn, else kept with it."""
        queue = self._queue
        if queue[0] is not exchange:
            exchange.held.append(data)
            return
        if len(queue) == 1 and not self._out:
            self._transport.write(data)
        else:
            self._gather((data,))
        if last:
            self._next()

    def settle(self, exchange: Exchange) -> None:
        """Before its head is made: the last answer of a connection in a drain says so."""
        if self.port.draining and self._reading is None and self._queue[-1] is exchange:
            exchange.keep = False
            self._deaf = True

    def write(self) -> None:
        """Write what was gathered."""
        out, self._out = self._out, []
        if out:
            self._transport.write(b"".join(out))

    # --- what the server says

    def check(self, now: float) -> None:
        """The sweep: has anything lasted too long?"""
        quiet_s, limits = now - self._since, self.port.limits
        if self.stalled:
            if quiet_s > limits.idle_s:
                self._transport.abort()
        elif self._lingers:
            if not self._queue and quiet_s > limits.linger_s:
                self._transport.abort()
        elif self._resting:
            return  # nothing can come, and that is our own doing
        elif self._in_head:
            if quiet_s > limits.head_s:
                self._refuse(_Refused(408, "the request's head did not come in time"))
        elif self._reading is not None:
            if quiet_s > limits.body_s:
                self._refuse(_Refused(408, "the request's body did not come in time"))
        elif not self._queue and quiet_s > limits.idle_s:
            if self._transport.is_closing():  # and has not got rid of its last answer since
                self._transport.abort()
            else:
                self._transport.close()

    def drain(self) -> None:
        """No more requests than those that have begun."""
        for exchange in self._queue:
            exchange.plain = False
        self._close_if_idle()

    def cut(self) -> None:
        self._transport.abort()

    # --- within

    def _open(self, exchange: Exchange) -> None:
        self._queue.append(exchange)
        self.port.calls += 1

    def _next(self) -> None:
        """An answer is complete: what the next ones have said already follows."""
        queue = self._queue
        keep = queue.popleft().keep
        self.port.calls -= 1
        while keep and queue:
            first = queue[0]
            self._gather(first.held)
            first.held = []
            if not first.gone:
                first.writable()
                break
            keep = queue.popleft().keep
            self.port.calls -= 1
        if not keep:
            self._close()
        elif not queue:
            self._since = self.port.clock()
            if self.port.draining:
                self._close_if_idle()
        if self._resting:
            self._throttle()

    def _gather(self, blocks: "list[Body] | tuple[Body, ...]") -> None:
        if blocks and not self._out:
            self.port.write_later(self)
        self._out += blocks

    def _close(self) -> None:
        self.write()
        self._deaf = True
        if self._lingers and self._transport.can_write_eof():
            self._transport.write_eof()
            self._since = self.port.clock()
        else:
            self._transport.close()

    def _close_if_idle(self) -> None:
        if not self._queue and not self._in_head and self._reading is None:
            self._close()

    def _throttle(self) -> None:
        """Read only while the caller reads, and only so many requests ahead."""
        calls = len(self._queue) - (self._reading is not None)
        rest = self.stalled or calls >= self.port.limits.pipelined
        if rest == self._resting or self._transport.is_closing():
            return
        self._resting = rest
        if rest:
            self._transport.pause_reading()
        else:
            self._since = self.port.clock()
            self._transport.resume_reading()

    def _refuse(self, error: Exception) -> None:
        """Not a request that we take: say why, after the answers that are due, and close."""
        if self._deaf:
            return
        self._deaf = self._lingers = True
        self._in_head = False
        cause = error if isinstance(error, _Refused) else error.__context__
        if not isinstance(cause, _Refused):
            cause = _Refused(400, f"bad request: {error}")
        exchange = self._reading
        if exchange is None:
            exchange = Exchange(self, False, False, True)
            self._open(exchange)
        self._reading = None
        exchange.keep = exchange.plain = False
        exchange.refuse(cause.status, str(cause))

    def _rare_header(self, name: bytes, value: bytes) -> None:
        """A name seen for the first time, or one that means something to the wire."""
        known = name.lower().decode("latin-1")
        if known == "content-length":
            self._length = int(value)
        elif known in heads.FRAMING or known == "host":
            self._upgrades |= known == "upgrade"
            self._chunked |= known == "transfer-encoding"
            if known == "transfer-encoding" and value.lower() != b"chunked":
                raise _Refused(501, "the only transfer coding known here is chunked")
        elif known == heads.TIMEOUT:
            self._deadline = _deadline(value)
        elif known == "expect":
            self._expects = value.lower() == b"100-continue"
        elif known.endswith("-bin"):
            self._metadata.append((known, _decoded(value)))
        else:
            self._metadata.append((known, value.decode("latin-1")))
            if len(_NAMES) < _MOST_NAMES and len(name) <= _LONGEST_NAME:
                _NAMES[name] = known

    def _check_head(self) -> None:
        limits = self.port.limits
        if len(self._url) > limits.url_bytes:
            raise _Refused(414, f"the URL is longer than {limits.url_bytes} bytes")
        if self._head_bytes > limits.header_bytes:
            raise _Refused(431, f"the headers are larger than {limits.header_bytes} bytes")
        if self._length > limits.body_bytes:
            raise self._too_large()

    def _too_large(self) -> _Refused:
        return _Refused(413, f"the body is larger than {self.port.limits.body_bytes} bytes")

    def _kind(self) -> str:
        url = self._url.decode("latin-1")
        if not url.startswith("/") and "://" in url:
            url = "/" + url.partition("://")[2].partition("/")[2]
        path, mark, query = url.partition("?")
        if mark:
            self._metadata.append((heads.QUERY, query))
        return f"{self._method} {path}"

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """`Upgrade` may be ignored, but the parser stops there: go on with one that never saw it.

        Not rare: Java's HTTP client asks for h2c in the first request of every connection.
        """
        lines = [b"%b %b HTTP/1.1" % (self._method.encode(), self._url)]
        if self._chunked:
            lines.append(b"transfer-encoding: chunked")
        elif self._length:
            lines.append(b"content-length: %d" % self._length)
        if self._expects:
            lines.append(b"expect: 100-continue")
        if self._deadline != NO_DEADLINE:
            left_s = max(0.0, self._deadline - time.monotonic())
            lines.append(b"mm-timeout-ms: %d" % (left_s * 1000))
        metadata = b"".join(heads.header_line(name, value) for name, value in self._metadata)
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(b"%b\r\n%b\r\n%b" % (b"\r\n".join(lines), metadata, rest))


def _deadline(value: bytes) -> float:
    """`mm-timeout-ms`: milliseconds from now, as an integer from 1 to 10 digits."""
    if not value.isdigit() or len(value) > 10:
        raise _Refused(400, f"{heads.TIMEOUT} is not a number of milliseconds")
    return time.monotonic() + int(value) / 1000


def _decoded(value: bytes) -> bytes:
    try:
        return heads.decoded_bin(value)
    except heads.UnsafeHeader as unsafe:
        raise _Refused(400, str(unsafe)) from None


class _Nowhere(asyncio.Transport):
    """Stands where a connection's transport will be."""


_NOWHERE: Final = _Nowhere()
