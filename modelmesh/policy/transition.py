"""What becomes of a vmodel: set, deleted, moved from its active model to its target.

A vmodel is a name that stands for a model. When it is given another one (the *target*), the old one
(the *active* one) goes on answering until the target is loaded, on as many instances as the active
one if the fleet has them and it does not take too long; then the target becomes the active one.
Nobody who calls the vmodel sees a failure that the old model would not have given: only what nobody
has used for an hour, or what is forced, is moved without looking.

A vmodel holds its models: each record counts in `refs` the vmodels that stand for it, as active or
target, once each. A model that was registered to be deleted automatically goes with its last one.

Pure. An answer is a list of records to write in one transaction, guarded by the revisions of all
records that were looked at (the vmodel, its active, its old and its new target, those absent too);
if one has changed, read again and ask again. What ModelMesh does with each flag holds, except that
a rollback does not count its model twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from modelmesh.domain import names
from modelmesh.domain.records import ModelRecord
from modelmesh.domain.vmodels import VModelRecord
from modelmesh.errors import Code, Failure

# An active model without a copy that was used more lately than this is still in use.
_IN_USE_MS: Final = 3_600_000
# How long a loaded target waits for further copies before it takes over with those it has.
_MATCH_S: Final = 30.0


class Kind(StrEnum):
    """Which table a record belongs to."""

    MODEL = "model"
    VMODEL = "vmodel"


@dataclass(frozen=True, slots=True)
class Write:
    """One record to put, or (None) to delete."""

    kind: Kind
    name: str
    record: ModelRecord | VModelRecord | None


@dataclass(frozen=True, slots=True)
class Changes:
    """What to write (perhaps nothing), what to load afterwards, and why.

    `load`: the model to be ensured loaded ("": none), on `copies` further instances. `moving`:
    whether the vmodel is in transition now, so that somebody must `advance` it. `wait`: whether
    the caller wants to be answered only when that is done.
    """

    writes: tuple[Write, ...]
    reason: str
    load: str = ""
    copies: int = 0
    moving: bool = False
    wait: bool = False


@dataclass(frozen=True, slots=True)
class SetVModel:
    """A request. `info`: the target as it shall be registered if it is not; None: it must be.

    "" for `owner` and `expected_target` is no condition. `default_owner`: of a new vmodel.
    """

    vmodel_id: str
    target_id: str
    info: ModelRecord | None = None
    update_only: bool = False
    auto_delete: bool = False
    load_now: bool = False
    force: bool = False
    sync: bool = False
    expected_target: str = ""
    owner: str = ""
    default_owner: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a model's copies are, on instances that live and answer.

    `possible`: on how many it may be. `loaded_s`: since the first copy took calls. `failure`: why
    it must not be loaded now, if it must not.
    """

    loaded: int = 0
    coming: int = 0
    possible: int = 1
    loaded_s: float = 0.0
    failure: str = ""


NOWHERE: Final = Standing()

Models = Mapping[str, ModelRecord]


def set_vmodel(
    request: SetVModel,
    vmodel: VModelRecord | None,
    models: Models,
    active: Standing,
    target: Standing,
    now_ms: int,
) -> Changes | Failure:
    """Decide. `models`: the records that exist of active, old and new target, by their ids.

    `active` and `target` (the new one): how they stand.
    """
    if (failure := _refusal(request, vmodel, models)) is not None:
        return failure
    draft = _Draft(models)
    if request.target_id not in models and request.info is not None:
        draft.records[request.target_id] = replace(
            request.info, refs=0, auto_delete=request.auto_delete
        )
    if vmodel is None:
        return _created(request, draft)
    if request.target_id == vmodel.target_id:
        return _same_target(request, vmodel, draft)
    return _moved(request, vmodel, models, active, target, draft, now_ms)


def delete_vmodel(
    vmodel_id: str, owner: str, vmodel: VModelRecord | None, models: Models
) -> Changes:
    """Decide. What is not there, or belongs to somebody else, is gone already."""
    if not owns(vmodel, owner) or vmodel is None:
        return Changes((), "no such vmodel of this owner")
    draft = _Draft(models)
    for model_id in {vmodel.active_id, vmodel.target_id}:
        draft.release(model_id)
    return Changes(draft.writes(vmodel_id, None), "deleted")


def advance(
    vmodel_id: str, vmodel: VModelRecord, models: Models, active: Standing, target: Standing
) -> Changes:
    """What the leader does next for a vmodel that is on its way."""
    if not vmodel.transitioning:
        return Changes((), "not on its way")
    if vmodel.target_id not in models:
        return _failed(vmodel_id, vmodel, "the target is not registered")
    if vmodel.active_id not in models:
        return _promoted(vmodel_id, vmodel, models, "the active model is gone")
    wanted = max(1, min(active.loaded, target.possible))
    if target.loaded >= wanted:
        return _promoted(vmodel_id, vmodel, models, "the target is loaded")
    if target.loaded and (target.loaded_s >= _MATCH_S or target.failure):
        return _promoted(vmodel_id, vmodel, models, "the target is loaded as often as it may be")
    if target.failure:
        return _failed(vmodel_id, vmodel, target.failure)
    further = max(wanted - target.loaded - target.coming, 0)
    if not further:
        return Changes((), "the target is coming", moving=True)
    return Changes((), "the target must be loaded first", vmodel.target_id, further, moving=True)


# --- reading


class VModelState(StrEnum):
    """ModelMesh's states of a vmodel (names are the public contract)."""

    NOT_FOUND = "NOT_FOUND"
    DEFINED = "DEFINED"
    TRANSITIONING = "TRANSITIONING"
    TRANSITION_FAILED = "TRANSITION_FAILED"


def owns(vmodel: VModelRecord | None, owner: str) -> bool:
    """Whether there is one, and the owner (if any is given) is its own."""
    return vmodel is not None and owner in ("", vmodel.owner)


def state_of(vmodel: VModelRecord | None, owner: str) -> VModelState:
    """The state as this owner may know it."""
    if vmodel is None or not owns(vmodel, owner):
        return VModelState.NOT_FOUND
    if not vmodel.transitioning:
        return VModelState.DEFINED
    return VModelState.TRANSITION_FAILED if vmodel.failed else VModelState.TRANSITIONING


def answering(vmodel: VModelRecord, active_exists: bool) -> str:
    """The model that a call of the vmodel goes to: the active one, or the target if that is gone.

    Before a missing active model is believed, the vmodel is read from the store: it may have moved.
    """
    return vmodel.active_id if active_exists or not vmodel.target_id else vmodel.target_id


# --- cases of set


def _refusal(request: SetVModel, vmodel: VModelRecord | None, models: Models) -> Failure | None:
    if not request.vmodel_id:
        return Failure(Code.INVALID_ARGUMENT, "must provide non-empty vModelId")
    if not request.target_id:
        return Failure(Code.INVALID_ARGUMENT, "must provide non-empty targetModelId")
    if vmodel is None:
        if (failure := names.refusal(request.vmodel_id)) is not None:
            return replace(failure, message=failure.message.replace("modelId", "vModelId"))
        if request.update_only:
            return Failure(Code.NOT_FOUND, "vmodel not found")
        if request.expected_target not in ("", request.target_id):
            return Failure(Code.FAILED_PRECONDITION, "vmodel not found")
    else:
        if not owns(vmodel, request.owner):
            message = f"the vmodel exists with another owner ({vmodel.owner or 'none'})"
            return Failure(Code.ALREADY_EXISTS, message)
        if vmodel.target_id not in (request.target_id, request.expected_target or vmodel.target_id):
            message = f"the vmodel's target is {vmodel.target_id}, not {request.expected_target}"
            return Failure(Code.FAILED_PRECONDITION, message)
    return _refused_target(request, models.get(request.target_id))


def _refused_target(request: SetVModel, target: ModelRecord | None) -> Failure | None:
    if target is not None:
        if request.info is not None and not target.same_model(request.info):
            message = "the target model exists with different attribute values"
            return Failure(Code.ALREADY_EXISTS, message)
        return None
    if request.info is None:
        return Failure(Code.NOT_FOUND, "target model not found")
    failure = names.refusal(request.target_id)
    return failure and replace(failure, message=failure.message.replace("modelId", "targetModelId"))


def _created(request: SetVModel, draft: "_Draft") -> Changes:
    draft.refer(request.target_id)
    owner = request.owner or request.default_owner
    record = VModelRecord(request.target_id, request.target_id, owner)
    return _settled(request, draft.writes(request.vmodel_id, record), "a new vmodel")


def _same_target(request: SetVModel, vmodel: VModelRecord, draft: "_Draft") -> Changes:
    if not vmodel.transitioning:
        return _settled(request, (), "it stands for this model already")
    if not request.force:
        return Changes((), "it is on its way already", moving=True, wait=request.sync)
    draft.release(vmodel.active_id)
    forced = replace(vmodel, active_id=vmodel.target_id, failed=False)
    return _settled(request, draft.writes(request.vmodel_id, forced), "forced", load=True)


def _moved(
    request: SetVModel,
    vmodel: VModelRecord,
    models: Models,
    active: Standing,
    target: Standing,
    draft: "_Draft",
    now_ms: int,
) -> Changes:
    """Another target. The one that it supersedes is let go, unless it answers."""
    target_id, active_id = request.target_id, vmodel.active_id
    active_record = models.get(active_id)
    if target_id != active_id:
        draft.refer(target_id, active_record.last_used_ms if active_record else 0)
    if vmodel.transitioning:
        draft.release(vmodel.target_id)
    moved = replace(vmodel, target_id=target_id, failed=False)
    if target_id == active_id:
        return _settled(request, draft.writes(request.vmodel_id, moved), "back to the active model")
    reason = _at_once(request, active_record, active, target, now_ms)
    if not reason:
        writes = draft.writes(request.vmodel_id, moved)
        return Changes(writes, "the target is to be loaded", moving=True, wait=request.sync)
    draft.release(active_id)
    settled = replace(moved, active_id=target_id)
    writes = draft.writes(request.vmodel_id, settled)
    return _settled(request, writes, reason, load=active.loaded > 0)


def _at_once(
    request: SetVModel,
    active_record: ModelRecord | None,
    active: Standing,
    target: Standing,
    now_ms: int,
) -> str:
    """Why it needs no transition; "" if it does."""
    if request.force:
        return "forced"
    if active_record is None:
        return "the active model is gone"
    if active.loaded <= 1 and target.loaded:
        return "the target is loaded"
    in_use = active.loaded or active.coming or now_ms - active_record.last_used_ms < _IN_USE_MS
    return "" if in_use or target.failure else "nobody uses the active model"


def _settled(
    request: SetVModel, writes: tuple[Write, ...], reason: str, load: bool = False
) -> Changes:
    """No transition (any more): loading is what the caller asks for."""
    if load or request.load_now or request.sync:
        return Changes(writes, reason, request.target_id, 1, wait=request.sync)
    return Changes(writes, reason)


# --- cases of advance


def _promoted(vmodel_id: str, vmodel: VModelRecord, models: Models, reason: str) -> Changes:
    draft = _Draft(models)
    draft.release(vmodel.active_id)
    record = replace(vmodel, active_id=vmodel.target_id, failed=False)
    return Changes(draft.writes(vmodel_id, record), reason)


def _failed(vmodel_id: str, vmodel: VModelRecord, reason: str) -> Changes:
    """The active model goes on; the flag is for those who ask."""
    if vmodel.failed:
        return Changes((), reason, moving=True)
    write = Write(Kind.VMODEL, vmodel_id, replace(vmodel, failed=True))
    return Changes((write,), reason, moving=True)


class _Draft:
    """Model records while their references are counted anew."""

    def __init__(self, models: Models) -> None:
        self._before = models
        self.records: dict[str, ModelRecord | None] = {}

    def refer(self, model_id: str, last_used_ms: int = 0) -> None:
        """One vmodel more; the target inherits how lately the active model was used."""
        record = self._get(model_id)
        if record is not None:
            used_ms = max(record.last_used_ms, last_used_ms)
            self.records[model_id] = replace(record, refs=record.refs + 1, last_used_ms=used_ms)

    def release(self, model_id: str) -> None:
        """One vmodel less; with the last one goes what is to be deleted automatically."""
        record = self._get(model_id)
        if record is None:
            return
        refs = max(record.refs - 1, 0)
        gone = record.auto_delete and not refs
        self.records[model_id] = None if gone else replace(record, refs=refs)

    def writes(self, vmodel_id: str, vmodel: VModelRecord | None) -> tuple[Write, ...]:
        """The vmodel and the models that changed, in the order of their ids."""
        models = (
            Write(Kind.MODEL, model_id, record)
            for model_id, record in sorted(self.records.items())
            if record != self._before.get(model_id)
        )
        return (Write(Kind.VMODEL, vmodel_id, vmodel), *models)

    def _get(self, model_id: str) -> ModelRecord | None:
        if model_id in self.records:
            return self.records[model_id]
        return self._before.get(model_id)
