"""mmesh.ModelMesh: ModelMesh's management service, word for word what its clients rely on.

This face reads messages, judges what a caller may write, decides when a model counts as last used,
and writes statuses. What registering and loading mean is the serving room's business. The service
answers to its legacy name and method names too. Its vmodels are in `vmodels`.
"""

from collections.abc import Callable
from typing import Final

from modelmesh.api.addressing import is_balanced
from modelmesh.api.asking import Tasks
from modelmesh.api.dispatch import Method
from modelmesh.api.management_face import Management
from modelmesh.domain.names import EMPTY, refusal
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import MeshError, invalid
from modelmesh.pb import model_mesh_pb2 as pb
from modelmesh.serving.status import ModelStatus
from modelmesh.wire.transport import Call

SERVICE: Final = "mmesh.ModelMesh"
LEGACY_SERVICE: Final = "com.ibm.watson.tas.proto.TasRuntime"

# How long ago a model that nobody has used yet counts as used: what is to be loaded at once gets
# the better place in the order of eviction (ModelMesh's figures).
_HOUR_MS: Final = 3_600_000
_AGE_IF_LOADED_MS: Final = 1 * _HOUR_MS
_AGE_IF_NOT_MS: Final = 6 * _HOUR_MS


class ModelMesh:
    """The methods of the service. `wall_ms` is the time since the epoch."""

    def __init__(self, management: Management, tasks: Tasks, wall_ms: Callable[[], int]) -> None:
        self._management = management
        self._tasks = tasks
        self._wall_ms = wall_ms

    def methods(self) -> dict[str, Method]:
        """By kind."""
        register = self._tasks.method_of_call(pb.RegisterModelRequest, self._register)
        unregister = self._tasks.method(pb.UnregisterModelRequest, self._unregister)
        methods = {
            "registerModel": register,
            "addModel": register,
            "unregisterModel": unregister,
            "deleteModel": unregister,
            "getModelStatus": self._tasks.method(pb.GetStatusRequest, self._status),
            "ensureLoaded": self._tasks.method_of_call(pb.EnsureLoadedRequest, self._ensure_loaded),
        }
        services = (SERVICE, LEGACY_SERVICE)
        return {f"/{service}/{name}": methods[name] for service in services for name in methods}

    async def _register(self, asked: pb.RegisterModelRequest, call: Call) -> pb.ModelStatusInfo:
        used_ms = last_used_ms(asked.lastUsedTime, self._wall_ms(), asked.loadNow)
        info = asked.modelInfo
        record = new_record(asked.modelId, info.type, info.path, info.key, used_ms)
        status = await self._management.register(
            asked.modelId, record, asked.loadNow, asked.sync, is_balanced(call.metadata)
        )
        return status_info(status)

    async def _unregister(self, asked: pb.UnregisterModelRequest) -> pb.UnregisterModelResponse:
        await self._management.unregister(given(asked.modelId))
        return pb.UnregisterModelResponse()

    async def _status(self, asked: pb.GetStatusRequest) -> pb.ModelStatusInfo:
        return status_info(await self._management.status(given(asked.modelId)))

    async def _ensure_loaded(self, asked: pb.EnsureLoadedRequest, call: Call) -> pb.ModelStatusInfo:
        model_id, now_ms = given(asked.modelId), self._wall_ms()
        used_ms = min(asked.lastUsedTime or now_ms, now_ms)
        balanced = is_balanced(call.metadata)
        status = await self._management.ensure_loaded(model_id, used_ms, asked.sync, balanced)
        return status_info(status)


def new_record(model_id: str, model_type: str, path: str, key: str, used_ms: int) -> ModelRecord:
    """What is registered under this id; INVALID_ARGUMENT if the id or the type cannot be."""
    failure = refusal(model_id)
    if failure is not None:
        raise MeshError(failure)
    if not model_type:
        raise invalid("must provide non-empty type in modelInfo")
    return ModelRecord(model_type, path, key, last_used_ms=used_ms)


def last_used_ms(given_ms: int, now_ms: int, load_now: bool) -> int:
    """When a new model counts as last used: as given, but not later than now; 0 = not given."""
    if given_ms:
        return min(given_ms, now_ms)
    return now_ms - (_AGE_IF_LOADED_MS if load_now else _AGE_IF_NOT_MS)


def given(model_id: str) -> str:
    """The id, if there is one; INVALID_ARGUMENT otherwise."""
    if not model_id:
        raise MeshError(EMPTY)
    return model_id


def status_info(status: ModelStatus) -> pb.ModelStatusInfo:
    info = pb.ModelStatusInfo
    return info(
        status=info.ModelStatus.Value(status.state.value),
        errors=status.errors,
        modelCopyInfos=[
            info.ModelCopyInfo(
                location=copy.location,
                copyStatus=info.ModelStatus.Value(copy.state.value),
                time=copy.time_ms,
            )
            for copy in status.copies
        ],
    )
