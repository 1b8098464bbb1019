"""Vmodels, in their own words: which model each stands for, and how that changes.

Reading is synchronous, from the table. A change touches several records (the vmodel, its active,
its old and its new target: their references are counted), so it is one transaction, guarded by the
revision of every record that was looked at, those that do not exist included; when somebody else
was faster everything is read again and decided again, a few rounds long.

What becomes of a vmodel is decided in `policy.transition`; this room reads, asks it, and writes.
Must never load a model, nor know where copies are: it is told (`Stand`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from modelmesh.domain.records import ModelRecord
from modelmesh.domain.vmodels import VModelRecord
from modelmesh.errors import Code, Failure, Fault, MeshError, unheard
from modelmesh.policy.transition import (
    Changes,
    Kind,
    SetVModel,
    Standing,
    Write,
    advance,
    delete_vmodel,
    set_vmodel,
)
from modelmesh.registry.looks import Looks
from modelmesh.registry.store import (
    MODELS,
    VMODELS,
    Change,
    Compare,
    Delete,
    Entry,
    Event,
    Put,
)
from modelmesh.registry.tables import TabledStore

# Records kept decoded (about 0.3 KiB each): those of vmodels in use.
DECODED_RECORDS: Final = 2048

# Rounds of a transaction before it is given up. Copies of a busy model change its record often.
ATTEMPTS: Final = 16

# How a (registered) model stands, asked between reading and writing.
Stand = Callable[[str, ModelRecord], Standing]
# Reads a key from the store into the tables; callers share the read.
Look = Callable[[str], Awaitable[object]]

_Decide = Callable[[VModelRecord | None, Mapping[str, ModelRecord]], Changes | Failure]
_PREFIXES: Final = {Kind.MODEL: MODELS, Kind.VMODEL: VMODELS}


async def _no_look(_key: str) -> None:
    """Tables that are the store itself cannot lag."""


def fresh_look(store: TabledStore, answers: Callable[[], bool]) -> Look:
    """Reads of vmodels that the table has too: it may be late with a transition.

    Only that there is none is remembered (a second): one whose model is said to be gone has moved.
    """
    looks = Looks(lambda _key: None, store.get, answers)  # and the store's tables see what it reads
    store.table(VMODELS).subscribe(looks.forget)
    return looks.look


@dataclass(frozen=True, slots=True)
class _Looked:
    """The records that a decision looked at, with their keys' entries."""

    vmodel: VModelRecord | None
    models: Mapping[str, ModelRecord]
    entries: Mapping[str, Entry | None]

    def compares(self) -> list[Compare]:
        return [
            Compare(key, 0 if entry is None else entry.mod_revision)
            for key, entry in self.entries.items()
        ]

    def change(self, write: Write) -> Change:
        key = _PREFIXES[write.kind] + write.name
        if write.record is None:
            return Delete(key)
        entry = self.entries.get(key)
        return Put(key, write.record.to_json(), entry.lease if entry is not None else 0)


class VModels:
    """The vmodels of one store. `look` reads what the tables lack, or are late with; `answers`:
    whether the store does."""

    def __init__(
        self,
        store: TabledStore,
        look: Look = _no_look,
        answers: Callable[[], bool] = lambda: True,
        decoded_records: int = DECODED_RECORDS,
    ) -> None:
        self._store = store
        self._table = store.table(VMODELS)
        self._models = store.table(MODELS)
        self._look = look
        self._answers = answers
        self._decoded: LRUCache[str, tuple[int, VModelRecord]] = LRUCache(decoded_records)

    # --- reading

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, vmodel_id: str) -> bool:
        return self._table.get(vmodel_id) is not None

    def get(self, vmodel_id: str) -> VModelRecord | None:
        """The record, or None. DATA_LOSS if what is stored is not one."""
        entry = self._table.get(vmodel_id)
        if entry is None:
            self._decoded.pop(vmodel_id, None)
            return None
        known = self._decoded.get(vmodel_id)
        if known is not None and known[0] == entry.mod_revision:
            return known[1]
        record = _vmodel(vmodel_id, entry)
        self._decoded[vmodel_id] = (entry.mod_revision, record)
        return record

    def names(self, prefix: str = "", after: str = "") -> Iterator[str]:
        """Ids that start with `prefix` and sort after `after`, in order."""
        return self._table.names(prefix, after)

    def subscribe(self, listener: Callable[[list[str]], None]) -> Callable[[], None]:
        """Be told which have changed, after it is visible; returns the way to stop."""

        def tell(events: list[Event]) -> None:
            listener([event.key.removeprefix(VMODELS) for event in events])

        return self._table.subscribe(tell)

    async def look(self, vmodel_id: str) -> VModelRecord | None:
        """The record as the store has it now, and in the tables the model that answers for it.

        While the store does not answer: as the tables have it.
        """
        await self._look(VMODELS + vmodel_id)
        record = self.get(vmodel_id)
        if record is not None and self._models.get(record.active_id) is None:
            await self._look(MODELS + record.active_id)
        return record

    def unheard(self) -> Failure | None:
        """What to say of a vmodel that there is not, where that is a guess."""
        return None if self._answers() else unheard("vmodel").failure

    # --- changing

    async def set(self, request: SetVModel, stand: Stand, now_ms: int) -> Changes:
        """Do what is asked. MeshError: what is refused."""

        def decide(
            vmodel: VModelRecord | None, models: Mapping[str, ModelRecord]
        ) -> Changes | Failure:
            active_id = vmodel.active_id if vmodel is not None else ""
            active = _standing(stand, active_id, models)
            target = _standing(stand, request.target_id, models)
            return set_vmodel(request, vmodel, models, active, target, now_ms)

        return await self._transact(request.vmodel_id, (request.target_id,), decide)

    async def delete(self, vmodel_id: str, owner: str) -> Changes:
        """Take it away, if it is this owner's. One that cannot be read can be deleted."""

        def decide(
            vmodel: VModelRecord | None, models: Mapping[str, ModelRecord]
        ) -> Changes | Failure:
            return delete_vmodel(vmodel_id, owner, vmodel, models)

        return await self._transact(vmodel_id, (), decide, unreadable=VModelRecord("", "", owner))

    async def advance(self, vmodel_id: str, stand: Stand) -> Changes:
        """Push it on. What is to be written is decided by the tables, and judged by the store."""

        def decide(
            vmodel: VModelRecord | None, models: Mapping[str, ModelRecord]
        ) -> Changes | Failure:
            if vmodel is None:
                return Changes((), "it is gone")
            active = _standing(stand, vmodel.active_id, models)
            target = _standing(stand, vmodel.target_id, models)
            return advance(vmodel_id, vmodel, models, active, target)

        return await self._transact(vmodel_id, (), decide, by_tables=True)

    async def _transact(
        self,
        vmodel_id: str,
        further: Collection[str],
        decide: _Decide,
        *,
        by_tables: bool = False,
        unreadable: VModelRecord | None = None,
    ) -> Changes:
        """Read, decide, write; again while others are faster.

        `further`: models to look at besides the vmodel's own. `by_tables`: the first round believes
        them, so that a vmodel for which nothing is to be done costs the store nothing.
        """
        for attempt in range(ATTEMPTS):
            read = self._known if by_tables and attempt == 0 else self._store.get
            looked = await _look_at(read, vmodel_id, further, unreadable)
            changes = decide(looked.vmodel, looked.models)
            if isinstance(changes, Failure):
                raise MeshError(changes)
            if not changes.writes:
                return changes
            writes = [looked.change(write) for write in changes.writes]
            done = await self._store.commit(looked.compares(), writes)
            if done.succeeded:
                return changes
        raise MeshError(_contended(vmodel_id))

    async def _known(self, key: str) -> Entry | None:
        if key.startswith(VMODELS):
            return self._table.get(key.removeprefix(VMODELS))
        return self._models.get(key.removeprefix(MODELS))


async def _look_at(
    read: Callable[[str], Awaitable[Entry | None]],
    vmodel_id: str,
    further: Collection[str],
    unreadable: VModelRecord | None,
) -> _Looked:
    key = VMODELS + vmodel_id
    entry = await read(key)
    vmodel = None
    try:
        vmodel = _vmodel(vmodel_id, entry) if entry is not None else None
    except MeshError:
        if unreadable is None:
            raise
        vmodel = unreadable
    own = (vmodel.active_id, vmodel.target_id) if vmodel is not None else ()
    model_ids = sorted({each for each in (*own, *further) if each})
    found = await asyncio.gather(*(read(MODELS + each) for each in model_ids))
    there = dict(zip(model_ids, found, strict=True))
    models = {each: _model(each, entry) for each, entry in there.items() if entry is not None}
    entries = {key: entry, **{MODELS + each: entry for each, entry in there.items()}}
    return _Looked(vmodel, models, entries)


def _standing(stand: Stand, model_id: str, models: Mapping[str, ModelRecord]) -> Standing:
    record = models.get(model_id)
    return stand(model_id, record) if record is not None else Standing()


def _vmodel(vmodel_id: str, entry: Entry) -> VModelRecord:
    try:
        return VModelRecord.from_json(entry.value)
    except ValueError as error:
        raise MeshError(_unreadable(f"vmodel {vmodel_id}", error)) from error


def _model(model_id: str, entry: Entry) -> ModelRecord:
    try:
        return ModelRecord.from_json(entry.value)
    except ValueError as error:
        raise MeshError(_unreadable(f"model {model_id}", error)) from error


def _unreadable(what: str, error: ValueError) -> Failure:
    message = f"the record of {what} cannot be read: {error}"
    return Failure(Code.DATA_LOSS, message, fault=Fault.STORE)


def _contended(vmodel_id: str) -> Failure:
    message = f"vmodel {vmodel_id} is being changed by others, {ATTEMPTS} attempts lost"
    return Failure(Code.ABORTED, message, fault=Fault.STORE, retry_after_s=0.1)
