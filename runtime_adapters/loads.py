"""The loads and unloads of a host, one at a time, in the order in which they came.

Loading runs whatever a model file says, so each load is a journal entry, is weighed, and is
watched: threads or children that it leaves behind could bring the host down in another model's
turn, so the answer says that there are some and the daemon sets the host aside.
"""

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import structlog
from google.protobuf.message import DecodeError

from modelmesh.errors import MeshError, invalid
from modelmesh.pb import model_runtime_pb2 as pb
from modelmesh.wire import kinds
from modelmesh.wire.transport import Call, Metadata
from runtime_adapters import verdicts
from runtime_adapters.base import BadModel, Later, Model, ModelSource
from runtime_adapters.finding import Runtimes
from runtime_adapters.surroundings import Held, Surroundings, still_wanted

log = structlog.get_logger("host")

# Metadata of the answer to a load: beside ModelRuntime's message, for our own daemon.
WARNING: Final = "mm-warning"  # may repeat
LOAD_MS: Final = "mm-load-ms"
TAINTED: Final = "mm-tainted"  # "thread", "child"; also beside a failed load


class Loads:
    """Waiting loads and unloads, first come first served, and the models that they made."""

    def __init__(self, runtimes: Runtimes, surroundings: Surroundings) -> None:
        self.models: dict[str, Held] = {}
        self._runtimes = runtimes
        self._surroundings = surroundings
        self._waiting: deque[tuple[float, Call]] = deque()
        self._due: deque[Callable[[], None]] = deque()
        self._pending: dict[str, Call] = {}  # loads that come later

    def add(self, call: Call) -> None:
        """One more load or unload."""
        self._waiting.append((self._surroundings.now(), call))

    @property
    def waiting(self) -> bool:
        """Whether there is something to run now."""
        return bool(self._due or self._waiting)

    def waited_s(self) -> float:
        """How long the first of them has waited."""
        return self._surroundings.now() - self._waiting[0][0] if self._waiting else 0.0

    def step(self) -> None:
        """Run one entry."""
        if self._due:
            self._due.popleft()()
            return
        _, call = self._waiting.popleft()
        try:
            if call.kind == kinds.UNLOAD_MODEL:
                self._unload(call)
            elif still_wanted(call, self._surroundings.now()):
                self._load(call)
        except MeshError as error:
            call.reply.finish(error.failure)

    # --- load

    def _load(self, call: Call) -> None:
        source = source_of(call)
        held = self.models.get(source.model_id)
        if held is not None:
            call.reply.answer(_loaded(held))
            return
        runtime = self._runtimes.runtime_for(source.type)
        self._surroundings.begin([call])
        self._attempt(call, source.model_id, partial(runtime.load, source), 0.0)

    def _attempt(self, call: Call, model_id: str, load: Callable[[], Any], waited_s: float) -> None:
        """Model code runs here, and nothing that it raises gets further."""
        before = self._surroundings.companions()
        started = self._surroundings.now()
        try:
            loaded, measured_bytes = self._surroundings.scale.put_on(load)
            if not isinstance(loaded, Model | Later):
                raise BadModel(f"the runtime loaded a {type(loaded).__name__}, which is no Model")
        except BaseException as raised:  # a SystemExit in a pickle must not end its host
            failure = verdicts.of_load(raised, alone=not self.models)
            call.reply.finish(failure, self._taint_since(before))
            return
        took_s = waited_s + self._surroundings.now() - started
        if isinstance(loaded, Later):
            self._pending[model_id] = call
            resume = partial(self._resume, call, model_id, loaded.finish, took_s + loaded.wait_s)
            self._surroundings.later(loaded.wait_s, partial(self._due.append, resume))
            return
        held = self.models[model_id] = Held(loaded, loaded.size_bytes or measured_bytes)
        facts: Metadata = ((LOAD_MS, f"{took_s * 1e3:.3f}"), *self._taint_since(before))
        warnings = tuple((WARNING, verdicts.printable(text)) for text in loaded.warnings)
        call.reply.answer(_loaded(held), facts + warnings)

    def _resume(
        self, call: Call, model_id: str, finish: Callable[[], Any], waited_s: float
    ) -> None:
        if self._pending.get(model_id) is not call:
            return  # unloaded meanwhile
        del self._pending[model_id]
        if not call.reply.gone:
            self._surroundings.begin([call])
            self._attempt(call, model_id, finish, waited_s)

    def _taint_since(self, before: Mapping[str, int]) -> Metadata:
        after = self._surroundings.companions()
        more = (name for name, count in after.items() if count > before.get(name, 0))
        return tuple((TAINTED, name) for name in more)

    # --- unload

    def _unload(self, call: Call) -> None:
        model_id = _parsed(pb.UnloadModelRequest, call).modelId
        self._pending.pop(model_id, None)
        held = self.models.get(model_id)
        if held is not None:
            size_bytes = held.size_bytes
            del held  # the scale sees whether the model's memory comes back
            self._surroundings.begin([call])
            self._surroundings.scale.take_off(partial(self._let_go, model_id), size_bytes)
        call.reply.answer(pb.UnloadModelResponse().SerializeToString())

    def _let_go(self, model_id: str) -> None:
        held = self.models.pop(model_id)
        try:
            held.model.close()
        except BaseException as raised:  # the model goes all the same
            log.warning("model failed to close", model=model_id, why=verdicts.text_of(raised))


def source_of(call: Call) -> ModelSource:
    """The four fields of a load (or of the question what it would weigh)."""
    request = _parsed(
        pb.LoadModelRequest if call.kind == kinds.LOAD_MODEL else pb.PredictModelSizeRequest, call
    )
    if not request.modelId:
        raise invalid("the model id is empty")
    return ModelSource(request.modelId, request.modelType, request.modelPath, request.modelKey)


def _parsed(message: Any, call: Call) -> Any:
    try:
        return message.FromString(bytes(call.body))
    except DecodeError as error:
        raise invalid(f"malformed {message.DESCRIPTOR.name}: {error}") from None


def _loaded(held: Held) -> bytes:
    return bytes(
        pb.LoadModelResponse(
            sizeInBytes=held.size_bytes, maxConcurrency=held.model.max_concurrency
        ).SerializeToString()
    )
