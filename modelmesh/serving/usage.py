"""What this daemon has seen of its copies since it looked last: the facts for scaling.

`look` is asked every few seconds and compares counters; between two looks a call costs two
additions. What is remembered of a model goes with its copy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

from modelmesh.cache.copy import Copy
from modelmesh.domain.instances import InstanceRecord
from modelmesh.domain.records import ModelRecord
from modelmesh.observe.tasks import rest
from modelmesh.policy.scaling import (
    Copies,
    FleetUse,
    Pattern,
    ScalingLimits,
    Use,
    Wishes,
    copies_of,
    drops_first,
    is_heavy,
)
from modelmesh.serving.parts import Parts
from modelmesh.serving.view import FleetView

# What a copy in one of our own hosts runs at once: model code holds its host's only thread.
_ONE_AT_ONCE: Final = 1
_CHUNK: Final = 20  # copies looked at between two rests: some 0.4 ms


@dataclass(slots=True)
class _Seen:
    """Counters of one copy at the last look."""

    copy: Copy
    uses: int
    busy_s: float
    pattern: Pattern
    heavy: float = -inf  # when its rate was last near the threshold


@dataclass(frozen=True, slots=True)
class Judged:
    """One copy here, with all that scaling asks about it."""

    model_id: str
    use: Use
    copies: Copies
    fleet: FleetUse
    wishes: Wishes
    goes_first: bool


class Usage:
    """Asked by the scaler."""

    def __init__(self, parts: Parts, view: FleetView, limits: Callable[[], ScalingLimits]) -> None:
        self._parts = parts
        self._view = view
        self._limits = limits
        self._seen: dict[str, _Seen] = {}
        self._looked = parts.clock()

    async def look(self) -> list[Judged]:
        """Every loaded copy, with its use since the last look; requests are served meanwhile."""
        now, limits = self._parts.clock(), self._limits()
        passed_s, self._looked = max(now - self._looked, 0.001), now
        before, self._seen = self._seen, {}
        fleets: dict[str, FleetUse] = {}
        judged: list[Judged] = []
        stays = self._stays()
        for count, copy in enumerate(list(self._parts.copies), 1):
            if count % _CHUNK == 0:
                await rest()
            record = self._view.record(copy.model_id)
            if record is None or not self._view.is_loaded(copy.model_id):
                continue
            use = self._use(copy, before.get(copy.model_id), passed_s, now, limits)
            if copy.model_type not in fleets:
                fleets[copy.model_type] = self._fleet(copy.model_type)
            copies = copies_of(record, self._view.me, stays, self._view.record_ms(now))
            goes_first = self._goes_first(record)
            fleet, wishes = fleets[copy.model_type], Wishes.of(record)
            judged.append(Judged(copy.model_id, use, copies, fleet, wishes, goes_first))
        return judged

    def may_drop(self, record: ModelRecord) -> bool:
        """Whether enough copies stay if ours goes, by this record."""
        copies = copies_of(record, self._view.me, self._stays(), 0.0)
        return copies.loaded > max(record.min_copies, 1)

    def _use(
        self, copy: Copy, before: _Seen | None, passed_s: float, now: float, limits: ScalingLimits
    ) -> Use:
        if before is None or before.copy is not copy:
            before = _Seen(copy, 0, 0.0, Pattern())
        calls, busy_s = copy.uses - before.uses, copy.busy_s - before.busy_s
        rate_rpm = calls * 60 / passed_s
        heavy = now if is_heavy(rate_rpm, limits) else before.heavy
        pattern, regular = before.pattern, False
        if calls:
            regular = pattern.is_regular(now, limits)
            pattern = pattern.used(now, limits)
        self._seen[copy.model_id] = _Seen(copy, copy.uses, copy.busy_s, pattern, heavy)
        described = self._parts.runtime.describe(copy.model_id)
        at_once = described.max_concurrency if described is not None else 0
        return Use(
            rate_rpm=rate_rpm,
            calls=calls,
            parallel=busy_s / passed_s,
            most_parallel=at_once or _ONE_AT_ONCE,
            queued=max(copy.in_use - (at_once or _ONE_AT_ONCE), 0),
            regular=regular,
            used_age_s=now - copy.last_used,
            heavy_age_s=now - heavy,
            load_s=copy.load_s,
        )

    def _stays(self) -> dict[str, bool]:
        """Instances that live and answer, and whether they stay."""
        others = {p.instance_id: not p.record.draining for p in self._view.peers() if p.answers}
        return {**others, self._view.me: not self._view.draining}

    def _fleet(self, model_type: str) -> FleetUse:
        fits, wall_ms = self._view.fits, self._view.record_ms(self._parts.clock())
        peers = (peer.record for peer in self._view.peers() if peer.answers)
        records = [
            record
            for record in (self._view.my_record, *peers)
            if not record.draining
            and (fits is None or fits.rank(model_type, record.labels) is not None)
        ]
        capacity = sum(record.capacity_units for record in records)
        free = sum(max(record.capacity_units - record.used_units, 0) for record in records)
        oldest_ms = min((record.lru_ms for record in records if record.lru_ms), default=0)
        age_s = (wall_ms - oldest_ms) / 1000 if oldest_ms else inf
        return FleetUse(len(records), free / capacity if capacity else 1.0, age_s)

    def _goes_first(self, record: ModelRecord) -> bool:
        holders: dict[str, InstanceRecord] = {}
        for instance_id in record.loaded_in:
            peer = self._view.peer(instance_id)
            if instance_id == self._view.me:
                holders[instance_id] = self._view.my_record
            elif peer is not None and peer.answers:
                holders[instance_id] = peer.record
        return bool(holders) and drops_first(holders) == self._view.me
