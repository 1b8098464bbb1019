"""Models registered at start, as ModelMesh's `MM_AUTO_REGISTER_MODELS` names them.

A JSON list of {"modelId", "modelInfo": {"type", "path", "key"}, "ensureLoaded"}. Any that cannot be
registered, or is to be loaded and cannot, stops the start: a fleet that comes up without the
models it was told to have is worse than one that does not come up.

One with a "vModelId" becomes the target of that vmodel. Unless "retainAfterTransition" says so, it
goes when the vmodel moves on: the next version of the list names the next model.
"""

import json
from dataclasses import dataclass
from typing import Any

from modelmesh.domain import names
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Failure, MeshError, invalid
from modelmesh.policy.transition import SetVModel
from modelmesh.serving.management import Management
from modelmesh.serving.status import ModelStatus, State
from modelmesh.serving.vmodels import VModelManagement

_FIELDS = {"modelId", "modelInfo", "ensureLoaded", "vModelId", "retainAfterTransition"}


@dataclass(frozen=True, slots=True)
class StaticModel:
    """One model that must be registered before the daemon is ready."""

    model_id: str
    record: ModelRecord
    ensure_loaded: bool
    vmodel_id: str = ""
    retain: bool = False  # it stays when its vmodel has moved on


def parse(text: str) -> list[StaticModel]:
    """Read the setting; raises MeshError INVALID_ARGUMENT."""
    try:
        items = json.loads(text)
    except ValueError as error:
        raise invalid(f"MM_AUTO_REGISTER_MODELS is not JSON: {error}") from None
    if isinstance(items, dict):
        items = [items]
    if not isinstance(items, list):
        raise invalid("MM_AUTO_REGISTER_MODELS must be a JSON list")
    return [_model(item) for item in items]


async def register(
    models: list[StaticModel], management: Management, vmodels: VModelManagement, now_ms: int
) -> None:
    """Register all, then load those that are to be loaded; the first failure is raised."""
    for model in models:
        record = model.record.used_at(now_ms)
        if model.vmodel_id:
            await vmodels.set_vmodel(
                SetVModel(model.vmodel_id, model.model_id, record, auto_delete=not model.retain)
            )
        else:
            await management.register(model.model_id, record, load_now=False, sync=False)
    for model in models:
        if model.ensure_loaded:
            status = await management.ensure_loaded(model.model_id, now_ms, sync=True)
            if status.state is not State.LOADED:
                raise MeshError(_not_loaded(model, status))


def _not_loaded(model: StaticModel, status: ModelStatus) -> Failure:
    reason = status.errors[0] if status.errors else status.state.value
    return Failure(Code.FAILED_PRECONDITION, f"{model.model_id} does not load: {reason}")


def _model(item: Any) -> StaticModel:
    if not isinstance(item, dict) or set(item) - _FIELDS:
        raise invalid(f"MM_AUTO_REGISTER_MODELS: {item!r} is not a model")
    vmodel_id = item.get("vModelId") or ""
    if vmodel_id and (not isinstance(vmodel_id, str) or names.refusal(vmodel_id) is not None):
        raise invalid(f"MM_AUTO_REGISTER_MODELS: {vmodel_id!r} cannot be a vModelId")
    info = item.get("modelInfo")
    model_id = item.get("modelId")
    if not isinstance(info, dict) or not isinstance(model_id, str) or not model_id:
        raise invalid("MM_AUTO_REGISTER_MODELS: a model needs modelId and modelInfo")
    if (failure := names.refusal(model_id)) is not None:
        raise invalid(f"MM_AUTO_REGISTER_MODELS: {failure.message}")
    if not isinstance(info.get("type"), str) or not info["type"]:
        raise invalid(f"MM_AUTO_REGISTER_MODELS: {model_id} needs a type")
    record = ModelRecord(info["type"], info.get("path") or "", info.get("key") or "")
    retain = bool(item.get("retainAfterTransition"))
    return StaticModel(model_id, record, bool(item.get("ensureLoaded")), vmodel_id, retain)
