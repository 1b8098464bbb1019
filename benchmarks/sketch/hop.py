"""A sketch of the risky path: a call enters grpc.aio or HTTP/1, crosses a socketpair to a forked
host, and its answer returns.

`python -m benchmarks.sketch.hop [VARIANT ...]` compares modes (measure.py).
With `serve MODE PORT [OPTION ...]` it serves one: echo, shared, inline (gRPC), rest or rest-inline
(V1 JSON); that needs `iris.joblib` in $SKETCH_DIR (`... benchmarks.sketch.host fixtures FOLDER`).

Options: asyncio (not uvloop); transport (asyncio's, not add_reader); now (write at once, not once a
turn); hold (write only when the host has answered all it had); bare (the handler returns a future,
not a coroutine); batch (SCHED_BATCH in the host); cq (grpcio's completion queue, not grpc.aio).
"""

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any

import grpc
import httptools
import uvloop

from benchmarks.sketch import host

Done = Callable[[bytes], None]
HEAD = host.HEAD
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
METHOD = "/inference.GRPCInferenceService/ModelInfer"


class Zygote:
    """Asks a warm process for hosts; each gets a link and a journal, and sends its pidfd."""

    def __init__(self, *options: str) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fd = theirs.fileno()
        command = [sys.executable, "-m", "benchmarks.sketch.host", str(fd), *options]
        self.process = subprocess.Popen(
            command, pass_fds=[fd], env={**os.environ, **THREADS}, start_new_session=True
        )
        theirs.close()
        self.control.recv(64)

    def host(self) -> tuple[socket.socket, int]:
        ours, theirs = socket.socketpair()
        page = os.memfd_create("journal")
        os.ftruncate(page, host.PAGE)
        socket.send_fds(self.control, [b"fork"], [theirs.fileno(), page])
        theirs.close()
        os.close(page)
        _, fds, _, _ = socket.recv_fds(ours, 64, 1)
        return ours, fds[0]


class Link(asyncio.Protocol):
    """The daemon's end: calls of one turn leave in one write, answers go to callables."""

    def __init__(self, zygote: Zygote, now: bool, hold: bool) -> None:
        self.zygote = zygote  # kept: it ends when its control socket is collected
        self.loop, self.now, self.hold = asyncio.get_running_loop(), now, hold
        self.sock, _ = zygote.host()
        self.out: list[bytes] = []
        self.waiting: dict[int, Done] = {}
        self.last, self.held_after, self.buffer = 0, 0, bytearray()
        self.send: Callable[[bytes], Any] = self.send_some
        self.sock.setblocking(False)

    def call(self, kind: int, model: bytes, body: bytes, done: Done) -> None:
        self.last += 1
        self.waiting[self.last] = done
        if not self.out and not self.now and not (self.hold and len(self.waiting) > 1):
            self.loop.call_soon(self.flush)
        size = HEAD.size + 1 + len(model) + len(body)
        self.out += (HEAD.pack(size, self.last, kind), bytes((len(model),)), model, body)
        if self.now:
            self.flush()

    def flush(self) -> None:
        block, self.out = b"".join(self.out), []
        self.held_after = self.last
        self.send(block)

    def send_some(self, block: bytes) -> None:
        sent = self.sock.send(block)
        if sent < len(block):
            raise BufferError("the sketch keeps far less in flight than a socket buffer holds")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.send = transport.write  # type: ignore[attr-defined]

    def readable(self) -> None:
        self.data_received(self.sock.recv(1 << 18))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        at, have = 0, len(self.buffer)
        while have - at >= HEAD.size:
            size, ident, _ = HEAD.unpack_from(self.buffer, at)
            if have - at < size:
                break
            self.waiting.pop(ident)(bytes(self.buffer[at + HEAD.size : at + size]))
            at += size
        del self.buffer[:at]
        if self.hold and self.out and min(self.waiting) > self.held_after:
            self.flush()  # the host has answered all it had: hand it what gathered meanwhile


class Inline:
    """The same call, run in the daemon: what arrived in one turn is predicted together."""

    def __init__(self) -> None:
        self.loop, self.models = asyncio.get_running_loop(), host.Models()
        self.models.load(b"iris", os.environ["SKETCH_DIR"] + "/iris.joblib")
        self.work: list[tuple[int, bytes, bytes, Done]] = []

    def call(self, kind: int, model: bytes, body: bytes, done: Done) -> None:
        if not self.work:
            self.loop.call_soon(self.run)
        self.work.append((kind, model, body, done))

    def run(self) -> None:
        work, self.work = self.work, []
        for places in host.groups([(kind, model) for kind, model, _, _ in work]):
            kind, model = work[places[0]][:2]
            answers = self.models.answer(kind, model, [work[place][2] for place in places])
            for place, answer in zip(places, answers, strict=True):
                work[place][3](answer)


class Echo:
    def call(self, kind: int, model: bytes, body: bytes, done: Done) -> None:
        done(body)


Backend = Link | Inline | Echo


async def link_to_host(options: list[str]) -> Link:
    zygote = Zygote(*[name for name in options if name == "batch"])
    link, loop = Link(zygote, "now" in options, "hold" in options), asyncio.get_running_loop()
    if "transport" in options:
        await loop.create_connection(lambda: link, sock=link.sock)
    else:
        loop.add_reader(link.sock, link.readable)
    loaded: asyncio.Future[bytes] = loop.create_future()
    link.call(
        host.LOAD, b"iris", os.environ["SKETCH_DIR"].encode() + b"/iris.joblib", loaded.set_result
    )
    await loaded
    return link


class Infer:
    """What grpc.aio calls: a coroutine, or the future itself (`__await__` makes it await that)."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.new_future = backend, asyncio.get_running_loop().create_future

    def __call__(self, request: bytes, context: Any) -> "asyncio.Future[bytes]":
        future = self.new_future()
        model = next(value for key, value in context.invocation_metadata() if key == "mm-model-id")
        self.backend.call(host.INFER, model.encode(), request, partial(resolve, future))
        return future

    def __await__(self) -> Generator[Any, None, None]:
        raise TypeError("call it")

    async def wait(self, request: bytes, context: Any) -> bytes:
        return await self(request, context)


def resolve(future: "asyncio.Future[bytes]", body: bytes) -> None:
    if not future.done():  # the caller may have gone
        future.set_result(body)


async def echo(request: bytes, context: Any) -> bytes:
    return request


class Generic(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, handler: Callable[[bytes, Any], Awaitable[bytes]]) -> None:
        self.handler = grpc.unary_unary_rpc_method_handler(handler)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self.handler if details.method == METHOD else None


class Rest(asyncio.Protocol):
    """V1 over HTTP/1: the JSON goes on unparsed; one call at a time a connection."""

    path = re.compile(rb"/v1/models/([^/:]+):predict$")

    def __init__(self, backend: Backend) -> None:
        self.backend, self.parser = backend, httptools.HttpRequestParser(self)
        self.url = self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.url = self.body = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        match = self.path.match(self.url)
        if match:
            self.backend.call(host.PREDICT_JSON, match[1], self.body, self.reply)
        else:
            self.transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    def reply(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        if not self.transport.is_closing():  # the caller may have gone
            self.transport.write(head % len(body) + body)


async def serve(mode: str, port: int, options: list[str]) -> None:
    backend: Backend = (
        Echo() if mode == "echo" else Inline() if "inline" in mode else await link_to_host(options)
    )
    if mode.startswith("rest"):
        await asyncio.get_running_loop().create_server(lambda: Rest(backend), "127.0.0.1", port)
    elif "cq" in options:
        from benchmarks.sketch import completion

        completion.start(port, backend)
    else:
        server = grpc.aio.server()
        infer = Infer(backend)
        handler = infer if "bare" in options else echo if mode == "echo" else infer.wait
        server.add_generic_rpc_handlers([Generic(handler)])
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        run = asyncio.run if "asyncio" in sys.argv else uvloop.run
        run(serve(sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
    else:
        from benchmarks.sketch import measure

        measure.main()
