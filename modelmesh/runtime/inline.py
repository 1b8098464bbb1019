"""The tier `inline`: models in the daemon's own process, by the operator's choice only.

The same core that hosts run, over the wire in memory. Nothing stands between a model and the
daemon: a crash ends everything, a slow predict stops everything. For one-model servers that trust
their model, and for measuring what a process boundary costs.
"""

import asyncio
import importlib
from functools import partial
from time import monotonic
from typing import Any

import modelmesh
from modelmesh.errors import Code, Failure, MeshError
from modelmesh.pb import model_runtime_pb2 as pb
from modelmesh.runtime import client
from modelmesh.runtime.door import LoadedModel, LoadRequest, Part, RuntimeListener, RuntimeStatus
from modelmesh.runtime.host import discard, named
from modelmesh.runtime.hosts import HostsConfig
from modelmesh.wire import kinds
from modelmesh.wire.loopback import LoopbackCaller
from modelmesh.wire.replies import OpenReply
from modelmesh.wire.transport import NO_METADATA, Body, Call, Metadata

ADAPTER = "runtime_adapters.inline"  # by name: nothing imports adapters


class InlineRuntime:
    """The `Runtime` door over the core in this process."""

    def __init__(self, config: HostsConfig) -> None:
        self._config = config
        self._loaded: dict[str, LoadedModel] = {}
        self._core: Any = None
        self._caller: LoopbackCaller

    async def start(self, listener: RuntimeListener) -> RuntimeStatus:
        loop = asyncio.get_running_loop()
        zygote = self._config.zygote
        try:
            adapter = importlib.import_module(ADAPTER)
            self._core = adapter.InlineHost(
                zygote.runtimes,
                zygote.options,
                loop.call_later,
                loop.time,
                was_read=partial(listener.took, Part.PREPROCESS),
                was_written=partial(listener.took, Part.POSTPROCESS),
            )
        except (ImportError, ValueError) as error:
            why = f"the runtimes cannot be had: {error}"
            raise MeshError(Failure(Code.FAILED_PRECONDITION, why)) from None
        self._caller = LoopbackCaller(self._core)
        return RuntimeStatus(
            capacity_bytes=0,
            default_model_size_bytes=self._config.default_model_size_bytes,
            max_loading_concurrency=1,
            load_timeout_s=self._config.load_timeout_s,
            version=modelmesh.__version__,
        )

    def check(self, model_type: str) -> None:
        answer = self._predicted_size(LoadRequest("any", model_type, "", ""))
        if isinstance(answer, Failure) and answer.code is Code.INVALID_ARGUMENT:
            raise MeshError(answer)

    def predict_size(self, request: LoadRequest) -> int:
        answer = self._predicted_size(request)
        size_bytes = 0 if isinstance(answer, Failure) else answer
        return max(1, size_bytes or self._config.default_model_size_bytes)

    async def load(self, request: LoadRequest) -> LoadedModel:
        deadline = monotonic() + self._config.load_timeout_s
        try:
            answer = await client.load(self._caller, request, deadline)
        except BaseException:
            discard(self._caller, request.model_id)  # it may be loaded all the same
            raise
        size_bytes = answer.size_bytes or self.predict_size(request)
        loaded = self._loaded[request.model_id] = LoadedModel(
            size_bytes,
            answer.load_s or 0.0,
            "inline",
            "the operator chose inline",
            answer.warnings,
            answer.max_concurrency,
        )
        return loaded

    async def unload(self, model_id: str) -> None:
        self._loaded.pop(model_id, None)
        await client.unload(self._caller, model_id)

    async def expel(self, model_id: str) -> bool:
        return False  # there is no process to end but this one

    def infer(self, model_id: str, call: Call) -> None:
        if model_id not in self._loaded:
            call.reply.finish(Failure(Code.NOT_FOUND, f"model {model_id} is not loaded here"))
            return
        metadata = named(model_id)
        if call.metadata:
            metadata += tuple(pair for pair in call.metadata if pair[0] == kinds.BINARY_HEADER)
        self._caller.start(
            Call(call.kind, call.body, call.reply, metadata, call.deadline, call.inbound)
        )

    def describe(self, model_id: str) -> LoadedModel | None:
        return self._loaded.get(model_id)

    async def close(self, grace_s: float) -> None:
        for model_id in list(self._loaded):
            await self.unload(model_id)
        if self._core is not None:  # else it never started
            await self._caller.close()

    def _predicted_size(self, request: LoadRequest) -> int | Failure:
        """The core answers this at once."""
        message = pb.PredictModelSizeRequest(
            modelId=request.model_id,
            modelType=request.type,
            modelPath=request.path,
            modelKey=request.key,
        )
        reply = _KeptReply()
        self._core([Call(kinds.PREDICT_MODEL_SIZE, message.SerializeToString(), reply)])
        if reply.failure is not None:
            return reply.failure
        return int(pb.PredictModelSizeResponse.FromString(bytes(reply.body)).sizeInBytes)


class _KeptReply(OpenReply):
    """Keeps one answer."""

    def __init__(self) -> None:
        super().__init__()
        self.body: Body = b""
        self.failure: Failure | None = None

    slow = False

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        self.body = body

    def send(self, message: Body) -> None:
        self.body = message

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        self.failure = failure

    def when_writable(self, callback: Any) -> None:
        callback()
