"""A model server in its own container as a `Runtime`: Triton, MLServer, OVMS, or a customer's.

ModelMesh's runtime SPI over gRPC: the server is asked for its status until it is ready, told to
load and unload, and gets the callers' requests untouched but for the model's id, which is put
where the server's `methodInfos` want it. What ModelMesh strips from headers is stripped here; what
servers say instead of NOT_FOUND is understood as NOT_FOUND.

Must never: let a caller reach `mmesh.ModelRuntime`, or believe the server beyond its own status.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Final

import structlog
from cachetools import LRUCache

from modelmesh.codec import splice
from modelmesh.domain import names
from modelmesh.errors import Code, Failure, Fault, MeshError, Reason
from modelmesh.observe.tasks import spawn, stop
from modelmesh.pb import model_runtime_pb2 as pb
from modelmesh.runtime import client, translate
from modelmesh.runtime.aside import Aside
from modelmesh.runtime.door import (
    LoadedModel,
    LoadRequest,
    Part,
    RuntimeListener,
    RuntimeStatus,
)
from modelmesh.runtime.limiter import inflight_limit
from modelmesh.runtime.translate import Back, Translated
from modelmesh.runtime.turns import ModelTurns
from modelmesh.wire import kinds
from modelmesh.wire.grpcio_caller import GrpcCaller
from modelmesh.wire.replies import Passing
from modelmesh.wire.transport import NO_METADATA, Body, Call, Metadata, Reply, text

log = structlog.get_logger("runtime")

POLL_S: Final = 0.25
STATUS_S: Final = 2.0
PREDICT_SIZE_S: Final = 0.5
MODEL_SIZE_S: Final = 30.0
UNLOAD_S: Final = 30.0
SPI: Final = "/mmesh.ModelRuntime/"
STRIPPED: Final = ("mm-", "grpc-")
STRIPPED_NAMES: Final = frozenset({"tas-model-id", "content-type", "user-agent", "te"})
MOST_SIZES: Final = 10_000


@dataclass(frozen=True, slots=True)
class ExternalConfig:
    """Where the server listens: a port on this machine or a socket, for each of its two faces.

    Without a serving address, inference goes where management does.
    """

    runtime_port: int = 0
    runtime_socket: str = ""
    serving_port: int = 0
    serving_socket: str = ""
    start_s: float = 180.0
    load_timeout_s: float = 90.0  # unless the server says its own
    predict_timeout_s: float = 60.0  # then the call ends; the server is not ours to end
    default_model_size_bytes: int = 1 << 20
    max_message_bytes: int = 16 << 20
    max_inflight_per_model: int = 0


@dataclass(slots=True)
class _Held:
    """A loaded model."""

    loaded: LoadedModel
    turns: ModelTurns


@dataclass(frozen=True, slots=True)
class _Return:
    """How an answer becomes what the caller understands; `told` gets the seconds that it took."""

    translate: Back
    told: Callable[[float], None]
    aside: Callable[[Callable[[], Translated]], Awaitable[Translated]]  # where it takes long


class ExternalRuntime:
    """The `Runtime` door over a model server's gRPC."""

    def __init__(self, config: ExternalConfig) -> None:
        self._config = config
        self._held: dict[str, _Held] = {}
        self._status = pb.RuntimeStatusResponse()
        self._methods: dict[str, tuple[int, ...]] = {}
        self._sizes: LRUCache[tuple[str, str, str], int] = LRUCache(MOST_SIZES)
        self._predicts_sizes = True
        self._aside = Aside()
        self._parting: dict[str, asyncio.Task[None]] = {}  # unloads after failed loads
        self._listener: RuntimeListener
        self._runtime: GrpcCaller
        self._serving: GrpcCaller

    # --- the door

    async def start(self, listener: RuntimeListener) -> RuntimeStatus:
        config = self._config
        self._listener = listener
        runtime = _address(config.runtime_port, config.runtime_socket)
        serving = _address(config.serving_port, config.serving_socket) or runtime
        self._runtime = GrpcCaller(runtime, message_bytes=config.max_message_bytes)
        self._serving = (
            self._runtime
            if serving == runtime
            else GrpcCaller(serving, message_bytes=config.max_message_bytes)
        )
        self._status = status = await self._ready()
        self._methods = {
            f"/{name}": tuple(info.idInjectionPath) for name, info in status.methodInfos.items()
        }
        return RuntimeStatus(
            status.capacityInBytes,
            status.defaultModelSizeInBytes or config.default_model_size_bytes,
            status.maxLoadingConcurrency or 1,
            self._load_timeout_s,
            status.runtimeVersion,
        )

    def check(self, model_type: str) -> None:
        """Only the server knows what it runs: it refuses the load."""

    def predict_size(self, request: LoadRequest) -> int:
        """What is remembered; else the default, and the server is asked for the next time."""
        known = self._sizes.get(_files(request))
        if known is None and self._predicts_sizes:
            spawn(self._ask_size(request), f"predict size of {request.model_id}")
        default = self._status.defaultModelSizeInBytes or self._config.default_model_size_bytes
        return max(1, known or default)

    async def load(self, request: LoadRequest) -> LoadedModel:
        parting = self._parting.get(request.model_id)
        if parting is not None:
            await asyncio.wait([parting])  # else its unload might follow this load
        started = monotonic()
        try:
            answer = await client.load(self._runtime, request, started + self._load_timeout_s)
            size_bytes = answer.size_bytes or await self._model_size(request)
        except BaseException as error:
            give_up = spawn(self._give_up(request.model_id), f"give up {request.model_id}")
            self._parting[request.model_id] = give_up
            if isinstance(error, MeshError):
                raise MeshError(_load_failure(error.failure, self._load_timeout_s)) from None
            raise
        self._sizes[_files(request)] = size_bytes
        limit = self._concurrency(request, answer.max_concurrency)
        most = inflight_limit(self._config.max_inflight_per_model, limit, external=True)
        loaded = LoadedModel(
            size_bytes, monotonic() - started, "external", "the runtime's own", (), limit
        )
        self._held[request.model_id] = _Held(loaded, ModelTurns(limit, most))
        return loaded

    async def unload(self, model_id: str) -> None:
        self._held.pop(model_id, None)
        await client.unload(self._runtime, model_id, monotonic() + UNLOAD_S)

    async def expel(self, model_id: str) -> bool:
        return False  # the server is not ours to end

    def infer(self, model_id: str, call: Call) -> None:
        held = self._held.get(model_id)
        if held is None:
            call.reply.finish(_not_held(model_id))
        elif call.kind in translate.TRANSLATED:
            if len(call.body) > translate.OFF_LOOP_BYTES:
                spawn(self._translate_aside(held, model_id, call), f"translate {call.kind}")
            else:
                self._translate(held, model_id, call)
        else:
            self._forward(held, model_id, call, None)

    def describe(self, model_id: str) -> LoadedModel | None:
        held = self._held.get(model_id)
        return held.loaded if held else None

    async def close(self, grace_s: float) -> None:
        try:
            async with asyncio.timeout(grace_s):
                for model_id in list(self._held):
                    await self.unload(model_id)
        except (TimeoutError, MeshError) as error:
            log.warning("models stay loaded in the runtime", why=str(error) or "timeout")
        await stop(*self._parting.values())
        self._aside.close()
        await self._runtime.close()
        await self._serving.close()

    # --- start and load

    async def _ready(self) -> pb.RuntimeStatusResponse:
        """The server's status once it is READY; before, it empties itself of models."""
        give_up = monotonic() + self._config.start_s
        why = "no answer"
        while monotonic() < give_up:
            try:
                deadline = min(give_up, monotonic() + STATUS_S)
                status = await client.status(self._runtime, deadline)
            except MeshError as error:
                why = error.failure.message
            else:
                why = pb.RuntimeStatusResponse.Status.Name(status.status)
                if status.status == status.READY:
                    return status
                if status.status == status.FAILING:
                    break
            await asyncio.sleep(POLL_S)
        raise MeshError(
            Failure(Code.UNAVAILABLE, f"the runtime did not become ready: {why}", Fault.MODEL)
        )

    @property
    def _load_timeout_s(self) -> float:
        return self._status.modelLoadingTimeoutMs / 1e3 or self._config.load_timeout_s

    def _concurrency(self, request: LoadRequest, said: int) -> int:
        """Calls at once; 0 = no limit."""
        if not self._status.limitModelConcurrency:
            return 0
        if said < 1:
            log.warning("the runtime limits concurrency but says no limit", model=request.model_id)
        return max(1, said)

    async def _model_size(self, request: LoadRequest) -> int:
        started = monotonic()
        try:
            size = await client.model_size(
                self._runtime, request.model_id, monotonic() + MODEL_SIZE_S
            )
        except MeshError as error:
            log.warning("no model size", model=request.model_id, why=error.failure.message)
            size = 0
        self._listener.took(Part.SIZING, request.model_id, monotonic() - started)
        return size or self.predict_size(request)

    async def _ask_size(self, request: LoadRequest) -> None:
        try:
            size = await client.predict_model_size(
                self._runtime, request, monotonic() + PREDICT_SIZE_S
            )
        except MeshError as error:
            self._predicts_sizes = error.failure.code is not Code.UNIMPLEMENTED
        else:
            self._sizes.setdefault(_files(request), size)

    async def _give_up(self, model_id: str) -> None:
        """After a load that failed or was cancelled the server may hold the model all the same."""
        own = asyncio.current_task()
        try:
            await client.unload(self._runtime, model_id, monotonic() + UNLOAD_S)
        except MeshError as error:
            log.info("unload after a failed load failed", model=model_id, why=error.failure.message)
        if self._parting.get(model_id) is own:
            del self._parting[model_id]

    # --- inference

    def _forward(self, held: _Held, model_id: str, call: Call, back: _Return | None) -> None:
        path = self._path(call.kind)
        if path is None:
            name = call.kind.removeprefix("/")
            message = f"Method not found or not permitted: {name}"
            call.reply.finish(Failure(Code.UNIMPLEMENTED, message))
            return
        try:
            body = splice.inject(call.body, path, model_id) if path else call.body
        except splice.MalformedMessage as error:
            call.reply.finish(Failure(Code.INVALID_ARGUMENT, f"malformed message: {error}"))
            return
        begin = partial(self._begin, held, model_id, call, body, back, monotonic())
        refusal = held.turns.take(call.reply, begin)
        if refusal is not None:
            call.reply.finish(refusal)

    def _begin(
        self,
        held: _Held,
        model_id: str,
        call: Call,
        body: Body,
        back: _Return | None,
        since: float,
    ) -> None:
        now, limit_s = monotonic(), self._config.predict_timeout_s
        if held.loaded.max_concurrency:
            self._listener.took(Part.QUEUE, model_id, now - since)
        limit = now + limit_s
        late = _too_slow(limit_s) if limit < call.deadline else None
        reply = _ExternalReply(call.reply, partial(self._ended, held, model_id), back, late)
        metadata = forwarded(call.metadata, model_id)
        deadline = min(limit, call.deadline)
        sent = Call(call.kind, body, reply, metadata, deadline, call.inbound)
        self._serving.start(sent)

    def _path(self, kind: str) -> tuple[int, ...] | None:
        """Where the id goes (nowhere: empty); None for a method that callers may not use."""
        if kind.startswith(SPI) or not kind.startswith("/"):
            return None
        if not self._methods or self._status.allowAnyMethod:
            return self._methods.get(kind, ())
        return self._methods.get(kind)

    def _ended(self, held: _Held, model_id: str, failure: Failure | None) -> None:
        held.turns.give_back()
        lost = failure is not None and failure.code is Code.NOT_FOUND
        if lost and failure is not None and self._held.get(model_id) is held:
            del self._held[model_id]
            self._listener.model_lost(model_id, failure)

    def _translate(self, held: _Held, model_id: str, call: Call) -> None:
        started = monotonic()
        try:
            body, back = self._translated(model_id, call)
        except MeshError as error:
            call.reply.finish(error.failure)
        else:
            self._send_translated(held, model_id, call, body, back, started)

    async def _translate_aside(self, held: _Held, model_id: str, call: Call) -> None:
        started = monotonic()
        try:
            limit_s = min(self._config.predict_timeout_s, call.deadline - started)
            work = partial(self._translated, model_id, call)
            body, back = await self._aside.run(work, limit_s)
        except MeshError as error:
            call.reply.finish(error.failure)
        else:
            self._send_translated(held, model_id, call, body, back, started)

    def _translated(self, model_id: str, call: Call) -> tuple[bytes, Back]:
        header_length = text(call.header(kinds.BINARY_HEADER))
        return translate.to_infer(call.kind, call.body, header_length, model_id)

    def _send_translated(
        self, held: _Held, model_id: str, call: Call, body: bytes, back: Back, started: float
    ) -> None:
        self._listener.took(Part.PREPROCESS, model_id, monotonic() - started)
        told = partial(self._listener.took, Part.POSTPROCESS, model_id)
        infer = Call(kinds.MODEL_INFER, body, call.reply, call.metadata, call.deadline)
        aside = partial(self._aside.run, timeout_s=self._config.predict_timeout_s)
        self._forward(held, model_id, infer, _Return(back, told, aside))


class _ExternalReply(Passing):
    """The caller's reply: understands what servers say, tells when the call ends, once.

    `late` is what a passed deadline means, where it was not the caller's.
    """

    __slots__ = ("_back", "_ended", "_late", "_over")

    def __init__(
        self,
        reply: Reply,
        ended: Callable[[Failure | None], None],
        back: _Return | None,
        late: Failure | None,
    ) -> None:
        super().__init__(reply)
        self._ended = ended
        self._back = back
        self._late = late
        self._over = False
        reply.when_gone(partial(self._end, None))

    @property
    def gone(self) -> bool:
        return self._over or self._reply.gone

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        self._end(None)
        if self._back is None:
            self._reply.answer(body, metadata)
        elif len(body) > translate.OFF_LOOP_BYTES:
            spawn(self._answer_aside(self._back, body), "translate an answer")
        else:
            self._answer_translated(self._back, body)

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        if failure is not None:
            is_late = failure.code is Code.DEADLINE_EXCEEDED
            failure = (is_late and self._late) or understand(failure)
        self._end(failure)
        self._reply.finish(failure, metadata)

    def _end(self, failure: Failure | None) -> None:
        if not self._over:
            self._over = True
            self._ended(failure)

    def _answer_translated(self, back: _Return, body: Body) -> None:
        started = monotonic()
        try:
            written, metadata = back.translate(body)
        except MeshError as error:
            self._reply.finish(error.failure)
        else:
            back.told(monotonic() - started)
            self._reply.answer(written, metadata)

    async def _answer_aside(self, back: _Return, body: Body) -> None:
        started = monotonic()
        try:
            written, metadata = await back.aside(partial(back.translate, body))
        except MeshError as error:
            self._reply.finish(replace(error.failure, executed=True))
        else:
            back.told(monotonic() - started)
            self._reply.answer(written, metadata)


def forwarded(metadata: Metadata, model_id: str) -> Metadata:
    """A caller's headers as the server gets them: without ours and gRPC's, with the model's id."""
    kept = tuple(
        (key, value)
        for key, value in metadata
        if not key.startswith(STRIPPED) and key not in STRIPPED_NAMES
    )
    ids: Metadata = ((kinds.MODEL_ID_BIN, model_id.encode()),)
    if names.fits_header(model_id):
        ids += ((kinds.MODEL_ID, model_id),)
    return kept + ids


def understand(failure: Failure) -> Failure:
    """Triton and MLServer have words of their own for a model that they do not hold."""
    said = failure.message
    triton = (
        failure.code is Code.UNAVAILABLE
        and said.startswith("Request for unknown model")
        and said.endswith((" is not found", " has no available versions"))
    )
    mlserver = (
        failure.code is Code.INVALID_ARGUMENT
        and said.startswith("Model ")
        and said.endswith(" not found")
    )
    if triton or mlserver or failure.code is Code.NOT_FOUND:
        return replace(failure, code=Code.NOT_FOUND, retry_after_s=None, executed=False)
    return failure


def _load_failure(failure: Failure, limit_s: float) -> Failure:
    """What a server's refusal to load means by the status contract.

    A server that never had the call (it restarts, say) says nothing about the model.
    """
    if failure.code is Code.UNAVAILABLE and not failure.executed:
        return replace(failure, retry_after_s=failure.retry_after_s or 1.0)
    if failure.code is Code.DEADLINE_EXCEEDED:
        message = f"the model did not load within {limit_s:g} s"
        return Failure(failure.code, message, Fault.MODEL, Reason.LOAD_TIMEOUT, executed=True)
    later = failure.code in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.ABORTED)
    return Failure(
        Code.UNAVAILABLE if later else Code.FAILED_PRECONDITION,
        failure.message,
        Fault.MODEL,
        Reason.LOAD_FAILED,
        retry_after_s=1.0 if later else None,
        executed=failure.executed,
    )


def _too_slow(limit_s: float) -> Failure:
    message = f"the model did not answer within {limit_s:g} s"
    return Failure(
        Code.DEADLINE_EXCEEDED, message, Fault.MODEL, Reason.PREDICT_TIMEOUT, executed=True
    )


def _not_held(model_id: str) -> Failure:
    return Failure(Code.NOT_FOUND, f"model {model_id} is not loaded here")


def _files(request: LoadRequest) -> tuple[str, str, str]:
    return request.type, request.path, request.key


def _address(port: int, socket: str) -> str:
    if socket:
        return f"unix:{socket}"
    return f"127.0.0.1:{port}" if port else ""
