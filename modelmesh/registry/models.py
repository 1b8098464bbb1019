"""Registered models, in their own words: what is registered, and how that changes.

Reading is synchronous, from the table; a record is decoded when somebody asks for it, and the last
asked-for are remembered. Every change is a compare-and-set against the store itself, tried again
at once when somebody else was faster and given up (ABORTED) after a few rounds: each lost round
means that another writer won one, so there is nothing to wait for. Registrations that come one by
one at the same time go together, as a bulk does (`gathering`).

A model's key is `registry/` and its id as it is: ids may hold any characters.
Must never load, place or judge a model: it knows records, not copies.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cachetools import LRUCache

from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Failure, Fault, MeshError, invalid
from modelmesh.observe.listeners import Listeners
from modelmesh.observe.tasks import spawn, stop
from modelmesh.registry.gathering import Gathering
from modelmesh.registry.keyspace import COMMIT_BYTES, is_utf8, key_bytes
from modelmesh.registry.store import (
    MODELS,
    Committed,
    Compare,
    Delete,
    Entry,
    Event,
    Put,
)
from modelmesh.registry.tables import TabledStore

# Records kept decoded (about 0.5 KiB each): those of models in use.
DECODED_RECORDS: Final = 2048

# Rounds of compare-and-set before a change is given up.
ATTEMPTS: Final = 16

# Models registered by one commit: etcd takes 128 operations in one.
BULK_MODELS: Final = 100

Named = tuple[str, ModelRecord]


class Registration(StrEnum):
    """What came of a registration."""

    CREATED = "created"
    SAME = "same"  # it was there, with this type, path and key
    DIFFERENT = "different"  # it was there, with others; nothing was changed


@dataclass(frozen=True, slots=True)
class ModelChange:
    """A model was registered (`created`), its record was written, or it is gone (not `exists`)."""

    model_id: str
    exists: bool
    created: bool


class Models:
    """The registered models of one store."""

    def __init__(self, store: TabledStore, decoded_records: int = DECODED_RECORDS) -> None:
        self._store = store
        self._table = store.table(MODELS)
        self._decoded: LRUCache[str, tuple[int, bytes, ModelRecord | Failure]] = LRUCache(
            decoded_records
        )
        self._singles: Gathering[Named, Registration | Failure] = Gathering(
            self.register_many, BULK_MODELS, "register models"
        )
        # One for all listeners: what it means is found out once an event, and not once for each.
        self._listeners = Listeners[list[ModelChange]]("models")
        self._table.subscribe(self._tell)

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, model_id: str) -> bool:
        return self._table.get(model_id) is not None

    def get(self, model_id: str) -> ModelRecord | None:
        """The record, or None. DATA_LOSS if what is stored is not one."""
        entry = self._table.get(model_id)
        if entry is None:
            self._decoded.pop(model_id, None)
            return None
        known = self._decoded.get(model_id)
        # After a restore a revision may come again, with another value.
        if known is None or known[0] != entry.mod_revision or known[1] is not entry.value:
            known = entry.mod_revision, entry.value, _decode(model_id, entry)
            self._decoded[model_id] = known
        decoded = known[2]
        if isinstance(decoded, Failure):  # not by `_record`: each call asks several times
            raise MeshError(decoded)
        return decoded

    def peek(self, model_id: str) -> ModelRecord | None:
        """As `get`, for whoever reads them all: it is not remembered."""
        entry = self._table.get(model_id)
        return None if entry is None else _record(_decode(model_id, entry))

    def names(self, prefix: str = "", after: str = "") -> Iterator[str]:
        """Ids that start with `prefix` and sort after `after`, in order."""
        return self._table.names(prefix, after)

    def subscribe(self, listener: Callable[[list[ModelChange]], None]) -> Callable[[], None]:
        """Be told of every change after it is visible; returns the way to stop."""
        return self._listeners.subscribe(listener)

    async def register(self, model_id: str, record: ModelRecord) -> Registration:
        """Add the model if it is new. An existing one is compared and left as it is."""
        outcome = await self._singles.put((model_id, record))
        if isinstance(outcome, Failure):
            raise MeshError(outcome)
        return outcome

    async def register_many(self, items: Sequence[Named]) -> list[Registration | Failure]:
        """Register each item as `register` does, many in one commit; outcomes in their order.

        Of an id that comes several times, the first counts and the others are compared with it.
        """
        outcomes: dict[int, Registration | Failure] = {}
        repeated: list[int] = []
        bulks = _bulks(items, outcomes, repeated)

        async def write() -> None:
            for bulk in bulks:
                outcomes.update(await self._register_bulk(bulk))

        # While the store writes one, what came of the last is shown and the next is made.
        beside = spawn(write(), "register models") if len(items) > BULK_MODELS else None
        try:
            await write()
            if beside is not None:
                await beside
        finally:
            await stop(beside)
        for index in repeated:
            outcomes |= await self._register_bulk([_Item(index, *items[index])])
        return [outcomes[index] for index in range(len(items))]

    async def unregister(self, model_id: str) -> bool:
        """Remove the model; False if there was none. FAILED_PRECONDITION while others refer to it.

        A record that cannot be read can be removed.
        """
        key = MODELS + model_id
        if _unusable(model_id) is not None:
            return False
        entry = await self._store.get(key)
        for _ in range(ATTEMPTS):
            if entry is None:
                return False
            if _references(model_id, entry) > 0:
                message = f"Model {model_id} has referents"
                raise MeshError(Failure(Code.FAILED_PRECONDITION, message))
            done = await self._store.commit([Compare(key, entry.mod_revision)], [Delete(key)])
            if done.succeeded:
                return True
            entry = done.current[0][1]
        raise MeshError(_contended(model_id))

    async def update(
        self, model_id: str, change: Callable[[ModelRecord], ModelRecord]
    ) -> ModelRecord | None:
        """Write what `change` makes of the record; None if there is no such model.

        `change` may be called several times. A record that it returns as it was is not written.
        """
        key = MODELS + model_id
        entry = await self._store.get(key)
        for _ in range(ATTEMPTS):
            if entry is None:
                return None
            before = _record(_decode(model_id, entry))
            after = change(before)
            if after == before:
                return before
            put = Put(key, after.to_json(), entry.lease)
            done = await self._store.commit([Compare(key, entry.mod_revision)], [put])
            if done.succeeded:
                return after
            entry = done.current[0][1]
        raise MeshError(_contended(model_id))

    async def touch(self, model_id: str, last_used_ms: int, slack_ms: int = 0) -> bool:
        """Note a later use, if it is later by more than `slack_ms`; whether the model exists."""

        def later(record: ModelRecord) -> ModelRecord:
            newer = last_used_ms > record.last_used_ms + slack_ms
            return record.used_at(last_used_ms) if newer else record

        return await self.update(model_id, later) is not None

    def _tell(self, events: list[Event]) -> None:
        if self._listeners:
            self._listeners.tell([_change(each) for each in events])

    async def _register_bulk(self, items: list["_Item"]) -> dict[int, Registration | Failure]:
        """One commit for all that are new; those found to exist are compared and left out."""
        outcomes: dict[int, Registration | Failure] = {}
        open_items = items
        for _ in range(ATTEMPTS):
            if not open_items:
                return outcomes
            try:
                done = await self._create(open_items)
            except MeshError as error:
                return outcomes | {item.index: error.failure for item in open_items}
            if done.succeeded:
                return outcomes | {item.index: Registration.CREATED for item in open_items}
            existing = [entry for _, entry in done.current]
            for item, entry in zip(open_items, existing, strict=True):
                if entry is not None:
                    outcomes[item.index] = _compare(item, entry)
            open_items = [item for item in open_items if item.index not in outcomes]
        return outcomes | {item.index: _contended(item.model_id) for item in open_items}

    async def _create(self, items: list["_Item"]) -> Committed:
        return await self._store.commit(
            [Compare(item.key, 0) for item in items],
            [Put(item.key, item.value) for item in items],
        )


class _Item:
    """One registration of a bulk."""

    __slots__ = ("index", "key", "model_id", "record", "value")

    def __init__(self, index: int, model_id: str, record: ModelRecord) -> None:
        self.index = index
        self.model_id = model_id
        self.record = record
        self.key = MODELS + model_id
        self.value = record.to_json()

    @property
    def size_bytes(self) -> int:
        return 2 * key_bytes(self.key) + len(self.value)


def _bulks(
    items: Sequence[Named], outcomes: dict[int, Registration | Failure], repeated: list[int]
) -> Iterator[list[_Item]]:
    """The items in bulks that fit into one commit each, made when they are asked for; an item too
    large for any commit gets a bulk (and an error) alone. Those that are in none are noted: in
    `outcomes` what cannot be registered, in `repeated` where an id comes again."""
    seen: set[str] = set()
    bulk: list[_Item] = []
    bulk_bytes = 0
    for index, (model_id, record) in enumerate(items):
        if (failure := _unusable(model_id)) is not None:
            outcomes[index] = failure
        elif model_id in seen:
            repeated.append(index)
        else:
            seen.add(model_id)
            item = _Item(index, model_id, record)
            size_bytes = item.size_bytes
            if bulk and (len(bulk) == BULK_MODELS or bulk_bytes + size_bytes > COMMIT_BYTES):
                yield bulk
                bulk, bulk_bytes = [], 0
            bulk.append(item)
            bulk_bytes += size_bytes
    if bulk:
        yield bulk


def _decode(model_id: str, entry: Entry) -> ModelRecord | Failure:
    try:
        return ModelRecord.from_json(entry.value)
    except ValueError as error:
        message = f"the record of model {model_id} cannot be read: {error}"
        return Failure(Code.DATA_LOSS, message, fault=Fault.STORE)


def _record(decoded: ModelRecord | Failure) -> ModelRecord:
    if isinstance(decoded, Failure):
        raise MeshError(decoded)
    return decoded


def _compare(item: _Item, entry: Entry) -> Registration | Failure:
    existing = _decode(item.model_id, entry)
    if isinstance(existing, Failure):
        return existing
    return Registration.SAME if existing.same_model(item.record) else Registration.DIFFERENT


def _references(model_id: str, entry: Entry) -> int:
    decoded = _decode(model_id, entry)
    return 0 if isinstance(decoded, Failure) else decoded.refs


def _unusable(model_id: str) -> Failure | None:
    if not model_id:
        return invalid("the model id is empty").failure
    if not is_utf8(model_id):
        return invalid("the model id is not valid Unicode").failure
    return None


def _contended(model_id: str) -> Failure:
    message = f"model {model_id} is being changed by others, {ATTEMPTS} attempts lost"
    return Failure(Code.ABORTED, message, fault=Fault.STORE, retry_after_s=0.1)


def _change(event: Event) -> ModelChange:
    entry = event.entry
    created = entry is not None and entry.create_revision == entry.mod_revision
    return ModelChange(event.key.removeprefix(MODELS), entry is not None, created)
