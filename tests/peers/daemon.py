"""A peer in a process of its own: python -m tests.peers.daemon ID [PORT]; prints its port.

It answers every call but those that say "keep", and ends with its standard input.
"""

import asyncio
import sys
from time import monotonic

from modelmesh.domain.fleet import Hops
from modelmesh.peers.port import PeerPort
from modelmesh.wire.grpcio import GrpcServer
from modelmesh.wire.transport import Call


def _serve(_model_id: str, _hops: Hops, call: Call) -> None:
    if call.body != b"keep":
        call.reply.answer(call.body)


async def main(instance_id: str, port: int) -> None:
    server = GrpcServer(PeerPort(instance_id, _serve, lambda: 0, monotonic))
    await server.start(port=port)
    print(server.port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.drain(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int((sys.argv[2:] or ["0"])[0])))
