"""The leader's count of what the fleet holds, for its metrics.

A registry has no index of what is loaded: every few seconds the records are looked through, in
chunks, so that the loop stays with its requests. A record that names neither a loaded copy nor a
failure is not decoded; most of a large registry is such.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from modelmesh.domain.records import ModelRecord
from modelmesh.observe.tasks import rest
from modelmesh.registry.tables import Table

PERIOD_S: Final = 10.0
_CHUNK: Final = 100  # records looked at between two rests: 0.1 to 1 ms
_LOADED: Final = b'"loadedIn"'
_FAILED: Final = b'"failedIn"'


@dataclass(frozen=True, slots=True)
class Count:
    """Models with a loaded copy on an instance that exists; models with a remembered failure."""

    loaded: int = 0
    failed: int = 0


class Census:
    """`count` is None where this instance does not lead, and until it has counted once."""

    def __init__(
        self, table: Table, leads: Callable[[], bool], live: Callable[[], Collection[str]]
    ) -> None:
        """`live`: every instance that exists, this one included."""
        self._table = table
        self._leads = leads
        self._live = live
        self._last: Count | None = None

    @property
    def count(self) -> Count | None:
        return self._last if self._leads() else None

    async def tick(self) -> None:
        """Count once, if we lead."""
        self._last = await self._count() if self._leads() else None

    async def _count(self) -> Count:
        loaded = failed = 0
        live = self._live()
        for number, model_id in enumerate(self._table.names()):
            if number % _CHUNK == _CHUNK - 1:
                await rest()
                live = self._live()
            record = self._marked(model_id)
            if record is not None:
                loaded += any(each in live for each in record.loaded_in)
                failed += bool(record.failed_in)
        return Count(loaded, failed)

    def _marked(self, model_id: str) -> ModelRecord | None:
        entry = self._table.get(model_id)
        if entry is None or not (_LOADED in entry.value or _FAILED in entry.value):
            return None
        try:
            return ModelRecord.from_json(entry.value)
        except ValueError:
            return None
