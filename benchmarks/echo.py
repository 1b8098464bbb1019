"""The baseline: a grpc.aio server on uvloop that sends each request's bytes back.

python -m benchmarks.echo  (prints its port)
"""

import asyncio
from typing import Any

import grpc
import uvloop


async def _echo(request: bytes, _context: Any) -> bytes:
    return request


class _Everything(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, _details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(_echo)


async def serve() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([_Everything()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve())
