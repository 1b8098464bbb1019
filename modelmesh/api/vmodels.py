"""Vmodels over gRPC: ModelMesh's three methods, and the listing that it lacks.

What a vmodel becomes is the serving room's business; this face reads messages and writes statuses.
"""

import asyncio
from collections.abc import Callable

from modelmesh.api.admin import (
    MOST_PAGE_MODELS,
    PAGE_BYTES,
    PAGE_MODELS,
    after_of,
    token_after,
)
from modelmesh.api.admin import SERVICE as ADMIN
from modelmesh.api.asking import Tasks
from modelmesh.api.dispatch import Method
from modelmesh.api.management import LEGACY_SERVICE, SERVICE, last_used_ms, status_info
from modelmesh.api.management_face import VModelManagement
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import invalid
from modelmesh.pb import admin_pb2, model_mesh_pb2
from modelmesh.policy.transition import SetVModel
from modelmesh.serving.vmodels import VModelStatus, VModelView

_CHUNK = 250
_Info = model_mesh_pb2.VModelStatusInfo


class VModels:
    """The methods. `wall_ms` is the time since the epoch."""

    def __init__(self, room: VModelManagement, tasks: Tasks, wall_ms: Callable[[], int]) -> None:
        self._room = room
        self._tasks = tasks
        self._wall_ms = wall_ms

    def methods(self) -> dict[str, Method]:
        """By kind."""
        method = self._tasks.method
        methods = {
            "setVModel": method(model_mesh_pb2.SetVModelRequest, self._set),
            "deleteVModel": method(model_mesh_pb2.DeleteVModelRequest, self._delete),
            "getVModelStatus": method(model_mesh_pb2.GetVModelStatusRequest, self._status),
        }
        services = (SERVICE, LEGACY_SERVICE)
        kinds = {f"/{service}/{name}": methods[name] for service in services for name in methods}
        listing = method(admin_pb2.ListVModelsRequest, self._list)
        return kinds | {f"/{ADMIN}/ListVModels": listing}

    async def _set(self, asked: model_mesh_pb2.SetVModelRequest) -> _Info:
        return _info(await self._room.set_vmodel(_request(asked, self._wall_ms())))

    async def _delete(
        self, asked: model_mesh_pb2.DeleteVModelRequest
    ) -> model_mesh_pb2.DeleteVModelResponse:
        await self._room.delete_vmodel(_given(asked.vModelId), asked.owner)
        return model_mesh_pb2.DeleteVModelResponse()

    async def _status(self, asked: model_mesh_pb2.GetVModelStatusRequest) -> _Info:
        return _info(await self._room.vmodel_status(_given(asked.vModelId), asked.owner))

    async def _list(self, asked: admin_pb2.ListVModelsRequest) -> admin_pb2.ListVModelsResponse:
        left = min(asked.page_size or PAGE_MODELS, MOST_PAGE_MODELS)
        after = after_of(asked.page_token, asked.prefix)
        response, size_bytes = admin_pb2.ListVModelsResponse(), 0
        while True:
            views, after = self._room.vmodel_page(asked.prefix, after, min(left, _CHUNK))
            for view in views:
                row = _row(view)
                size_bytes += row.ByteSize()
                if size_bytes > PAGE_BYTES and response.vmodels:
                    response.next_page_token = token_after(response.vmodels[-1].vmodel_id)
                    return response
                response.vmodels.append(row)
            left -= len(views)
            if not after or left <= 0:
                response.next_page_token = token_after(after) if after else ""
                return response
            await asyncio.sleep(0)


def _request(asked: model_mesh_pb2.SetVModelRequest, now_ms: int) -> SetVModel:
    """What is asked; INVALID_ARGUMENT if the target is described without a type."""
    info, record = asked.modelInfo, None
    if asked.HasField("modelInfo"):
        if not info.type:
            raise invalid("must provide non-empty type in modelInfo")
        used_ms = last_used_ms(0, now_ms, asked.loadNow or asked.sync)
        record = ModelRecord(info.type, info.path, info.key, last_used_ms=used_ms)
    return SetVModel(
        asked.vModelId,
        asked.targetModelId,
        record,
        update_only=asked.updateOnly,
        auto_delete=asked.autoDeleteTargetModel,
        load_now=asked.loadNow,
        force=asked.force,
        sync=asked.sync,
        expected_target=asked.expectedTargetModelId,
        owner=asked.owner,
    )


def _given(vmodel_id: str) -> str:
    """The id, if there is one; INVALID_ARGUMENT otherwise."""
    if not vmodel_id:
        raise invalid("must provide non-empty vModelId")
    return vmodel_id


def _info(status: VModelStatus) -> _Info:
    return _Info(
        status=_Info.VModelStatus.Value(status.state.value),
        activeModelId=status.active_id,
        targetModelId=status.target_id,
        activeModelStatus=status_info(status.active) if status.active is not None else None,
        targetModelStatus=status_info(status.target) if status.target is not None else None,
        owner=status.owner,
    )


def _row(view: VModelView) -> admin_pb2.VModel:
    return admin_pb2.VModel(
        vmodel_id=view.vmodel_id,
        active_model_id=view.active_id,
        target_model_id=view.target_id,
        owner=view.owner,
        state=view.state.value if view.state is not None else "UNKNOWN",
        reason=view.reason,
    )
