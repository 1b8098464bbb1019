"""One harness a wire: how the contract suite starts a caller and a callee that talk to each other.

A new wire adds its harness to HARNESSES. What a wire cannot do it says by a flag, and the tests
that need it are skipped with that reason.
"""

import asyncio
import queue
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from modelmesh.wire.framed import FramedLink
from modelmesh.wire.framed_blocking import FramedServer, NumberedCall
from modelmesh.wire.grpcio import GrpcServer
from modelmesh.wire.grpcio_caller import GrpcCaller
from modelmesh.wire.http1 import Http1Server
from modelmesh.wire.http1_caller import Http1Caller
from modelmesh.wire.loopback import LoopbackCaller
from modelmesh.wire.transport import Call, Caller, Handler, StreamingKinds


async def until(condition: Callable[[], Any], bound_s: float = 30.0) -> None:
    """Wait for the condition; fail after the bound."""
    end = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        await asyncio.sleep(0.002)


class Pulse:
    """Notes how long this loop, and with it all that lives on it, stood still at most.

    Where some are to react within a second, and a server may rightly think that they never will, a
    test that was kept still for as long shows nothing, and does it again.
    """

    TRIES = 5
    STILL_S = 0.4

    def __init__(self) -> None:
        self._longest_s = 0.0

    @property
    def steady(self) -> bool:
        """Whether it never stood still for long."""
        return self._longest_s < self.STILL_S

    @asynccontextmanager
    async def taken(self) -> AsyncIterator["Pulse"]:
        beating = asyncio.ensure_future(self._beat())
        try:
            yield self
        finally:
            await asyncio.sleep(0.01)  # a last beat
            beating.cancel()

    async def _beat(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            self._longest_s, last = max(self._longest_s, now - last), now


@dataclass
class Wire:
    """A caller, and the means to act at the other end."""

    caller: Caller
    at_callee: Callable[[Callable[[], object]], Awaitable[None]]  # run where the handler runs
    cut: Callable[[], Awaitable[None]]  # the callee's end vanishes
    close: Callable[[], Awaitable[None]]  # both ends, in order


class Harness(Protocol):
    """How to start a wire, and what it can do."""

    name: str
    streams: bool  # streaming kinds
    together: bool  # calls started in one turn arrive in one list, always
    cuts: bool  # the link can break
    says_unwritten: bool  # a call that never left is told from one that did
    counts: bool  # the callee, not the caller, says which kinds take one message

    async def start(self, handler: Handler, streaming: StreamingKinds = frozenset()) -> Wire:
        """A connected pair; calls made on it reach `handler`."""


async def here(act: Callable[[], object]) -> None:
    """The callee runs on the test's own loop."""
    act()


class Loopback:
    name = "loopback"
    streams = together = says_unwritten = True
    cuts = counts = False

    async def start(self, handler: Handler, streaming: StreamingKinds = frozenset()) -> Wire:
        caller = LoopbackCaller(handler)
        return Wire(caller, here, caller.close, caller.close)


class Framed:
    name = "framed"
    streams = together = cuts = says_unwritten = True
    counts = False

    async def start(self, handler: Handler, streaming: StreamingKinds = frozenset()) -> Wire:
        ours, theirs = socket.socketpair()
        caller, callee = FramedLink(ours), FramedLink(theirs, handler)

        async def close() -> None:
            await caller.close()
            await callee.close()

        return Wire(caller, here, callee.close, close)


class HostThread:
    """A `FramedServer` in a thread, as a host runs it; acts of the test run between its reads."""

    def __init__(self, sock: socket.socket, handler: Handler) -> None:
        self.acts: queue.SimpleQueue[tuple[Callable[[], object], threading.Event]] = (
            queue.SimpleQueue()
        )
        self.server = FramedServer(sock, self.handle)
        self.handler = handler
        self.thread = threading.Thread(target=self.server.serve, args=(self.act, lambda: 0.005))
        self.thread.start()

    def handle(self, calls: list[NumberedCall]) -> None:
        self.handler(list(calls))

    def act(self) -> None:
        while not self.acts.empty():
            act, done = self.acts.get()
            act()
            done.set()

    async def at(self, act: Callable[[], object]) -> None:
        done = threading.Event()
        self.acts.put((act, done))
        await until(done.is_set)

    async def stop(self) -> None:
        self.server.stop()
        await until(lambda: not self.thread.is_alive())


class FramedHost:
    name = "framed-blocking"
    together = cuts = says_unwritten = True
    streams = counts = False

    async def start(self, handler: Handler, streaming: StreamingKinds = frozenset()) -> Wire:
        ours, theirs = socket.socketpair()
        caller, host = FramedLink(ours), HostThread(theirs, handler)

        async def close() -> None:
            await caller.close()
            await host.stop()

        return Wire(caller, host.at, host.stop, close)


class Posting:
    """HTTP's kinds are "METHOD /path": this caller posts to the path that a kind is."""

    def __init__(self, caller: Http1Caller) -> None:
        self.caller = caller

    def start(self, call: Call) -> None:
        call.kind = f"POST {call.kind}"
        self.caller.start(call)

    async def close(self) -> None:
        await self.caller.close()


class Http1:
    name = "http1"
    cuts = says_unwritten = True
    streams = counts = False
    together = False  # calls of one turn leave over several connections, some of them new

    async def start(self, handler: Handler, streaming: StreamingKinds = frozenset()) -> Wire:
        def handle(calls: list[Call]) -> None:
            for call in calls:
                call.kind = call.kind.removeprefix("POST ")
            handler(calls)

        server = Http1Server(handle)
        await server.start("127.0.0.1")
        caller = Posting(Http1Caller("127.0.0.1", server.port))

        async def cut() -> None:
            await server.drain(0)

        async def close() -> None:
            await caller.close()
            await server.drain(1)

        return Wire(caller, here, cut, close)


class Grpc:
    """grpc.aio at both ends, over TCP or a unix socket."""

    streams = cuts = says_unwritten = counts = True
    together = False

    def __init__(self, unix: bool) -> None:
        self.name = "grpcio-unix" if unix else "grpcio-tcp"
        self.unix = unix

    async def start(self, handler: Handler, streaming: StreamingKinds = frozenset()) -> Wire:
        server = GrpcServer(handler, streaming)
        folder = tempfile.TemporaryDirectory(prefix="wire") if self.unix else None
        path = f"{folder.name}/s" if folder else ""
        await server.start(path=path)
        caller = GrpcCaller(f"unix:{path}" if path else f"127.0.0.1:{server.port}", streaming)

        async def cut() -> None:
            await server.drain(0)

        async def close() -> None:
            await caller.close()
            await server.drain(0)
            if folder:
                folder.cleanup()

        return Wire(caller, here, cut, close)


HARNESSES: list[Harness] = [
    Loopback(),
    Framed(),
    FramedHost(),
    Http1(),
    Grpc(unix=False),
    Grpc(unix=True),
]
