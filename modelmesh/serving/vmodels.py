"""Vmodels as an operator sees them: set, ask, delete, and what a decision about one wants done.

What becomes of a vmodel is decided by `policy.transition` and written by `registry.vmodels`; here
is carried out what follows from it: a model is loaded, a caller who asked for it waits. Nothing
here is on the path of an inference request (that is `named`).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

import structlog

from modelmesh.domain.records import ModelRecord
from modelmesh.domain.vmodels import VModelRecord
from modelmesh.errors import Failure, MeshError
from modelmesh.policy.transition import Changes, SetVModel, Standing, VModelState, state_of
from modelmesh.registry.vmodels import Stand, VModels
from modelmesh.serving.management import Management
from modelmesh.serving.standing import CopiesOf, is_final
from modelmesh.serving.status import ModelStatus

log = structlog.get_logger("serving")

# How long a caller who wants to hear of the end of a transition is kept (ModelMesh's bound).
SYNC_S: Final = 240.0
# While he waits: should a watch have lost the word that it is over.
_LOST_EVENT_S: Final = 5.0
# To be loaded for a vmodel is no use of a model: earlier than any.
_NO_USE_MS: Final = 1


@dataclass(frozen=True, slots=True)
class VModelStatus:
    """What a caller may know. The statuses of models are there as far as there are models;
    `target` only while in transition."""

    state: VModelState
    active_id: str = ""
    target_id: str = ""
    owner: str = ""
    active: ModelStatus | None = None
    target: ModelStatus | None = None


@dataclass(frozen=True, slots=True)
class VModelView:
    """A row of a listing; `reason` says why a record cannot be read."""

    vmodel_id: str
    active_id: str
    target_id: str
    owner: str
    state: VModelState | None
    reason: str = ""


class VModelManagement:
    """The vmodels of one daemon, or of its fleet."""

    def __init__(
        self,
        vmodels: VModels,
        management: Management,
        copies: CopiesOf,
        wall_ms: Callable[[], int],
        default_owner: str = "",
    ) -> None:
        """`default_owner`: of vmodels that are made without one."""
        self._vmodels = vmodels
        self._management = management
        self._copies = copies
        self._wall_ms = wall_ms
        self._default_owner = default_owner

    # --- what is asked

    async def set_vmodel(self, request: SetVModel) -> VModelStatus:
        """Make it stand for the target, now or as soon as that is loaded."""
        if request.info is not None:
            self._management.check(request.info)
        request = replace(request, default_owner=self._default_owner)
        changes = await self._vmodels.set(request, self._copies.stand, self._wall_ms())
        log.info(
            "vmodel set", vmodel=request.vmodel_id, target=request.target_id, why=changes.reason
        )
        bound = asyncio.timeout(SYNC_S if changes.wait else None)
        try:
            async with bound:
                if changes.moving and changes.wait:
                    await self._until_settled(request)
                elif changes.load and not changes.moving:
                    await self._management.ensure_loaded(changes.load, _NO_USE_MS, changes.wait)
        except TimeoutError:
            if not bound.expired():
                raise
        return await self.vmodel_status(request.vmodel_id, "")

    async def delete_vmodel(self, vmodel_id: str, owner: str) -> None:
        """What is not there, or somebody else's, is gone already."""
        changes = await self._vmodels.delete(vmodel_id, owner)
        log.info("vmodel deleted", vmodel=vmodel_id, why=changes.reason)

    async def vmodel_status(self, vmodel_id: str, owner: str) -> VModelStatus:
        """As the store has it, if it answers. UNAVAILABLE: it does not, and none is known here."""
        record = await self._vmodels.look(vmodel_id)
        if record is None and (failure := self._vmodels.unheard()):
            raise MeshError(failure)
        state = state_of(record, owner)
        if record is None or state is VModelState.NOT_FOUND:
            return VModelStatus(VModelState.NOT_FOUND)
        active = await self._management.status(record.active_id)
        target = None
        if record.transitioning:
            target = await self._management.status(record.target_id)
        return VModelStatus(state, record.active_id, record.target_id, record.owner, active, target)

    def vmodel_page(self, prefix: str, after: str, limit: int) -> tuple[list[VModelView], str]:
        """Vmodels in the order of their ids, and the id after which the next page starts."""
        names = list(islice(self._vmodels.names(prefix, after), limit + 1))
        views = [view for name in names[:limit] if (view := self._view(name)) is not None]
        return views, names[limit - 1] if len(names) > limit else ""

    def _view(self, vmodel_id: str) -> VModelView | None:
        try:
            record = self._vmodels.get(vmodel_id)
        except MeshError as error:
            return VModelView(vmodel_id, "", "", "", None, error.failure.message)
        if record is None:
            return None
        state = state_of(record, "")
        return VModelView(vmodel_id, record.active_id, record.target_id, record.owner, state)

    async def _until_settled(self, request: SetVModel) -> None:
        """Until it stands for this target, or cannot, or somebody wants another one."""
        changed = asyncio.Event()

        def hear(vmodel_ids: list[str]) -> None:
            if request.vmodel_id in vmodel_ids:
                changed.set()

        unsubscribe = self._vmodels.subscribe(hear)
        try:
            while _is_on_its_way(self._vmodels.get(request.vmodel_id), request.target_id):
                try:
                    async with asyncio.timeout(_LOST_EVENT_S):
                        await changed.wait()
                except TimeoutError:
                    await self._vmodels.look(request.vmodel_id)
                changed.clear()
        finally:
            unsubscribe()

    # --- what the transitions' driver asks

    async def push(self, vmodel_id: str) -> bool:
        """Do what is next for a vmodel on its way; False: nothing came of it, try again later."""
        changes = await self._vmodels.advance(vmodel_id, self._copies.stand)
        if changes.writes:
            self._tell(vmodel_id, changes)
            return True
        record = self._vmodels.get(vmodel_id)
        if record is None or not changes.moving or (record.failed and not changes.load):
            return True
        target_id = changes.load or record.target_id
        failure = await self._copies.load(target_id, changes.copies)
        stand: Stand = self._copies.stand
        if failure is not None:
            log.info("a target does not load", vmodel=vmodel_id, failure=failure.message)
            if not is_final(failure):
                return False
            stand = self._knowing(target_id, failure)
        changes = await self._vmodels.advance(vmodel_id, stand)
        self._tell(vmodel_id, changes)
        return failure is None

    def _tell(self, vmodel_id: str, changes: Changes) -> None:
        if changes.writes:
            log.info("vmodel moved", vmodel=vmodel_id, why=changes.reason)

    def _knowing(self, target_id: str, failure: Failure) -> Stand:
        """How models stand, with what has just been seen of this one."""

        def stand(model_id: str, record: ModelRecord) -> Standing:
            standing = self._copies.stand(model_id, record)
            if model_id != target_id:
                return standing
            return replace(standing, coming=0, failure=standing.failure or failure.message)

        return stand


def _is_on_its_way(record: VModelRecord | None, target_id: str) -> bool:
    return (
        record is not None
        and record.transitioning
        and not record.failed
        and record.target_id == target_id
    )
