"""Doors in memory for simulated daemons: a runtime that keeps accounts, and a storage.

A model is what its key says, as the dummy runtime's: `size_bytes`, `guess_bytes` (what it is taken
for before it is loaded), `load_s`, `predict_s`, `load_error`, `version`. It answers its id, and its
version if it has one. The runtime is also a witness: it knows what it holds in truth, counts how
often a request was executed (`ledger`), and remembers the most that it ever held.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from modelmesh.errors import Code, Failure, Fault, MeshError, Reason, invalid
from modelmesh.observe.tasks import spawn, stop
from modelmesh.runtime.door import LoadedModel, LoadRequest, RuntimeListener, RuntimeStatus
from modelmesh.storage.door import LocalModel
from modelmesh.wire.transport import Call, text

REQUEST_ID: Final = "x-request-id"
TYPE: Final = "simulated"

_NOT_HELD = Failure(Code.NOT_FOUND, "this runtime does not hold the model")
_CRASHED = Failure(
    Code.INTERNAL, "the model's host died", Fault.MODEL, Reason.WORKER_CRASHED, executed=True
)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a model does, as its key says. Sizes in bytes, times in seconds."""

    size_bytes: int = 1000
    guess_bytes: int = 0  # 0: its size is known before
    load_s: float = 0.01
    predict_s: float = 0.0
    load_error: str = ""
    version: int = 0

    def answer(self, model_id: str) -> bytes:
        return (f"{model_id}@{self.version}" if self.version else model_id).encode()


@lru_cache(65536)
def behaviour(key: str) -> Behaviour:
    """Of a model with this key."""
    return Behaviour(**json.loads(key)) if key else Behaviour()


@dataclass(slots=True)
class Ledger:
    """What all runtimes of a world did: loads by model, executions by request.

    `load_begins(instance, model)` and `unload_begins` are told before each.
    """

    loads: Counter[str] = field(default_factory=Counter)
    load_s: float = 0.0
    unloads: int = 0
    slowed: int = 0  # loads that took longer than they should
    executions: Counter[str] = field(default_factory=Counter)
    in_use_unloads: list[str] = field(default_factory=list)
    load_begins: Callable[[str, str], None] = lambda _instance, _model: None
    unload_begins: Callable[[str, str], None] = lambda _instance, _model: None


class _Held:
    """A model in memory, and the calls that run on it."""

    __slots__ = ("behaviour", "calls", "idle")

    def __init__(self, what: Behaviour) -> None:
        self.behaviour = what
        self.calls: dict[Call, None] = {}
        self.idle: asyncio.Event | None = None


class SimulatedRuntime:
    """One daemon's runtime. `slow` multiplies every load."""

    def __init__(
        self, ledger: Ledger, capacity_bytes: int, load_concurrency: int = 4, instance_id: str = ""
    ) -> None:
        self.most_bytes = 0
        self.slow = 1.0
        self.loading: dict[str, Behaviour] = {}
        self.resident: dict[str, _Held] = {}
        self._ledger = ledger
        self._instance_id = instance_id
        self._capacity_bytes = capacity_bytes
        self._load_concurrency = load_concurrency
        self._listener: RuntimeListener | None = None
        self._running: dict[asyncio.Task[None], None] = {}  # predicts, in order

    @property
    def held(self) -> dict[str, int]:
        """What is in memory, and how large it is."""
        return {name: held.behaviour.size_bytes for name, held in self.resident.items()}

    @property
    def used_bytes(self) -> int:
        """In truth: what is held, and what is being loaded."""
        loading = sum(what.size_bytes for what in self.loading.values())
        return loading + sum(held.behaviour.size_bytes for held in self.resident.values())

    @property
    def surprise_bytes(self) -> int:
        """By how much what is here is larger than it was taken for."""
        all_here = [*self.loading.values(), *(held.behaviour for held in self.resident.values())]
        return sum(
            max(what.size_bytes - what.guess_bytes, 0) for what in all_here if what.guess_bytes
        )

    async def start(self, listener: RuntimeListener) -> RuntimeStatus:
        self._listener = listener
        return RuntimeStatus(self._capacity_bytes, 1000, self._load_concurrency, 90.0, "simulated")

    def check(self, model_type: str) -> None:
        if model_type != TYPE:
            raise invalid(f"type {model_type} is unknown; these work: {TYPE}")

    def predict_size(self, request: LoadRequest) -> int:
        what = behaviour(request.key)
        return what.guess_bytes or what.size_bytes

    async def load(self, request: LoadRequest) -> LoadedModel:
        what, model_id, ledger = behaviour(request.key), request.model_id, self._ledger
        ledger.loads[model_id] += 1
        ledger.slowed += self.slow > 1
        load_s = what.load_s * self.slow
        ledger.load_s += load_s
        ledger.load_begins(self._instance_id, model_id)
        self.loading[model_id] = what
        self.most_bytes = max(self.most_bytes, self.used_bytes)
        try:
            await asyncio.sleep(load_s)
        finally:
            del self.loading[model_id]
        if what.load_error:
            raise MeshError(
                Failure(Code.FAILED_PRECONDITION, what.load_error, Fault.MODEL, Reason.LOAD_FAILED)
            )
        self.resident[model_id] = _Held(what)
        return LoadedModel(what.size_bytes, load_s, "shared", "simulated")

    async def unload(self, model_id: str) -> None:
        """After the calls that run; but nobody may want one's answer any more."""
        held = self.resident.get(model_id)
        self._ledger.unload_begins(self._instance_id, model_id)
        if held is not None and any(not call.reply.gone for call in held.calls):
            self._ledger.in_use_unloads.append(model_id)
        await asyncio.sleep(0.001)
        if held is not None and held.calls:
            held.idle = asyncio.Event()
            await held.idle.wait()
        if self.resident.get(model_id) is held:
            self.resident.pop(model_id, None)
            self._ledger.unloads += 1

    async def expel(self, model_id: str) -> bool:
        """Unloads never fail here."""
        return self.resident.pop(model_id, None) is not None

    def infer(self, model_id: str, call: Call) -> None:
        held = self.resident.get(model_id)
        if held is None:
            call.reply.finish(_NOT_HELD)
            return
        request = text(call.header(REQUEST_ID))
        if request:
            self._ledger.executions[request] += 1
        if not held.behaviour.predict_s:
            call.reply.answer(held.behaviour.answer(model_id))
            return
        held.calls[call] = None
        task = spawn(self._predict(model_id, held, call), "predict")
        self._running[task] = None
        task.add_done_callback(self._running.pop)

    async def _predict(self, model_id: str, held: _Held, call: Call) -> None:
        try:
            await asyncio.sleep(held.behaviour.predict_s)
        finally:
            if call in held.calls:
                del held.calls[call]
                if held.idle is not None and not held.calls:
                    held.idle.set()
        if self.resident.get(model_id) is held:
            call.reply.answer(held.behaviour.answer(model_id))

    def describe(self, model_id: str) -> LoadedModel | None:
        held = self.resident.get(model_id)
        if held is None:
            return None
        what = held.behaviour
        return LoadedModel(what.size_bytes, what.load_s, "shared", "simulated")

    def lose(self, model_id: str) -> bool:
        """The model is gone, as after a crash of its host; whether it was there."""
        held = self.resident.pop(model_id, None)
        if held is None:
            return False
        if self._listener is not None:
            self._listener.model_lost(model_id, _CRASHED)
        for call in list(held.calls):
            call.reply.finish(_CRASHED)
        return True

    async def close(self, grace_s: float) -> None:
        """Whoever waits for an answer was waited for; what runs for nobody ends with its host."""
        self.resident.clear()
        await stop(*self._running)


class SimulatedStorage:
    """Has every file."""

    schemes = ("file",)

    def check(self, path: str) -> None:
        return None

    async def fetch(self, model_id: str, path: str, key: str) -> LocalModel:
        return LocalModel(path, 0)

    async def release(self, model_id: str) -> None:
        return None
