"""A model server as a customer might write it, in sixty synchronous lines."""

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from modelmesh.errors import Code, MeshError
from modelmesh.pb import inference_pb2, inference_pb2_grpc, model_runtime_pb2_grpc
from modelmesh.pb import model_runtime_pb2 as pb
from modelmesh.wire.awaiting import FutureReply
from modelmesh.wire.transport import Body

READY, STARTING = pb.RuntimeStatusResponse.READY, pb.RuntimeStatusResponse.STARTING


class ExternalServer(
    model_runtime_pb2_grpc.ModelRuntimeServicer, inference_pb2_grpc.GRPCInferenceServiceServicer
):
    """Models are what their key says, as for the dummy runtime."""

    def __init__(
        self, status: pb.RuntimeStatusResponse | None = None, starting: int = 0, path: str = ""
    ) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        self.headers: list[dict[str, Any]] = []
        self.running = self.most_running = self.predicted_sizes = 0
        self._starting = starting
        self._status = status or pb.RuntimeStatusResponse(status=READY, runtimeVersion="test")
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(8))
        model_runtime_pb2_grpc.add_ModelRuntimeServicer_to_server(self, self._server)
        inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"unix:{path}" if path else "127.0.0.1:0")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    def runtimeStatus(self, request: Any, context: Any) -> Any:
        self._starting -= 1
        return pb.RuntimeStatusResponse(status=STARTING) if self._starting >= 0 else self._status

    def loadModel(self, request: Any, context: Any) -> Any:
        script = json.loads(request.modelKey or "{}")
        if script.get("load_error"):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, script["load_error"])
        with self._lock:
            if context.is_active():  # else it was given up, and its unload may be over already
                self.models[request.modelId] = script
        size = script.get("size_bytes", 0)
        return pb.LoadModelResponse(sizeInBytes=size, maxConcurrency=script.get("concurrency", 0))

    def unloadModel(self, request: Any, context: Any) -> Any:
        with self._lock:
            held = self.models.pop(request.modelId, None)
        if held is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return pb.UnloadModelResponse()

    def modelSize(self, request: Any, context: Any) -> Any:
        return pb.ModelSizeResponse(sizeInBytes=777)

    def predictModelSize(self, request: Any, context: Any) -> Any:
        self.predicted_sizes += 1
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")

    def ModelInfer(self, request: Any, context: Any) -> Any:
        headers = dict(context.invocation_metadata())
        self.headers.append(headers)
        model_id = headers["mm-model-id-bin"].decode()
        if model_id not in self.models:
            context.abort(grpc.StatusCode.UNAVAILABLE, self.models_missing(model_id))
        with self._lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        self.work(self.models[model_id])
        with self._lock:
            self.running -= 1
        answer = inference_pb2.ModelInferResponse(model_name=request.model_name, id=model_id)
        answer.outputs.add(name="sum", datatype="FP64", shape=[1]).contents.fp64_contents.append(
            sum(sum(tensor.contents.fp64_contents) for tensor in request.inputs)
        )
        return answer

    def work(self, script: dict[str, Any]) -> None:
        """What a call takes."""
        threading.Event().wait(script.get("predict_s", 0))

    def models_missing(self, model_id: str) -> str:
        return f'Request for unknown model: "{model_id}" is not found'


class Hanging(ExternalServer):
    """Ends no call before the gate is open; takes one at a time where a model says so."""

    def __init__(self) -> None:
        super().__init__(pb.RuntimeStatusResponse(status=READY, limitModelConcurrency=True))
        self.gate = threading.Event()

    def work(self, script: dict[str, Any]) -> None:
        self.gate.wait(60)
        super().work(script)

    def stop(self) -> None:
        self.gate.set()
        super().stop()


async def answered_in_time(ask: Callable[[], FutureReply]) -> Body:
    """The answer to the first call that was not too slow for the operator's timeout.

    That is short in a test that waits for it, and a machine that stands still may exceed it.
    """
    async with asyncio.timeout(30):
        while True:
            try:
                return (await ask().future)[0]
            except MeshError as error:
                if error.failure.code is not Code.DEADLINE_EXCEEDED:
                    raise
