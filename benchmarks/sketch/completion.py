"""A variant: grpcio's completion queue used directly (as grpc._server does), without grpc.aio.

One thread polls and only collects; the loop is woken once for all that arrived meanwhile, and
answers each call in one batch of operations. `grpc._cython` is private: this shows what grpc.aio
costs on top of grpcio's core.
"""

import asyncio
import threading
from functools import partial
from typing import Any

from grpc._cython import cygrpc

from benchmarks.sketch import host

REQUESTED = 64  # calls that the core may hand out before the thread asks for more
Arrived = tuple[Any, bytes]  # the request event (call, details, metadata) and its message


class Front:
    def __init__(self, port: int, backend: Any) -> None:
        self.loop, self.backend = asyncio.get_running_loop(), backend
        self.arrived: list[Arrived] = []
        self.queue, self.server = cygrpc.CompletionQueue(), cygrpc.Server((), False)
        self.server.register_completion_queue(self.queue)
        self.server.add_http2_port(f"127.0.0.1:{port}".encode())
        self.server.start()
        for _ in range(REQUESTED):
            self.server.request_call(self.queue, self.queue, None)
        threading.Thread(target=self.poll, name="grpcio-poll", daemon=True).start()

    def poll(self) -> None:
        while True:
            event = self.queue.poll()
            if isinstance(event, cygrpc.RequestCallEvent):
                self.server.request_call(self.queue, self.queue, None)
                event.call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), event)
            elif event.tag is not None and event.batch_operations[0].message() is not None:
                self.arrived.append((event.tag, event.batch_operations[0].message()))
                if len(self.arrived) == 1:
                    self.loop.call_soon_threadsafe(self.turn)

    def turn(self) -> None:
        arrived, self.arrived = self.arrived, []
        for event, message in arrived:
            model = next(
                (value for key, value in event.invocation_metadata if key == "mm-model-id"), ""
            )
            self.backend.call(host.INFER, model.encode(), message, partial(self.answer, event.call))

    def answer(self, call: Any, body: bytes) -> None:
        operations = (
            cygrpc.SendInitialMetadataOperation((), 0),
            cygrpc.SendMessageOperation(body, 0),
            cygrpc.SendStatusFromServerOperation((), cygrpc.StatusCode.ok, b"", 0),
            cygrpc.ReceiveCloseOnServerOperation(0),
        )
        call.start_server_batch(operations, None)


def start(port: int, backend: Any) -> None:
    Front(port, backend)
