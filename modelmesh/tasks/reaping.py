"""The leader's rounds: traces of instances that are gone, old failures, loads ahead of demand.

Each tick looks at a bounded piece of the registry and the next one goes on from there, so that a
hundred thousand models cost many small ticks and never a long one. Who stops leading forgets what
he had noted; his successor begins anew, and nothing is lost but time.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final, Protocol

import structlog

from modelmesh.domain.instances import InstanceRecord
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import MeshError
from modelmesh.policy.reaping import (
    Idle,
    Prune,
    ReapingLimits,
    may_come,
    note_missing,
    proactive_loads,
    room_for,
    shortlist,
    sweep,
    to_confirm,
)
from modelmesh.registry.models import Models

log = structlog.get_logger("tasks")

PERIOD_S: Final = 60.0
_CHUNK: Final = 200  # records decoded in one turn of the loop: about two milliseconds


class Fleet(Protocol):
    """What the reaper asks of the fleet."""

    def leads(self) -> bool:
        """Whether this instance is the leader."""

    def instances(self) -> Mapping[str, InstanceRecord]:
        """Every instance that exists, this one included."""

    def feasible(self, model_type: str, record: InstanceRecord) -> bool:
        """Whether an instance may hold models of this type."""

    async def exists(self, instance_id: str) -> bool:
        """Asks the store itself."""

    async def ensure_loaded(self, model_id: str, last_used_ms: int) -> None:
        """Have it loaded somewhere, without waiting for it."""


class Reaper:
    """`typical_bytes`: what a model weighs about. Times: `clock` monotonic, records in ms."""

    def __init__(
        self,
        models: Models,
        fleet: Fleet,
        typical_bytes: Callable[[], int],
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        limits: ReapingLimits,
    ) -> None:
        self._models = models
        self._fleet = fleet
        self._typical_bytes = typical_bytes
        self._clock = clock
        self._wall_ms = wall_ms
        self._limits = limits
        self._forget()

    def _forget(self) -> None:
        self._after = ""
        self._mentioned: set[str] = set()
        self._missing: dict[str, float] = {}
        self._idle: dict[str, tuple[Idle, ...]] = {}  # by model type

    async def tick(self) -> None:
        """One bounded piece of the rounds, if we lead."""
        if not self._fleet.leads():
            self._forget()
            return
        piece = await self._piece()
        found = sweep(piece, await self._gone(), self._wall_ms(), self._limits)
        await self._prune(found.prunes)
        live, looked = self._fleet.instances(), piece[: found.looked]  # the rest: next time
        for _, record in looked:
            self._mentioned.update(record.instance_ids, record.loaded_in)
        self._note_idle(looked, live)
        self._after = found.after
        if not self._after:
            await self._end_of_pass(live)

    async def _end_of_pass(self, live: Mapping[str, InstanceRecord]) -> None:
        """Everything was looked at once."""
        self._missing = note_missing(self._mentioned, live, self._missing, self._clock())
        self._mentioned = set()
        idle, self._idle = self._idle, {}
        for model_type, candidates in idle.items():
            await self._load_ahead(model_type, candidates, live)

    async def _piece(self) -> list[tuple[str, ModelRecord]]:
        """The next records; decoding them must not keep the loop from its requests."""
        piece: list[tuple[str, ModelRecord]] = []
        records = islice(self._records(self._after), self._limits.most_looked)
        while chunk := list(islice(records, _CHUNK)):
            piece += chunk
            await asyncio.sleep(0)
        return piece

    def _records(self, after: str) -> Iterator[tuple[str, ModelRecord]]:
        """Records that can be read, in the order of their ids."""
        for model_id in self._models.names(after=after):
            try:
                record = self._models.peek(model_id)
            except MeshError:
                continue
            if record is not None:
                yield model_id, record

    async def _gone(self) -> list[str]:
        """Instances that are missing for long, and of which the store knows nothing either."""
        late = to_confirm(self._missing, self._clock(), self._limits)
        return [each for each in late if not await self._fleet.exists(each)]

    async def _prune(self, prunes: tuple[Prune, ...]) -> None:
        tidied = 0
        for prune in prunes:
            try:
                await self._models.update(prune.model_id, prune.applied)
                tidied += 1
            except MeshError as error:  # the next pass comes by it again
                log.info("not tidied", model=prune.model_id, failure=error.failure.message)
        if tidied:
            log.info("records tidied", count=tidied)

    def _note_idle(
        self, piece: list[tuple[str, ModelRecord]], live: Mapping[str, InstanceRecord]
    ) -> None:
        by_type: dict[str, list[tuple[str, ModelRecord]]] = {}
        for model_id, record in piece:
            by_type.setdefault(record.type, []).append((model_id, record))
        for model_type, models in by_type.items():
            before = self._idle.get(model_type, ())
            self._idle[model_type] = shortlist(before, models, live, self._limits)

    async def _load_ahead(
        self, model_type: str, idle: tuple[Idle, ...], live: Mapping[str, InstanceRecord]
    ) -> None:
        records = [r for r in live.values() if self._fleet.feasible(model_type, r)]
        oldest_ms = min((r.lru_ms for r in records if r.lru_ms), default=0)
        room = room_for(records, self._typical_bytes(), oldest_ms)
        for model_id in proactive_loads(idle, room, self._wall_ms(), self._limits):
            if not self._may_come(model_id, live):  # it was listed some time ago
                continue
            used_ms = next(each.last_used_ms for each in idle if each.model_id == model_id)
            try:
                await self._fleet.ensure_loaded(model_id, used_ms)
            except MeshError as error:
                log.info("not loaded ahead", model=model_id, failure=error.failure.message)

    def _may_come(self, model_id: str, live: Mapping[str, InstanceRecord]) -> bool:
        try:
            record = self._models.peek(model_id)
        except MeshError:
            return False
        return record is not None and may_come(record, live)
