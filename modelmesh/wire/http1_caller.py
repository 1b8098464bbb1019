"""The calling end of HTTP/1.1, for the command line and tests: some connections, one call each.

A call's kind is "METHOD /path"; `:query` in its metadata is the query string. An answer that is not
2xx finishes the reply with the failure that it tells; chunks arrive as messages. Giving a call up
closes its connection, since HTTP/1.1 has no other way to say so. HEAD is not spoken.

The daemons never use it among themselves.
"""

import asyncio
from collections import deque
from functools import partial
from math import ceil
from time import monotonic
from typing import Any, Final, cast

import httptools
import structlog

from modelmesh.errors import Code, Failure, Fault
from modelmesh.wire import http1_heads as heads
from modelmesh.wire.replies import refused, too_large, unavailable
from modelmesh.wire.transport import NO_DEADLINE, Body, Call, Metadata, text

log = structlog.get_logger("wire")

_CONNECT_S: Final = 5.0
_CLOSE_S: Final = 1.0
_MOST_WAITING: Final = 4096
_LARGE_BYTES: Final = 65536  # a body from here on costs more to copy than a write of its own


class Http1Caller:
    """A `Caller` to one address over at most `connections` kept-alive connections."""

    def __init__(
        self, host: str, port: int, *, connections: int = 16, most_bytes: int = 64 << 20
    ) -> None:
        self.address = f"{host}:{port}"
        self.most_bytes = most_bytes
        self._host, self._port = host, port
        self._most = connections
        self._lines: set[_Line] = set()
        self._idle: list[_Line] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[Call] = deque()
        self._closed = False
        self._quiet = asyncio.Event()

    def start(self, call: Call) -> None:
        if refused(call, self._closed, self.most_bytes):
            return
        if len(self._waiting) >= _MOST_WAITING:
            call.reply.finish(Failure(Code.RESOURCE_EXHAUSTED, "too many calls", Fault.CAPACITY))
        elif self._idle:
            self._idle.pop().send(call)
        else:
            self._waiting.append(call)
            self._open()

    async def close(self) -> None:
        self._closed = True
        for task in self._opening:
            task.cancel()
        self._fail_waiting()
        for line in self._lines:
            line.cut()
        if self._opening:
            await asyncio.wait(self._opening, timeout=_CLOSE_S)
        if self._lines:
            self._quiet.clear()
            await asyncio.wait_for(self._quiet.wait(), _CLOSE_S)

    # --- what lines say

    def free(self, line: "_Line") -> None:
        """The line has nothing to do."""
        while self._waiting:
            call = self._waiting.popleft()
            if not call.reply.gone:
                line.send(call)
                return
        self._idle.append(line)

    def lost(self, line: "_Line") -> None:
        """The line is down; what waits for one gets another."""
        self._lines.discard(line)
        if line in self._idle:
            self._idle.remove(line)
        if not self._lines:
            self._quiet.set()
        if self._waiting and not self._closed:
            self._open()

    # --- within

    def _open(self) -> None:
        if len(self._lines) + len(self._opening) >= self._most:
            return
        name = f"http1 connect {self.address}"
        task = asyncio.get_running_loop().create_task(self._connect(), name=name)
        self._opening.add(task)
        task.add_done_callback(self._opened)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        opening = loop.create_connection(lambda: _Line(self), self._host, self._port)
        _, line = await asyncio.wait_for(opening, _CONNECT_S)
        self._lines.add(line)
        self.free(line)

    def _opened(self, task: asyncio.Task[None]) -> None:
        """The guard of a connect: whatever went wrong ends the calls that wait for it."""
        self._opening.discard(task)
        if task.cancelled():
            return
        failure = task.exception()
        if failure is not None:
            log.info("no connection", address=self.address, why=repr(failure))
            if not self._lines and not self._opening:
                self._fail_waiting()

    def _fail_waiting(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            call.reply.finish(unavailable(executed=False))


class _Line(asyncio.Protocol):
    """One connection and the call that is on it."""

    def __init__(self, caller: Http1Caller) -> None:
        self._caller = caller
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._call: Call | None = None
        self._resting = False
        self.on_message_begin()

    def send(self, call: Call) -> None:
        method, _, target = call.kind.partition(" ")
        try:
            if method == "HEAD":
                raise heads.UnsafeHeader("HEAD is not spoken")
            head = _request_head(method, target, self._caller.address, call)
        except heads.UnsafeHeader as unsafe:
            call.reply.finish(Failure(Code.INVALID_ARGUMENT, str(unsafe)))
            self._caller.free(self)
            return
        self._call = call
        call.reply.when_gone(partial(self._leave, call))
        if self._transport is not None and self._call is call:
            self._write(self._transport, head, call.body)

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # --- what the loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        call, self._call = self._call, None
        self._parser = self._transport = None
        self._caller.lost(self)
        if call is not None:
            call.reply.finish(unavailable(executed=True))

    def data_received(self, data: bytes) -> None:
        if self._call is None:
            self.cut()  # an answer that nobody asked for
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._end(Failure(Code.INTERNAL, f"bad answer: {error}", Fault.PEER, executed=True))
            self.cut()

    # --- what the parser tells

    def on_message_begin(self) -> None:
        self._headers: dict[str, str] = {}
        self._metadata: list[tuple[str, str | bytes]] = []
        self._body = bytearray()
        self._status = 0
        self._chunked = False

    def on_header(self, name: bytes, value: bytes) -> None:
        known, said = name.lower().decode("latin-1"), value.decode("latin-1")
        self._headers[known] = said
        self._chunked |= known == "transfer-encoding"
        if known.endswith("-bin"):
            self._metadata.append((known, heads.decoded_bin(value)))
        elif known not in heads.FRAMING:
            self._metadata.append((known, said))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, chunk: bytes) -> None:
        size, most = len(self._body) + len(chunk), self._caller.most_bytes
        if size > most:
            self._end(too_large(size, most))
            self.cut()
        self._body += chunk

    def on_chunk_complete(self) -> None:
        if self._call is None or not self._body or not self._ok:
            return
        reply, message = self._call.reply, bytes(self._body)
        self._body.clear()
        reply.send(message)
        if reply.slow and self._transport is not None:
            self._transport.pause_reading()
            reply.when_writable(self._go_on)

    def on_message_complete(self) -> None:
        if 100 <= self._status < 200:
            return
        if self._ok:
            self._end(None)
        else:
            self._end(heads.failure_of(self._status, self._headers, bytes(self._body)))
        if self._parser.should_keep_alive():
            asyncio.get_running_loop().call_soon(self._rest)
        else:
            self.cut()

    # --- within

    @property
    def _ok(self) -> bool:
        return 200 <= self._status < 300

    def _end(self, failure: Failure | None) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        metadata: Metadata = tuple(self._metadata)
        if failure is not None or self._chunked:
            call.reply.finish(failure, metadata)
        else:
            call.reply.answer(bytes(self._body), metadata)

    def _rest(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._caller.free(self)

    @staticmethod
    def _write(transport: asyncio.Transport, head: bytes, body: Body) -> None:
        """Not by `writelines`: from Python 3.12 on an empty block at its end is never sent off.

        Its transport then turns without end, and does not notice that its peer is gone.
        """
        if len(body) < _LARGE_BYTES:
            transport.write(b"".join((head, body)))
        else:
            transport.write(head)
            transport.write(body)

    def _leave(self, call: Call) -> None:
        if self._call is call:
            self._call = None
            self.cut()

    def _go_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()


def _request_head(method: str, target: str, host: str, call: Call) -> bytes:
    lines: list[bytes] = []
    for name, value in call.metadata:
        if name == heads.QUERY:
            target = f"{target}?{text(value)}"
        elif name not in ("host", heads.TIMEOUT):
            lines.append(heads.header_line(name, value))
    if call.deadline != NO_DEADLINE:
        left_s = call.deadline - monotonic()
        lines.append(b"mm-timeout-ms: %d\r\n" % max(1, ceil(left_s * 1000)))
    return heads.request_head(method, target, host, len(call.body), lines)
