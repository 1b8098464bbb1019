"""Doors in memory for the serving room: a runtime whose loads the test ends, and a storage."""

import asyncio
from dataclasses import dataclass, field

from modelmesh.errors import Code, Failure, Fault, MeshError, Reason, invalid
from modelmesh.runtime.door import LoadedModel, LoadRequest, RuntimeListener, RuntimeStatus
from modelmesh.storage.door import LocalModel
from modelmesh.wire.transport import Call

LOAD_FAILED = Failure(Code.FAILED_PRECONDITION, "not a model", Fault.MODEL, Reason.LOAD_FAILED)


@dataclass
class MemoryRuntime:
    """Loads what it is asked for when the test says so (or at once), answers with its id."""

    at_once: bool = True
    size_bytes: int = 100
    load_s: float = 0.001
    failing: set[str] = field(default_factory=set)
    loads: list[str] = field(default_factory=list)
    unloads: list[str] = field(default_factory=list)
    expelled: list[str] = field(default_factory=list)
    can_expel: bool = False
    held: set[str] = field(default_factory=set)
    running: list[Call] = field(default_factory=list)
    answer_at_once: bool = True
    gates: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    unload_gate: asyncio.Future[None] | None = None
    listener: RuntimeListener | None = None

    async def start(self, listener: RuntimeListener) -> RuntimeStatus:
        self.listener = listener
        return RuntimeStatus(0, 100, 4, 90.0, "memory")

    def check(self, model_type: str) -> None:
        if model_type != "dummy":
            raise invalid(f"type {model_type} is unknown; these work: dummy")

    def predict_size(self, request: LoadRequest) -> int:
        return self.size_bytes

    async def load(self, request: LoadRequest) -> LoadedModel:
        self.loads.append(request.model_id)
        if not self.at_once:
            gate = self.gates[request.model_id] = asyncio.get_running_loop().create_future()
            await gate
        if request.model_id in self.failing:
            raise MeshError(LOAD_FAILED)
        self.held.add(request.model_id)
        return LoadedModel(self.size_bytes, self.load_s, "shared", "small", ("old scikit-learn",))

    async def unload(self, model_id: str) -> None:
        self.unloads.append(model_id)
        if self.unload_gate is not None:
            await self.unload_gate
        self.held.discard(model_id)

    async def expel(self, model_id: str) -> bool:
        self.expelled.append(model_id)
        if self.can_expel:
            self.held.discard(model_id)
        return self.can_expel

    def infer(self, model_id: str, call: Call) -> None:
        assert model_id in self.held, "served by a model that is not loaded"
        if self.answer_at_once:
            call.reply.answer(model_id.encode())
        else:
            self.running.append(call)

    def describe(self, model_id: str) -> LoadedModel | None:
        if model_id not in self.held:
            return None
        return LoadedModel(self.size_bytes, self.load_s, "shared", "small", ("old scikit-learn",))

    async def close(self, grace_s: float) -> None:
        self.held.clear()


@dataclass
class MemoryStorage:
    """Finds every file, unless it is named as missing."""

    missing: set[str] = field(default_factory=set)
    schemes: tuple[str, ...] = ("file",)

    def check(self, path: str) -> None:
        if "://" in path:
            raise invalid(f"{path} has a scheme that does not work; these do: file")

    async def fetch(self, model_id: str, path: str, key: str) -> LocalModel:
        if path in self.missing:
            raise MeshError(LOAD_FAILED)
        return LocalModel(path, 10)

    async def release(self, model_id: str) -> None:
        return None
