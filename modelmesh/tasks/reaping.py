"""The leader's rounds: traces of instances that are gone, old failures, loads ahead of demand.

Each tick looks at a bounded piece of the registry and the next one goes on from there, so that a
hundred thousand models cost many small ticks and never a long one. Who stops leading forgets what
he had noted; his successor begins anew, and nothing is lost but time.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Final, Protocol

import structlog

from modelmesh.domain.instances import InstanceRecord
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import MeshError
from modelmesh.observe.tasks import rest
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
_CHUNK: Final = 16  # records looked at between two rests: some 0.5 ms
_REST_S: Final = 0.01  # so a tick takes some seconds of its minute


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
        await self._look_on(await self._gone())
        if not self._after:
            await self._end_of_pass(self._fleet.instances())

    async def _look_on(self, gone: Collection[str]) -> None:
        """The next records."""
        limits, after = self._limits, ""
        records = islice(self._records(self._after), limits.most_looked)
        while not after and (chunk := list(islice(records, _CHUNK))):
            found = sweep(chunk, gone, self._wall_ms(), limits)
            await self._prune(found.prunes)
            self._note(chunk[: found.looked])  # the rest: next time
            after = found.after
            limits = replace(
                limits,
                most_looked=limits.most_looked - found.looked,
                most_changes=limits.most_changes - len(found.prunes),
            )
            await rest(_REST_S)
        self._after = after

    async def _end_of_pass(self, live: Mapping[str, InstanceRecord]) -> None:
        """Everything was looked at once."""
        self._missing = note_missing(self._mentioned, live, self._missing, self._clock())
        self._mentioned = set()
        idle, self._idle = self._idle, {}
        for model_type, candidates in idle.items():
            await self._load_ahead(model_type, candidates, live)

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

    def _note(self, looked: list[tuple[str, ModelRecord]]) -> None:
        """Who is mentioned, and what nobody holds, is judged at the end of the pass."""
        live, by_type = self._fleet.instances(), dict[str, list[tuple[str, ModelRecord]]]()
        for model_id, record in looked:
            self._mentioned.update(record.instance_ids, record.loaded_in)
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
