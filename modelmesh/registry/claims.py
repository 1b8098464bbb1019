"""What this daemon writes into model records about its own copies.

Two ways, because two things are wanted. A *claim* must be decided before a load: it is a
compare-and-set of its own, at once. What became of copies (loaded, failed, gone) only has to become
known: the newest word about each model waits in `pending` and is written in transactions of many,
at most twenty times a second, as often as it takes until the store has it.

The store wins for registrations, this daemon wins for its own copies: a write never creates a
record, and changes nothing in it but what is said of this instance.
Must never decide who loads: `policy.claiming` says which claim binds.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import structlog

from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, MeshError
from modelmesh.observe.spells import Spell
from modelmesh.observe.tasks import rest, spawn, stop
from modelmesh.policy.claiming import Claiming, Contender, contender
from modelmesh.registry.store import MODELS, Compare, Entry, Put
from modelmesh.registry.tables import TabledStore

log = structlog.get_logger("registry")

# At most so often are copy changes written (each time as many as there are).
WRITE_PERIOD_S: Final = 0.05
# After a store that did not take them: the next try.
RETRY_S: Final = 1.0
# Records that are changed in one turn of the loop, and written in one transaction: some 1 ms.
_TURN_MODELS: Final = 32
# Rounds of compare-and-set before a claim is given up; a bulk's losers are simply written later.
ATTEMPTS: Final = 16


class Word(StrEnum):
    """What there is to say of a copy here."""

    LOADED = "loaded"
    FAILED = "failed"
    GONE = "gone"
    FORGIVEN = "forgiven"  # what failed here counts no longer
    USED = "used"  # at_ms is when


@dataclass(frozen=True, slots=True)
class Said:
    """The newest word about one model's copy here."""

    word: Word
    at_ms: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class Claimed:
    """The claim stands in the record; nobody else loads while it binds."""

    record: ModelRecord


@dataclass(frozen=True, slots=True)
class Unregistered:
    """There is no such model."""


Claim = Claimed | Contender | Unregistered


class CopyRecords:
    """The copies of one instance, as the registry knows them."""

    def __init__(self, store: TabledStore, me: str, wall_ms: Callable[[], int]) -> None:
        self._store = store
        self._table = store.table(MODELS)
        self._me = me
        self._wall_ms = wall_ms
        self._pending: dict[str, Said] = {}
        self._more = asyncio.Event()
        self._late = Spell(log, "copy records wait for the store")
        self._written = asyncio.Event()  # nothing is pending
        self._written.set()
        self._writer = spawn(self._write_for_ever(), "copy records", eternal=True)

    # --- claims

    async def claim(self, model_id: str, claiming: Claiming, *, further: bool = False) -> Claim:
        """Try to be the one who loads. MeshError UNAVAILABLE if the store does not answer.

        What is pending about the model is overtaken by its claim, but only by one that stands.
        """
        said = self._pending.pop(model_id, None)
        came_of_it: Claim | None = None
        try:
            came_of_it = await self._claim(model_id, claiming, further)
        finally:
            if said is not None and not isinstance(came_of_it, Claimed):
                self._pend(model_id, self._pending.get(model_id, said))
        return came_of_it

    async def _claim(self, model_id: str, claiming: Claiming, further: bool) -> Claim:
        key, entry = MODELS + model_id, self._table.get(model_id)
        if entry is None:
            entry = await self._store.get(key)
        for _ in range(ATTEMPTS):
            if entry is None:
                return Unregistered()
            record = ModelRecord.from_json(entry.value)
            other = contender(record, claiming, further=further)
            if other is not None:
                return other
            claimed = record.claimed(self._me, claiming.now_ms)
            put = Put(key, claimed.to_json(), entry.lease)
            done = await self._store.commit([Compare(key, entry.mod_revision)], [put])
            if done.succeeded:
                return Claimed(claimed)
            entry = done.current[0][1]
        return Contender("", loaded=False)

    async def give_up(self, model_id: str, allowed: Callable[[ModelRecord], bool]) -> bool | None:
        """Take our copy out of the record, if that is allowed by the record as it is; whether
        that was done. None: the store lacks the model (it was unregistered, or the store restored).
        MeshError UNAVAILABLE if the store does not answer.

        What is pending about the model is overtaken, but only by a copy that was given up.
        """
        said = self._pending.pop(model_id, None)
        given_up: bool | None = False
        try:
            given_up = await self._give_up(model_id, allowed)
        finally:
            if said is not None and not given_up:
                self._pend(model_id, self._pending.get(model_id, said))
        return given_up

    async def _give_up(self, model_id: str, allowed: Callable[[ModelRecord], bool]) -> bool | None:
        """Where the record does not say that our copy is loaded it is written all the same: a word
        on its way to the store that says so must not come after this."""
        key = MODELS + model_id
        entry = await self._store.get(key)
        for _ in range(ATTEMPTS):
            if entry is None:
                return None
            record = ModelRecord.from_json(entry.value)
            if not allowed(record):
                return False
            without = record.without_copy(self._me) if self._me in record.loaded_in else record
            after = replace(without, last_unload_ms=self._wall_ms())
            put = Put(key, after.to_json(), entry.lease)
            done = await self._store.commit([Compare(key, entry.mod_revision)], [put])
            if done.succeeded:
                return True
            entry = done.current[0][1]
        return False

    # --- what became of copies

    def loaded(self, model_id: str) -> None:
        """A copy takes calls here."""
        self._say(model_id, Word.LOADED)

    def failed(self, model_id: str, message: str) -> None:
        """The load here failed."""
        self._say(model_id, Word.FAILED, message)

    def gone(self, model_id: str) -> None:
        """There is no copy here, and none is coming."""
        self._say(model_id, Word.GONE)

    def forgiven(self, model_id: str) -> None:
        """What failed here is long ago, or somebody wants another try."""
        self._say(model_id, Word.FORGIVEN)

    def used(self, model_id: str, at_ms: int) -> None:
        """It was used here then. What else is to be said of it goes first."""
        if model_id not in self._pending:
            self._pend(model_id, Said(Word.USED, at_ms))

    def say_loaded(self, model_ids: Iterable[str]) -> None:
        """All of these are loaded here: what the store says after an outage may be older."""
        for model_id in model_ids:
            entry = self._table.get(model_id)
            if entry is not None and self._me not in _decoded(entry).loaded_in:
                self.loaded(model_id)

    @property
    def pending(self) -> int:
        """Models about which something is still to be written."""
        return len(self._pending)

    async def flush(self, bound_s: float) -> bool:
        """Wait until everything is written, within this bound; whether it is."""
        try:
            async with asyncio.timeout(bound_s):
                await self._written.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Stop writing; what is pending is forgotten."""
        await stop(self._writer)

    def _say(self, model_id: str, word: Word, message: str = "") -> None:
        self._pend(model_id, Said(word, self._wall_ms(), message))

    def _pend(self, model_id: str, said: Said) -> None:
        self._pending[model_id] = said
        self._written.clear()
        self._more.set()

    # --- writing

    async def _write_for_ever(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            pause_s = WRITE_PERIOD_S
            try:
                await self._write()
            except MeshError as error:
                self._late.goes_on(failure=error.failure.message)
                pause_s = RETRY_S
            else:
                self._late.over()
            if self._pending:
                self._more.set()
            else:
                self._written.set()
            await asyncio.sleep(pause_s)

    async def _write(self) -> None:
        """Write what is pending now; what another one's change got in the way of stays pending."""
        batch: list[tuple[str, Said]] = list(self._pending.items())
        for start in range(0, len(batch), _TURN_MODELS):
            if start:
                await rest()
            await self._write_refused_apart(batch[start : start + _TURN_MODELS])

    async def _write_refused_apart(self, batch: list[tuple[str, Said]]) -> None:
        """What is too much for one commit is written one by one; what the store takes in no case
        is given up, for it would keep all others waiting."""
        try:
            await self._write_some(batch)
        except MeshError as error:
            if error.failure.code is not Code.INVALID_ARGUMENT:
                raise
            if len(batch) > 1:
                for each in batch:
                    await self._write_refused_apart([each])
                return
            ((model_id, said),) = batch
            log.error("a record cannot be written", model=model_id, failure=error.failure.message)
            self._done(model_id, said)

    async def _write_some(self, batch: list[tuple[str, Said]]) -> None:
        entries = {model_id: self._table.get(model_id) for model_id, _ in batch}
        for _ in range(ATTEMPTS):
            # A newer word, or a claim, may have overtaken what this began to write.
            batch = [(name, said) for name, said in batch if self._pending.get(name) is said]
            changes = [self._change(model_id, said, entries[model_id]) for model_id, said in batch]
            puts = [change for change in changes if change is not None]
            if not puts:
                break
            done = await self._store.commit(
                [compare for compare, _ in puts], [put for _, put in puts]
            )
            if done.succeeded:
                break
            for key, entry in done.current:
                entries[key.removeprefix(MODELS)] = entry
        else:
            return  # contended for long: they stay pending
        for model_id, said in batch:
            self._done(model_id, said)

    def _done(self, model_id: str, said: Said) -> None:
        if self._pending.get(model_id) is said:
            del self._pending[model_id]

    def _change(self, model_id: str, said: Said, entry: Entry | None) -> tuple[Compare, Put] | None:
        """The change that makes the record say so; None if it does already, or there is none."""
        if entry is None:
            return None
        try:
            before = _decoded(entry)
        except ValueError:
            return None  # a record that cannot be read is not written either
        after = _saying(before, self._me, said)
        if after == before:
            return None
        key = MODELS + model_id
        return Compare(key, entry.mod_revision), Put(key, after.to_json(), entry.lease)


def _decoded(entry: Entry) -> ModelRecord:
    return ModelRecord.from_json(entry.value)


def _saying(record: ModelRecord, me: str, said: Said) -> ModelRecord:
    if said.word is Word.FAILED:
        return record.failed(me, said.at_ms, said.message)
    if said.word is Word.GONE:
        return record.without_copy(me)
    if said.word is Word.FORGIVEN:
        return record.without_failure(me)
    if said.word is Word.USED:
        return record.used_at(max(said.at_ms, record.last_used_ms))
    if me in record.loaded_in:
        return record
    return record.loaded(me, said.at_ms)
