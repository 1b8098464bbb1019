"""A closed-loop load generator for machines without h2load: one process, pinned by its parent.

    python -m benchmarks.clients grpc|rest HOST:PORT CONNECTIONS STREAMS SECONDS BODY_FILE

Prints how many calls were answered. Costs more CPU than h2load, but on its own core, and what is
measured is the server's.
"""

import asyncio
import sys
from pathlib import Path

import grpc
import uvloop

from modelmesh.wire.kinds import MODEL_INFER


async def grpc_load(
    target: str, connections: int, streams: int, seconds: float, body: bytes
) -> int:
    """Keep `streams` calls open on each connection; the number answered."""
    end, done = asyncio.get_running_loop().time() + seconds, 0

    async def stream(call: grpc.aio.UnaryUnaryMultiCallable) -> None:
        nonlocal done
        while asyncio.get_running_loop().time() < end:
            await call(body, metadata=(("mm-model-id", "iris"),), timeout=20)
            done += 1

    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(target, options) for _ in range(connections)]
    calls = [channel.unary_unary(MODEL_INFER) for channel in channels]
    await asyncio.gather(*(stream(call) for call in calls for _ in range(streams)))
    for channel in channels:
        await channel.close()
    return done


async def rest_load(target: str, connections: int, seconds: float, body: bytes) -> int:
    """One V1 predict at a time on each connection; the number answered with 200."""
    host, _, port = target.partition(":")
    head = (
        f"POST /v1/models/iris:predict HTTP/1.1\r\nhost: {target}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    end, done = asyncio.get_running_loop().time() + seconds, 0

    async def connection() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection(host, int(port))
        while asyncio.get_running_loop().time() < end:
            writer.write(head + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            length = answer.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
            await reader.readexactly(int(length))
            done += 1
        writer.close()

    await asyncio.gather(*(connection() for _ in range(connections)))
    return done


def main() -> None:
    what, target, connections, streams, seconds, file = sys.argv[1:]
    body = Path(file).read_bytes()
    if what == "grpc":
        load = grpc_load(target, int(connections), int(streams), float(seconds), body)
    else:
        load = rest_load(target, int(connections) * int(streams), float(seconds), body)
    print(uvloop.run(load))


if __name__ == "__main__":
    main()
