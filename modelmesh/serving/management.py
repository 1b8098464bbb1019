"""Registering, finding, loading on purpose and explaining: what the management faces ask.

Semantics are ModelMesh's (idempotent registration, load failures as status and not as errors); a
copy's state is reported as it is, where the original says UNKNOWN. Nothing here is on the path of
an inference request.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from math import inf

from modelmesh.cache.decisions import Decision, Verdict
from modelmesh.domain.instances import InstanceRecord, units_of
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Failure, MeshError, invalid, not_found
from modelmesh.registry.models import Registration
from modelmesh.runtime.door import LoadRequest
from modelmesh.serving.changes import Listener
from modelmesh.serving.flight import Waiter
from modelmesh.serving.parts import Parts
from modelmesh.serving.status import (
    CopyStatus,
    Explained,
    Health,
    InstanceView,
    ModelStatus,
    ModelView,
    State,
)
from modelmesh.serving.wishes import WishChange, wished
from modelmesh.storage.door import Storage

_DIFFERENT = Failure(Code.ALREADY_EXISTS, "Model already exists with different attribute values")
_HOUR_MS = 3_600_000


class Management:
    """The models of one daemon, as an operator sees them."""

    def __init__(
        self, parts: Parts, storage: Storage, instance_id: str, wall_ms: Callable[[], int]
    ) -> None:
        self._models = parts.models
        self._copies = parts.copies
        self._runtime = parts.runtime
        self._failures = parts.failures
        self._loader = parts.loader
        self._clock = parts.clock
        self._changes = parts.changes
        self._storage = storage
        self._instance_id = instance_id
        self._wall_ms = wall_ms

    # --- registrations

    async def register(
        self,
        model_id: str,
        record: ModelRecord,
        load_now: bool,
        sync: bool,
        balanced: bool = False,
    ) -> ModelStatus:
        """Register once; the same again is a success, other attributes are ALREADY_EXISTS."""
        self.check(record)
        outcome = await self._models.register(model_id, record)
        if outcome is Registration.DIFFERENT:
            raise MeshError(_DIFFERENT)
        if load_now:
            return await self.ensure_loaded(model_id, record.last_used_ms, sync, balanced)
        if outcome is Registration.CREATED:
            return ModelStatus(State.NOT_LOADED)
        await self._models.touch(model_id, record.last_used_ms, slack_ms=_HOUR_MS)
        return await self.status(model_id)

    async def register_many(self, items: Sequence[tuple[str, ModelRecord]]) -> list[Failure | None]:
        """Register each; one item's failure is no other's."""
        results: list[Failure | None] = [self._refusal(record) for _, record in items]
        good = [n for n, failure in enumerate(results) if failure is None]
        outcomes = await self._models.register_many([items[n] for n in good])
        for n, outcome in zip(good, outcomes, strict=True):
            if outcome is Registration.DIFFERENT:
                results[n] = _DIFFERENT
            elif isinstance(outcome, Failure):
                results[n] = outcome
        return results

    async def unregister(self, model_id: str) -> None:
        """Remove the registration and the copy; no failure if there is none."""
        await self._models.unregister(model_id)

    def check(self, record: ModelRecord) -> None:
        """INVALID_ARGUMENT if the runtime or the storage can do nothing with it."""
        self._runtime.check(record.type)
        self._storage.check(record.path)

    def _refusal(self, record: ModelRecord) -> Failure | None:
        try:
            self.check(record)
        except MeshError as error:
            return error.failure
        return None

    # --- states

    async def status(self, model_id: str) -> ModelStatus:
        """The model's state here. Asking is no use: it does not count for eviction."""
        try:
            if self._models.get(model_id) is None:
                return ModelStatus(State.NOT_FOUND)
        except MeshError as error:  # as in a listing
            return ModelStatus(State.UNKNOWN, (error.failure.message,))
        now, state = self._clock(), self.state(model_id)
        errors = self._failures.errors(model_id, now)
        offset_ms = self._wall_ms() - round(now * 1000)
        copies = [
            CopyStatus(self._instance_id, State.LOADING_FAILED, round(at * 1000) + offset_ms)
            for at, _ in errors
        ]
        messages = [message for _, message in errors]
        copy = self._copies.get(model_id)
        if copy is not None and state in (State.LOADED, State.LOADING):
            since_ms = round(copy.last_used * 1000) + offset_ms
            copies.insert(0, CopyStatus(self._instance_id, state, since_ms))
            messages.extend(self._warnings(model_id))
        elif loss := self._failures.loss(model_id, now):
            messages.append(loss)
        return ModelStatus(state, tuple(messages), tuple(copies))

    def state(self, model_id: str) -> State:
        """One word for where the (registered) model stands."""
        if self._copies.is_loaded(model_id):
            return State.LOADED
        if self._loader.is_coming(model_id):
            return State.LOADING
        if self._failures.errors(model_id, self._clock()):
            return State.LOADING_FAILED
        return State.NOT_LOADED

    def _warnings(self, model_id: str) -> list[str]:
        loaded = self._runtime.describe(model_id)
        return [f"warning: {text}" for text in loaded.warnings] if loaded is not None else []

    def page(self, prefix: str, after: str, limit: int) -> tuple[list[ModelView], str]:
        """Models in the order of their ids, and the id after which the next page starts."""
        names = list(islice(self._models.names(prefix, after), limit + 1))
        views = [view for name in names[:limit] if (view := self.view(name)) is not None]
        return views, names[limit - 1] if len(names) > limit else ""

    def view(self, model_id: str) -> ModelView | None:
        """One row of a listing; a record that cannot be read is a row that says so."""
        try:
            record = self._models.get(model_id)
        except MeshError as error:
            return ModelView(model_id, "", "", "", State.UNKNOWN, reason=error.failure.message)
        if record is None:
            return None
        state, copy = self.state(model_id), self._copies.get(model_id)
        described = self._runtime.describe(model_id) if state is State.LOADED else None
        return ModelView(
            model_id,
            record.type,
            record.path,
            record.key,
            state,
            size_bytes=copy.size_bytes if copy is not None else 0,
            last_used_ms=self._last_used_ms(model_id, record),
            tier=described.tier if described is not None else "",
            reason=described.reason if described is not None else self._why_not(model_id, record),
            warnings=described.warnings if described is not None else (),
            in_use=copy.in_use if copy is not None else 0,
            min_copies=record.min_copies,
            max_copies=record.max_copies,
            pinned=record.pinned,
            priority=record.priority,
        )

    def _why_not(self, model_id: str, record: ModelRecord) -> str:
        """Why the model is not loaded, if there is a reason: also one that was registered by
        another system, and that this one could never load."""
        now = self._clock()
        errors = self._failures.errors(model_id, now)
        if errors:
            return errors[0][1]
        refusal = self._refusal(record)
        return refusal.message if refusal is not None else self._failures.loss(model_id, now)

    def _last_used_ms(self, model_id: str, record: ModelRecord) -> int:
        copy = self._copies.get(model_id)
        if copy is None:
            return record.last_used_ms
        return self._wall_ms() - round((self._clock() - copy.last_used) * 1000)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Be told which models have changed; returns the way to stop."""
        return self._changes.subscribe(listener)

    # --- wishes

    async def set_wishes(self, model_id: str, change: WishChange) -> ModelView:
        """Write what an operator wishes for the model; its row. NOT_FOUND if there is none."""

        def wish(record: ModelRecord) -> ModelRecord:
            try:
                return wished(record, change, alone=self.alone)
            except ValueError as error:
                raise invalid(str(error)) from None

        after = await self._models.update(model_id, wish)
        view = self.view(model_id)
        if after is None or view is None:
            raise not_found()
        return view

    # --- the fleet, of which this daemon is all

    alone = True

    def instances(self) -> list[InstanceView]:
        """Every instance that exists, by name."""
        ledger = self._copies.ledger
        record = InstanceRecord(
            start_ms=0,
            model_count=len(self._copies),
            capacity_units=units_of(ledger.usable_bytes),
            used_units=units_of(ledger.reserved_bytes),
            loading=self._loader.under_way,
        )
        return [InstanceView(self._instance_id, record, Health.HERE)]

    def accept_restore(self) -> int:
        """What a restored store lacks shall be gone; how much was kept until now."""
        return 0

    # --- loading on purpose

    async def ensure_loaded(
        self, model_id: str, last_used_ms: int, sync: bool, balanced: bool = False
    ) -> ModelStatus:
        """Load the model if need be. A failed load is the status, not an error.

        A use later than the record knows, by an hour or more, is written to it.
        """
        record = self._models.get(model_id)
        if record is None:
            raise not_found()
        now = self._clock()
        await self._models.touch(model_id, last_used_ms or self._wall_ms(), slack_ms=_HOUR_MS)
        if self._copies.is_loaded(model_id):
            self._copies.touch(model_id, now)
        elif self._failures.blocking(model_id, now) is None:
            failure = await self._load(model_id, record, sync)
            if failure is not None and not self._failures.errors(model_id, self._clock()):
                return ModelStatus(State.LOADING_FAILED, (failure.message,))
        return await self.status(model_id)

    async def load(self, model_id: str) -> None:
        """Load now, whatever failures are remembered: an operator asks. Raises MeshError."""
        record = self._models.get(model_id)
        if record is None:
            raise not_found()
        if self._copies.is_loaded(model_id):
            return
        self._failures.forget(model_id)
        failure = await self._load(model_id, record, sync=True)
        if failure is not None:
            raise MeshError(failure)

    async def try_load(self, model_id: str) -> Failure | None:
        """Load it, unless it is loaded or has failed too often, and wait; why it is not loaded."""
        record = self._models.get(model_id)
        if record is None:
            return not_found().failure
        if self._copies.is_loaded(model_id):
            return None
        failure = self._failures.blocking(model_id, self._clock())
        return failure or await self._load(model_id, record, sync=True)

    async def unload(self, model_id: str) -> bool:
        """Unload the copy here after its last call; whether there was one."""
        if model_id not in self._models:
            raise not_found()
        return await self._loader.unload(model_id)

    async def _load(
        self, model_id: str, record: ModelRecord, sync: bool, *, further: bool = False
    ) -> Failure | None:
        done: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()

        def settle(failure: Failure | None = None) -> None:
            if not done.done():
                done.set_result(failure)

        waiter = Waiter(settle, settle)
        self._loader.wait(model_id, record, waiter, inf, background=not sync, further=further)
        if not sync:
            return done.result() if done.done() else None
        try:
            return await done
        finally:
            self._loader.leave(model_id, waiter)

    # --- why

    async def explain(self, model_id: str) -> Explained:
        """What a request for the model would meet now, and what would be evicted for it."""
        record = self._models.get(model_id)
        if record is None:
            raise not_found()
        now = self._clock()
        size_bytes = await self._size(model_id, record)
        ledger = self._copies.ledger
        explanation = self._copies.explain(model_id, size_bytes, now, model_type=record.type)
        failure = self._failures.blocking(model_id, now)
        if failure is not None and not self._copies.is_loaded(model_id):
            why = f"loads of it have failed: {failure.message}"
            refusal = Decision(Verdict.REFUSE, why, failure=failure)
            explanation = replace(explanation, decision=refusal)
        return Explained(
            explanation,
            self.state(model_id),
            ledger.capacity_bytes,
            ledger.reserved_bytes,
            ledger.debt_bytes,
        )

    async def _size(self, model_id: str, record: ModelRecord) -> int:
        """The estimate that an admission would start from (1 byte if its files are not there)."""
        copy = self._copies.get(model_id)
        if copy is not None:
            return copy.size_bytes
        try:
            local = await self._storage.fetch(model_id, record.path, record.key)
        except MeshError:
            return 1
        finally:
            if self._copies.get(model_id) is None and not self._loader.is_coming(model_id):
                await self._storage.release(model_id)  # who only asks keeps no files
        request = LoadRequest(model_id, record.type, local.path, record.key, local.size_bytes)
        return self._runtime.predict_size(request)
