"""An HTTP/1.1 server in a thread of its own, and a caller that writes bytes and reads answers.

The server's loop is a real one in another thread, so that tests can speak HTTP with plain blocking
sockets, and can hold the loop while they write: what is there when it goes on was read in one turn.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import pytest
import uvloop

from modelmesh.wire.http1 import Http1Limits, Http1Server
from modelmesh.wire.transport import Call, Handler
from tests.wire.harnesses import until

T = TypeVar("T")
BOUND_S = 30.0
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


class Answer:
    """One response as it stood on the wire."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)

    @property
    def said(self) -> tuple[int, bytes]:
        return self.status, self.body

    def __repr__(self) -> str:
        return f"<{self.status} {self.headers} {self.body[:80]!r}>"


class RawCaller:
    """A blocking socket that knows where an HTTP answer ends."""

    def __init__(self, port: int, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(BOUND_S)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self.file = self.socket.makefile("rb")

    def write(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self, *, bodiless: bool = False) -> Answer:
        """The next answer, 100 Continue included."""
        status_line = self.file.readline()
        assert status_line.startswith(b"HTTP/1.1 "), status_line
        headers: list[tuple[str, str]] = []
        while (line := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers.append((name, value.strip()))
        status, found = int(status_line[9:12]), dict(headers)
        if bodiless or status in (100, 204, 304):
            body = b""
        elif found.get("transfer-encoding") == "chunked":
            body = b"".join(self.chunks())
        elif "content-length" in found:
            body = self.file.read(int(found["content-length"]))
        else:
            body = self.file.read()
        return Answer(status, headers, body)

    def chunks(self) -> Iterator[bytes]:
        while size := int(self.file.readline(), 16):
            yield self.file.read(size)
            self.file.readline()
        while self.file.readline() not in (b"\r\n", b""):
            pass

    def ask(self, data: bytes) -> Answer:
        self.write(data)
        return self.read()

    def closed(self) -> bool:
        """Whether the server has closed its end (waits for it, within the bound)."""
        return self.file.read() == b""

    def close(self) -> None:
        self.file.close()
        self.socket.close()


class Running:
    """A server, its thread, and the calls that reached it."""

    def __init__(
        self,
        then: Callable[[Call], None],
        limits: Http1Limits | None,
        loop: str,
        handler: Handler | None,
    ) -> None:
        self.then = then
        self.lists: list[list[Call]] = []
        self.server = Http1Server(handler or self.handle, limits)
        self.loop = LOOPS[loop]()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.callers: list[RawCaller] = []
        self.wait(self.server.start("127.0.0.1"))
        self.port = self.server.port

    def handle(self, calls: list[Call]) -> None:
        self.lists.append(calls)
        for call in calls:
            self.then(call)

    @property
    def calls(self) -> list[Call]:
        return [call for calls in self.lists for call in calls]

    def wait(self, work: "asyncio.Future[T] | object") -> None:
        """Run a coroutine on the server's loop to its end."""
        asyncio.run_coroutine_threadsafe(work, self.loop).result(BOUND_S)  # type: ignore[arg-type]

    def at(self, act: Callable[[], T]) -> T:
        """Do something on the server's loop."""
        done: Future[T] = Future()
        self.loop.call_soon_threadsafe(lambda: done.set_result(act()))
        return done.result(BOUND_S)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait, on the loop, until the condition holds."""

        self.wait(until(condition, BOUND_S))

    @contextmanager
    def held(self) -> Iterator[None]:
        """The loop stands still: what is written meanwhile is read in one turn."""
        holding, free = threading.Event(), threading.Event()

        def hold() -> None:
            holding.set()
            free.wait(BOUND_S)

        self.loop.call_soon_threadsafe(hold)
        assert holding.wait(BOUND_S)
        try:
            yield
        finally:
            free.set()

    def caller(self, receive_buffer: int = 0) -> RawCaller:
        self.callers.append(RawCaller(self.port, receive_buffer))
        return self.callers[-1]

    def close(self) -> None:
        for caller in self.callers:
            caller.close()
        self.wait(self.server.drain(0))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(BOUND_S)
        self.loop.close()


def echo(call: Call) -> None:
    call.reply.answer(call.body)


def nothing(call: Call) -> None:
    """The answer comes later, from the test."""


@contextmanager
def running(
    then: Callable[[Call], None] = echo,
    limits: Http1Limits | None = None,
    loop: str = "uvloop",
    handler: Handler | None = None,
) -> Iterator[Running]:
    """A server that does `then` with every call (echoes it), or hands its lists to `handler`."""
    server = Running(then, limits, loop, handler)
    try:
        yield server
    finally:
        server.close()


Start = Callable[..., Running]


@pytest.fixture(params=LOOPS)
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """`running` without the `with`, on either kind of loop."""
    with ExitStack() as stack:
        yield lambda then=echo, **more: stack.enter_context(
            running(then, loop=request.param, **more)
        )


def post(path: str, body: bytes = b"", *headers: str) -> bytes:
    """A request as bytes."""
    lines = (f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "host: x", *headers)).encode() + b"\r\n\r\n"
