"""Doors in memory for simulated daemons: a runtime that keeps accounts, and a storage.

A model is what its key says, as the dummy runtime's: `size_bytes`, `load_s`, `predict_s`,
`load_error`. The runtime is also a witness: it knows what it holds in truth, counts how often a
request was executed (`ledger`), and remembers the most that it ever held.
"""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from modelmesh.errors import Code, Failure, Fault, MeshError, Reason, invalid
from modelmesh.observe.tasks import spawn
from modelmesh.runtime.door import LoadedModel, LoadRequest, RuntimeListener, RuntimeStatus
from modelmesh.storage.door import LocalModel
from modelmesh.wire.transport import Call, text

REQUEST_ID: Final = "x-request-id"
TYPE: Final = "simulated"

_NOT_HELD = Failure(Code.NOT_FOUND, "this runtime does not hold the model")
_DEAD = Failure(Code.UNAVAILABLE, "the runtime is dead", Fault.MODEL, executed=True)


@dataclass(slots=True)
class Ledger:
    """What all runtimes of a world did: loads by model, executions by request."""

    loads: Counter[str] = field(default_factory=Counter)
    executions: Counter[str] = field(default_factory=Counter)
    in_use_unloads: list[str] = field(default_factory=list)


class SimulatedRuntime:
    """One daemon's runtime. `slow` multiplies every load."""

    def __init__(self, ledger: Ledger, capacity_bytes: int, load_concurrency: int = 4) -> None:
        self.held: dict[str, int] = {}
        self.running: Counter[str] = Counter()
        self.most_bytes = 0
        self.slow = 1.0
        self.dead = False
        self._ledger = ledger
        self._capacity_bytes = capacity_bytes
        self._load_concurrency = load_concurrency
        self._predict_s: dict[str, float] = {}
        self._loading: dict[str, int] = {}
        self._listener: RuntimeListener | None = None

    @property
    def used_bytes(self) -> int:
        """In truth: what is held, and what is being loaded."""
        return sum(self.held.values()) + sum(self._loading.values())

    async def start(self, listener: RuntimeListener) -> RuntimeStatus:
        self._listener = listener
        return RuntimeStatus(self._capacity_bytes, 1000, self._load_concurrency, 90.0, "simulated")

    def check(self, model_type: str) -> None:
        if model_type != TYPE:
            raise invalid(f"type {model_type} is unknown; these work: {TYPE}")

    def predict_size(self, request: LoadRequest) -> int:
        return int(_behaviour(request.key).get("size_bytes", 1000))

    async def load(self, request: LoadRequest) -> LoadedModel:
        behaviour, model_id = _behaviour(request.key), request.model_id
        self._ledger.loads[model_id] += 1
        size_bytes = int(behaviour.get("size_bytes", 1000))
        load_s = float(behaviour.get("load_s", 0.01)) * self.slow
        self._loading[model_id] = size_bytes
        self.most_bytes = max(self.most_bytes, self.used_bytes)
        try:
            await asyncio.sleep(load_s)
        finally:
            del self._loading[model_id]
        if behaviour.get("load_error"):
            message = str(behaviour["load_error"])
            raise MeshError(
                Failure(Code.FAILED_PRECONDITION, message, Fault.MODEL, Reason.LOAD_FAILED)
            )
        self.held[model_id] = size_bytes
        self._predict_s[model_id] = float(behaviour.get("predict_s", 0.0))
        return LoadedModel(size_bytes, load_s, "shared", "simulated")

    async def unload(self, model_id: str) -> None:
        if self.running[model_id]:
            self._ledger.in_use_unloads.append(model_id)
        await asyncio.sleep(0.001)
        self.held.pop(model_id, None)

    async def expel(self, model_id: str) -> bool:
        """Unloads never fail here."""
        return self.held.pop(model_id, None) is not None

    def infer(self, model_id: str, call: Call) -> None:
        if self.dead or model_id not in self.held:
            call.reply.finish(_DEAD if self.dead else _NOT_HELD)
            return
        request = text(call.header(REQUEST_ID))
        if request:
            self._ledger.executions[request] += 1
        predict_s = self._predict_s.get(model_id, 0.0)
        if not predict_s:
            call.reply.answer(model_id.encode())
            return
        self.running[model_id] += 1
        spawn(self._predict(model_id, predict_s, call), f"predict {model_id}")

    async def _predict(self, model_id: str, predict_s: float, call: Call) -> None:
        try:
            await asyncio.sleep(predict_s)
        finally:
            self.running[model_id] -= 1
        if not self.dead:
            call.reply.answer(model_id.encode())

    def describe(self, model_id: str) -> LoadedModel | None:
        size_bytes = self.held.get(model_id)
        return None if size_bytes is None else LoadedModel(size_bytes, 0.01, "shared", "simulated")

    def lose(self, model_id: str) -> None:
        """The model is gone, as after a crash of its host."""
        if self.held.pop(model_id, None) is not None and self._listener is not None:
            failure = Failure(
                Code.INTERNAL, "host died", Fault.MODEL, Reason.WORKER_CRASHED, executed=True
            )
            self._listener.model_lost(model_id, failure)

    async def close(self, grace_s: float) -> None:
        self.held.clear()


class SimulatedStorage:
    """Has every file."""

    schemes = ("file",)

    def check(self, path: str) -> None:
        return None

    async def fetch(self, model_id: str, path: str, key: str) -> LocalModel:
        return LocalModel(path, 0)

    async def release(self, model_id: str) -> None:
        return None


def _behaviour(key: str) -> dict[str, Any]:
    behaviour: dict[str, Any] = json.loads(key) if key else {}
    return behaviour
