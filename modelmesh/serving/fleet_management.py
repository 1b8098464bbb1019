"""The models of a whole fleet, as an operator sees them from any of its daemons.

What is registered stands in the registry and is the same everywhere; where a model is loaded, and
where and why it failed, stands in its record; memory is each daemon's own. Loading on purpose takes
the way that a request takes: routing says where, this daemon or another one does it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from modelmesh.cache.decisions import Decision, Verdict
from modelmesh.domain.fleet import FROM_CALLER, Hops, Intent, Peer
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Failure, Fault, MeshError, Reason, not_found, unheard
from modelmesh.policy.resending import after_failure
from modelmesh.policy.routing import FleetRequest, FleetRoute, Forward, Reject, ServeHere
from modelmesh.serving.management import Management
from modelmesh.serving.remote import Remote
from modelmesh.serving.status import (
    CopyStatus,
    Explained,
    Health,
    InstanceView,
    ModelStatus,
    ModelView,
    State,
)
from modelmesh.serving.view import FleetView

log = structlog.get_logger("serving")

# Longer than any load, with its wait for room.
_LOAD_BOUND_S: Final = 3600.0
_UNLOAD_BOUND_S: Final = 120.0
_HOUR_MS: Final = 3_600_000

Decide = Callable[[FleetRequest, float], FleetRoute]


@dataclass(slots=True)
class _Wish:
    """A load on purpose, as routing sees it: one more request for the model."""

    model_id: str
    hops: Hops = FROM_CALLER
    tried: list[str] = field(default_factory=list)
    balanced: bool = False
    attempt: int = 0
    asked_store: bool = True

    def refused(self, instance_id: str) -> None:
        self.attempt += 1
        self.tried.append(instance_id)


class FleetManagement(Management):
    """`Management` of one member. `look(model_id)` reads a model from the store into the table."""

    further_fields: Mapping[str, object] = {}  # of the records of models that are registered here

    def attach(
        self,
        view: FleetView,
        decide: Decide,
        remote: Remote,
        look: Callable[[str], Awaitable[object]],
        forgive: Callable[[str], None],
        accept_restore: Callable[[], int],
        reread: Callable[[str], Awaitable[object]] | None = None,
    ) -> None:
        """The others; to be said before the first call. `reread`: whatever the table has."""
        self._view = view
        self._decide = decide
        self._remote = remote
        self._look = look
        self._forgive = forgive
        self._accept_restore = accept_restore
        self._reread = reread or look

    # --- states

    async def status(self, model_id: str) -> ModelStatus:
        """Where the model stands in the fleet."""
        await self._heard(model_id)
        here, record = await super().status(model_id), self._view.record(model_id)
        if record is None:  # or it cannot be read
            return here
        recorded = {copy.location: copy for copy in self._copies_of(record)}
        mine = recorded.pop(self._view.me, None)
        copies = [
            mine if mine is not None and mine.state is copy.state else copy
            for copy in here.copies
            if copy.state is not State.LOADING_FAILED
        ]
        copies += recorded.values()
        failed = [
            CopyStatus(each, State.LOADING_FAILED, at_ms)
            for each, at_ms in record.failed_in.items()
        ]
        messages = [*here.errors]
        messages += [
            record.failure_message(each) for each in record.failed_in if each != self._view.me
        ]
        return ModelStatus(_state(copies, failed, here.state), tuple(messages), (*copies, *failed))

    def state(self, model_id: str) -> State:
        """One word for where the (registered) model stands in the fleet."""
        here = super().state(model_id)
        if here is State.LOADED:
            return here
        record = self._view.record(model_id)
        if record is None or not (record.instance_ids or record.failed_in):
            return here
        return _state(self._copies_of(record), record.failed_in, here)

    def view(self, model_id: str) -> ModelView | None:
        """One row of a listing, with the instances that have a copy."""
        row = super().view(model_id)
        record = self._view.record(model_id)
        if row is None or record is None:
            return row
        loaded = [c.location for c in self._copies_of(record) if c.state is State.LOADED]
        if self._copies.is_loaded(model_id) and self._view.me not in loaded:
            loaded.append(self._view.me)
        why = row.reason or next((record.failure_message(i) for i in record.fails), "")
        return replace(row, instances=tuple(sorted(loaded)), reason=why)

    def _copies_of(self, record: ModelRecord) -> list[CopyStatus]:
        """Copies on instances that exist."""
        return [
            CopyStatus(
                each,
                State.LOADED if each in record.loaded_in else State.LOADING,
                record.loaded_in.get(each, since_ms),
            )
            for each, since_ms in record.instance_ids.items()
            if each == self._view.me or self._view.peer(each) is not None
        ]

    # --- the fleet

    alone = False

    def instances(self) -> list[InstanceView]:
        """Every instance that exists, by name, as it looks from here."""
        view = self._view
        rows = [InstanceView(p.instance_id, p.record, _health(p)) for p in view.peers()]
        rows.append(InstanceView(view.me, view.my_record, Health.HERE))
        return sorted(rows, key=lambda row: row.instance_id)

    def accept_restore(self) -> int:
        return self._accept_restore()

    async def _heard(self, model_id: str) -> None:
        """What the table lacks is looked for in the store. UNAVAILABLE: that does not answer."""
        if model_id not in self._models:
            await self._look(model_id)
            if model_id not in self._models and not self._view.store_answers:
                raise unheard("model")

    async def _known(self, model_id: str) -> ModelRecord | None:
        """The record, wherever it is. DATA_LOSS: it cannot be read."""
        await self._heard(model_id)
        return self._models.get(model_id)

    async def explain(self, model_id: str) -> Explained:
        """What routing would do with a request now, and what room there is here."""
        if await self._known(model_id) is None:
            raise not_found()
        explained = await super().explain(model_id)
        decision = self._decide(_Wish(model_id), self._clock())
        if isinstance(decision, Forward):
            to = f"to {decision.instance_id}: {decision.reason}"
            return replace(explained, forward=to)
        if isinstance(decision, Reject):
            refusal = Decision(Verdict.REFUSE, decision.reason, failure=decision.failure)
            return replace(explained, explanation=replace(explained.explanation, decision=refusal))
        return explained

    # --- registrations

    async def register(
        self,
        model_id: str,
        record: ModelRecord,
        load_now: bool,
        sync: bool,
        balanced: bool = False,
    ) -> ModelStatus:
        if self._view.draining and load_now:
            load_now = sync = False  # it will be loaded where it is asked for
        if self.further_fields:
            record = replace(record, unknown={**record.unknown, **self.further_fields})
        return await super().register(model_id, record, load_now, sync, balanced)

    # --- loading on purpose

    async def ensure_loaded(
        self, model_id: str, last_used_ms: int, sync: bool, balanced: bool = False
    ) -> ModelStatus:
        """Load the model somewhere if need be. A failed load is the status, not an error."""
        record = await self._known(model_id)
        if record is None:
            raise not_found()
        await self._touch(model_id, last_used_ms or self._wall_ms())
        if self._copies.is_loaded(model_id):
            self._copies.touch(model_id, self._clock())
        try:
            await self._somewhere(model_id, sync, balanced)
        except MeshError as error:
            return _as_it_ended(await self.status(model_id), error.failure)
        return await self.status(model_id)

    async def load(self, model_id: str) -> None:
        """Load now, whatever failures are remembered: an operator asks. Raises MeshError."""
        if await self._known(model_id) is None:
            raise not_found()
        self._failures.forget(model_id)
        await self._models.update(model_id, lambda record: replace(record, failed_in={}, fails={}))
        await self._somewhere(model_id, sync=True)

    async def try_load(self, model_id: str) -> Failure | None:
        """Load it somewhere, unless it is or has failed too often, and wait; why it is not."""
        try:
            if await self._known(model_id) is None:
                return not_found().failure
            await self._somewhere(model_id, sync=True)
        except MeshError as error:
            return error.failure
        return None

    async def load_here(self, model_id: str, *, further: bool, sync: bool) -> bool:
        """Another daemon wants it loaded here; whether it is. MeshError: why not."""
        if self._copies.is_loaded(model_id):
            return True
        record = await self._known(model_id)
        if record is None:
            raise not_found()
        decision = self._decide(_Wish(model_id, Hops(Intent.LOAD, "")), self._clock())
        if isinstance(decision, Reject):
            raise MeshError(decision.failure)
        failure = await self._load(model_id, record, sync, further=further)
        if failure is not None:
            raise MeshError(failure)
        return self._copies.is_loaded(model_id)

    async def unload(self, model_id: str) -> bool:
        """Unload every copy after its last call; whether there was one.

        It is not loaded again before somebody asks for it, or wishes for a copy."""
        record = await self._known(model_id)
        if record is None:
            raise not_found()
        await self._keep_out(model_id)
        holders = [each for each in record.instance_ids if self._view.peer(each) is not None]
        there = await asyncio.gather(
            *(self._remote.unload(each, model_id, _UNLOAD_BOUND_S) for each in holders),
            return_exceptions=True,
        )
        here = await super().unload(model_id) if model_id in self._models else False
        for outcome in there:
            if isinstance(outcome, MeshError) and outcome.failure.reason is not Reason.NOT_HERE:
                raise outcome
        return here or any(outcome is True for outcome in there)

    async def unload_here(self, model_id: str) -> bool:
        """Another daemon wants the copy here to go."""
        return await super().unload(model_id)

    async def _keep_out(self, model_id: str) -> None:
        """Said before the copies go, and at all only to a store that answers: memory must be given
        back during an outage too."""
        try:
            await self._models.update(model_id, lambda record: replace(record, kept_out=True))
        except MeshError as error:
            if error.failure.fault is not Fault.STORE:
                raise
            log.warning("may be loaded ahead again", model=model_id, failure=error.failure.message)

    async def _touch(self, model_id: str, used_ms: int) -> None:
        """Note the use; a store that does not answer keeps nobody from loading."""
        try:
            await self._models.touch(model_id, used_ms, slack_ms=_HOUR_MS)
        except MeshError as error:
            if error.failure.fault is not Fault.STORE:
                raise

    async def _somewhere(self, model_id: str, sync: bool, balanced: bool = False) -> None:
        """Have it loaded where routing says; raises the last failure."""
        wish, last = _Wish(model_id, balanced=balanced), None
        while True:
            decision = self._decide(wish, self._clock())
            if isinstance(decision, ServeHere):
                return
            if isinstance(decision, Reject):
                raise MeshError(last or decision.failure)
            failure = await self._try(wish, decision, sync)
            if failure is None:
                return
            if not after_failure(failure, idempotent=True, resent=False).again:
                raise MeshError(failure)
            if failure.reason is not Reason.NOT_HERE:
                last = failure

    async def _try(self, wish: _Wish, decision: FleetRoute, sync: bool) -> Failure | None:
        """One attempt, here or there."""
        model_id = wish.model_id
        if not isinstance(decision, Forward):
            record = self._view.record(model_id)
            if record is None:
                raise not_found()
            failure = await self._load(model_id, record, sync)
            if failure is not None and failure.reason is Reason.NOT_HERE:
                wish.attempt += 1  # somebody else was faster: he is the one to ask
            elif failure is not None:
                wish.refused(self._view.me)
            return failure
        record = self._view.record(model_id)
        if decision.intent is Intent.HIT and (not sync or _loaded_at(record, decision)):
            return None
        bound_s = _LOAD_BOUND_S if sync else 30.0
        try:
            await self._remote.load(
                decision.instance_id, model_id, further=False, sync=sync, bound_s=bound_s
            )
        except MeshError as error:
            wish.refused(decision.instance_id)
            return error.failure
        if sync:
            await self._reread(model_id)  # it is loaded there, which our table may not know yet
        return None


def _health(peer: Peer) -> Health:
    if not peer.reachable:
        return Health.UNREACHABLE
    return Health.SUSPECT if peer.suspect else Health.ANSWERS


def _as_it_ended(status: ModelStatus, failure: Failure) -> ModelStatus:
    """The status of what could not be loaded just now. The table may still show loads as coming
    that have failed by now: what is wrong with the model is believed."""
    coming = status.state is State.LOADING and failure.fault is not Fault.MODEL
    if status.state is State.LOADED or coming:
        return status
    said = () if failure.message in status.errors else (failure.message,)
    return ModelStatus(State.LOADING_FAILED, (*said, *status.errors), status.copies)


def _loaded_at(record: ModelRecord | None, decision: Forward) -> bool:
    return record is not None and decision.instance_id in record.loaded_in


def _state(copies: Collection[CopyStatus], failed: Collection[object], otherwise: State) -> State:
    states = {copy.state for copy in copies}
    if State.LOADED in states:
        return State.LOADED
    if State.LOADING in states:
        return State.LOADING
    return State.LOADING_FAILED if failed else otherwise
