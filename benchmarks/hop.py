"""What a forward costs: CPU of the daemon in between per request, and of nothing but the hop.

python -m benchmarks.hop [requests] [in flight]

Three processes: a client, a forwarder (measured), and the one that answers. The forwarder is, in
turn, `peers` between a `GrpcServer` and a `PeerPort`, and a plain grpc.aio handler that calls a
grpc.aio stub: what any forwarder in Python pays before anything of ours runs. `answer` is what the
forwarder costs when it answers by itself, so the difference is the hop alone.
"""

import asyncio
import os
import subprocess
import sys
import time
from typing import Any

import grpc
import uvloop

from modelmesh.domain.fleet import Hops, Intent
from modelmesh.domain.instances import InstanceRecord
from modelmesh.peers.channels import grpc_peers
from modelmesh.peers.port import PeerPort
from modelmesh.wire.grpcio import GrpcServer
from modelmesh.wire.kinds import MODEL_INFER
from modelmesh.wire.transport import Call

BODY_BYTES = 400
MODEL = "iris"
ROUNDS = 3


async def serve_holder() -> int:
    """The daemon that has the model."""
    port = PeerPort("b", lambda _model, _hops, call: call.reply.answer(call.body), int, _now)
    server = GrpcServer(port)
    await server.start()
    return server.port


async def serve_peers(target: int) -> int:
    """The forwarder, ours."""
    peers = grpc_peers("a")
    peers.update({"b": InstanceRecord(start_ms=1, address=f"127.0.0.1:{target}")})
    hops = Hops(Intent.HIT, "a")

    def forward(calls: list[Call]) -> None:
        for call in calls:
            peers.call("b", hops, MODEL, call, _nothing)

    server = GrpcServer(forward)
    await server.start()
    return server.port


async def serve_answers(_target: int) -> int:
    """The forwarder, without the hop."""

    def answer(calls: list[Call]) -> None:
        for call in calls:
            call.reply.answer(call.body)

    server = GrpcServer(answer)
    await server.start()
    return server.port


async def serve_plain(target: int) -> int:
    """The forwarder, with grpc.aio and nothing else."""
    stub = grpc.aio.insecure_channel(f"127.0.0.1:{target}").unary_unary(MODEL_INFER)
    hops = (("mm-hop-intent", "hit"), ("mm-hop-sender", "a"), ("mm-hop-model-bin", MODEL.encode()))

    async def forward(request: bytes, _context: Any) -> Any:
        return await stub(request, metadata=hops)

    class Everything(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, _details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(forward)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Everything()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _kept.append(server)
    return int(port)


_kept: list[Any] = []
FORWARDERS = {"answer": serve_answers, "plain": serve_plain, "peers": serve_peers}


async def serve(what: str, target: int) -> None:
    port = await (serve_holder() if what == "holder" else FORWARDERS[what](target))
    print(port, flush=True)
    await asyncio.Event().wait()


def start(what: str, target: int = 0) -> tuple["subprocess.Popen[str]", int]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.hop", what, str(target)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


async def load(port: int, requests: int, in_flight: int) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub, body = channel.unary_unary(MODEL_INFER), b"x" * BODY_BYTES

        async def client() -> None:
            for _ in range(requests // in_flight):
                assert await stub(body) == body

        await asyncio.gather(*(client() for _ in range(in_flight)))


def cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(what: str, target: int, requests: int, in_flight: int) -> float:
    """CPU microseconds of the forwarder per request."""
    process, port = start(what, target)
    try:
        uvloop.run(load(port, in_flight * 20, in_flight))
        before = cpu_s(process.pid)
        uvloop.run(load(port, requests, in_flight))
        return (cpu_s(process.pid) - before) / requests * 1e6
    finally:
        process.kill()
        process.wait()


def main(requests: int, in_flight: int) -> None:
    holder, target = start("holder")
    try:
        print(f"{requests} requests of {BODY_BYTES} bytes, {in_flight} in flight; CPU us a request")
        for _ in range(ROUNDS):
            taken = {what: measure(what, target, requests, in_flight) for what in FORWARDERS}
            print("  ".join(f"{what} {us:6.0f}" for what, us in taken.items()), flush=True)
    finally:
        holder.kill()
        holder.wait()


def _now() -> float:
    return time.monotonic()


def _nothing() -> None:
    """A router would route again."""


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].isdigit():
        uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
    else:
        main(*[int(given) for given in sys.argv[1:]] or (6000, 16))
