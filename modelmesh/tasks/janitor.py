"""Makes the registry say of this instance what is true.

Bulk writes may be lost with a daemon, a restore may bring back what was long gone, and a record may
name a copy of an earlier life of this instance: once a minute every record that names us is held
against what is here. Also drops what failed here long ago, and
notes uses.

Bounded per turn of the loop: records are looked at in small chunks, and only those that hold our
name are decoded.
"""

from collections.abc import Callable
from typing import Final, Protocol

from modelmesh.domain.records import ModelRecord
from modelmesh.observe.tasks import rest
from modelmesh.registry.tables import Table

PERIOD_S: Final = 60.0
# Uses are noted to the hour: who lists, and who loads ahead, needs no more, and a write a model and
# minute would be most of what a registry does.
SLACK_MS: Final = 3_600_000
_CHUNK: Final = 50  # records looked at between two rests: 0.1 to 1 ms
# What it finds is written, and every daemon hears of it: not all of that in one second.
_REST_S: Final = 0.02
_SWEEP_S: Final = 20.0  # of rests in a large registry


class Here(Protocol):
    """What is here."""

    def is_loaded(self, model_id: str) -> bool: ...

    def is_coming(self, model_id: str) -> bool: ...

    def used_ms(self, model_id: str) -> int:
        """When the copy here was used last (wall clock); 0: not since it was loaded."""


class Words(Protocol):
    """Says what became of copies (`registry.claims`)."""

    def loaded(self, model_id: str) -> None: ...

    def gone(self, model_id: str) -> None: ...

    def forgiven(self, model_id: str) -> None: ...

    def used(self, model_id: str, at_ms: int) -> None: ...


class Janitor:
    """Sweeps the table of models for one instance."""

    def __init__(
        self,
        table: Table,
        me: str,
        here: Here,
        words: Words,
        wall_ms: Callable[[], int],
        failure_expiry_s: float,
    ) -> None:
        self._table = table
        self._me = me
        self._mark = f'"{me}"'.encode()
        self._here = here
        self._words = words
        self._wall_ms = wall_ms
        self._expiry_ms = round(failure_expiry_s * 1000)

    async def tick(self) -> None:
        """A sweep that takes its time."""
        await self.sweep(min(_REST_S, _SWEEP_S * _CHUNK / max(len(self._table), 1)))

    async def sweep(self, pause_s: float = 0.0) -> int:
        """Look at every record once, with such pauses; how many were wrong about us."""
        wrong = 0
        for count, model_id in enumerate(self._table.names()):
            if count % _CHUNK == _CHUNK - 1:
                await rest(pause_s)
            wrong += self._look(model_id)
        return wrong

    def _look(self, model_id: str) -> bool:
        entry = self._table.get(model_id)
        loaded = self._here.is_loaded(model_id)
        if entry is None or (not loaded and self._mark not in entry.value):
            return False
        try:
            record = ModelRecord.from_json(entry.value)
        except ValueError:
            return False
        if loaded and self._me not in record.loaded_in:
            self._words.loaded(model_id)
        elif self._is_named(record) and not loaded and not self._here.is_coming(model_id):
            self._words.gone(model_id)
        elif self._wall_ms() - record.failed_in.get(self._me, self._wall_ms()) > self._expiry_ms:
            self._words.forgiven(model_id)
        elif loaded and (used_ms := self._here.used_ms(model_id)) > record.last_used_ms + SLACK_MS:
            self._words.used(model_id, used_ms)
        else:
            return False
        return True

    def _is_named(self, record: ModelRecord) -> bool:
        return self._me in record.instance_ids or self._me in record.loaded_in
