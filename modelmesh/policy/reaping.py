"""What the leader tidies up: traces of instances that are gone, old failures, work left undone.

An instance that is missing from the table may merely be late, so it counts as gone only when it has
been missing for long and the store itself was asked. A failed load is forgotten when its time is
over, whoever had it. Vmodels that are on their way are pushed on, those that failed now and then
tried again. And what nobody holds but somebody may soon want is loaded while there is room.

Every function does a bounded piece and says where to go on: a tick never scans a whole registry.
Pure; whoever carries it out writes by compare-and-set, so a decision that has become wrong fails.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import islice
from typing import Final, NamedTuple

from modelmesh.domain.instances import InstanceRecord
from modelmesh.domain.records import ModelRecord
from modelmesh.domain.vmodels import VModelRecord


@dataclass(frozen=True, slots=True)
class ReapingLimits:
    """`gone_after_s`: how long an instance must be missing. The rest bounds one tick."""

    gone_after_s: float = 600.0
    failure_expiry_s: float = 900.0
    most_looked: int = 5000
    most_changes: int = 100
    most_transitions: int = 64
    transition_retry_s: float = 60.0
    most_loads: int = 100
    least_recent_s: float = 1200.0


LIMITS: Final = ReapingLimits()

# How much of the free room is filled in advance: half, and never the last eighth of an instance;
# and how many loads one slot is given in one pass.
_FILLED_SHARE: Final = 2
_SPARED_SHARE: Final = 8
_LOADS_A_SLOT: Final = 50
# Beyond the free room, a twentieth of the fleet may be turned over for what was used lately.
_TURNED_OVER: Final = 20
# A model that failed twice is not loaded unasked.
_FAILURES: Final = 2


# --- instances that are gone


def note_missing(
    mentioned: Collection[str], live: Collection[str], missing: Mapping[str, float], now: float
) -> dict[str, float]:
    """Instances that records mention but nobody is: since when (monotonic seconds).

    Who is back is forgotten, and so is who is no longer mentioned.
    """
    return {each: missing.get(each, now) for each in sorted(mentioned) if each not in live}


def to_confirm(
    missing: Mapping[str, float], now: float, limits: ReapingLimits = LIMITS
) -> tuple[str, ...]:
    """Those missing for so long that the store should be asked whether they exist."""
    return tuple(
        sorted(each for each, since in missing.items() if now - since >= limits.gone_after_s)
    )


def mentioned_in(records: Iterable[ModelRecord]) -> set[str]:
    """The instances that records speak of."""
    found: set[str] = set()
    for record in records:
        found.update(record.instance_ids, record.loaded_in)
    return found


# --- one look over records


@dataclass(frozen=True, slots=True)
class Prune:
    """What to take out of one record: copies on instances that are gone, and old failures."""

    model_id: str
    copies: tuple[str, ...]
    failures: tuple[str, ...]

    def applied(self, record: ModelRecord) -> ModelRecord:
        """The record without them; the same object if it has none of them."""
        for instance_id in self.copies:
            record = record.without_copy(instance_id)
        for instance_id in self.failures:
            record = record.without_failure(instance_id)
        return record


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one look found. `after`: the last model looked at; "": that was all."""

    prunes: tuple[Prune, ...]
    after: str
    looked: int


def sweep(
    models: Iterable[tuple[str, ModelRecord]],
    gone: Collection[str],
    now_ms: float,
    limits: ReapingLimits = LIMITS,
) -> Sweep:
    """Look at the next models (in order of their ids, after the last sweep's `after`).

    `gone`: instances that are confirmed to be gone.
    """
    prunes: list[Prune] = []
    looked, last = 0, ""
    for model_id, record in models:
        looked, last = looked + 1, model_id
        if found := _prune(model_id, record, gone, now_ms, limits):
            prunes.append(found)
        if looked >= limits.most_looked or len(prunes) >= limits.most_changes:
            return Sweep(tuple(prunes), last, looked)
    return Sweep(tuple(prunes), "", looked)


def _prune(
    model_id: str, record: ModelRecord, gone: Collection[str], now_ms: float, limits: ReapingLimits
) -> Prune | None:
    """An entry younger than the instance has been missing is somebody new with an old name."""
    young_ms = now_ms - limits.gone_after_s * 1000
    copies = tuple(
        sorted(
            each
            for each in {*record.instance_ids, *record.loaded_in}
            if each in gone and max(_times(record, each)) <= young_ms
        )
    )
    old_ms = now_ms - limits.failure_expiry_s * 1000
    failures = tuple(
        sorted(
            each
            for each in {*record.failed_in, *record.fails}
            if record.failed_in.get(each, 0) <= old_ms
        )
    )
    return Prune(model_id, copies, failures) if copies or failures else None


def _times(record: ModelRecord, instance_id: str) -> tuple[int, int]:
    return record.instance_ids.get(instance_id, 0), record.loaded_in.get(instance_id, 0)


# --- vmodels on their way


def due_transitions(
    vmodels: Iterable[tuple[str, VModelRecord]],
    tried: Mapping[str, float],
    now: float,
    limits: ReapingLimits = LIMITS,
) -> tuple[str, ...]:
    """Vmodels to push on now, those longest untouched first.

    `tried`: when each was pushed last (monotonic seconds). What has failed waits for its turn.
    """

    def age(vmodel_id: str) -> float:
        return now - tried.get(vmodel_id, float("-inf"))

    due = (
        vmodel_id
        for vmodel_id, record in vmodels
        if record.transitioning
        and (not record.failed or age(vmodel_id) >= limits.transition_retry_s)
    )
    return tuple(nlargest(limits.most_transitions, due, key=lambda each: (age(each), each)))


# --- loading ahead of demand


@dataclass(frozen=True, slots=True)
class Room:
    """What can be loaded unasked on the instances that may hold models of some types.

    `free`: loads into free room; `most`: those that turn others out included. `oldest_use_ms`:
    last use of what has been unused longest there.
    """

    free: int
    most: int
    oldest_use_ms: float


def room_for(instances: Collection[InstanceRecord], size_bytes: int, oldest_use_ms: float) -> Room:
    """How many models of about this size should come unasked, at most."""
    size_bytes = max(size_bytes, 1)
    fill_bytes = capacity_bytes = 0
    for record in instances:
        if record.draining:
            continue
        capacity_bytes += record.capacity_bytes
        loads = max(_LOADS_A_SLOT * record.load_slots - record.loading, 0)
        spare = record.free_bytes - record.capacity_bytes // _SPARED_SHARE
        fill_bytes += max(min(spare, loads * size_bytes), 0)
    free = fill_bytes // _FILLED_SHARE // size_bytes
    return Room(free, max(free, capacity_bytes // (_TURNED_OVER * size_bytes)), oldest_use_ms)


class Idle(NamedTuple):
    """A model that nobody holds, in the order of its claim to be loaded: the greater, the sooner.

    Ends with the id, so that models registered in one millisecond stay apart.
    """

    demanded: bool  # it must have a copy: pinned, or a minimum
    priority: int
    last_used_ms: int
    model_id: str


def shortlist(
    before: Sequence[Idle],
    models: Iterable[tuple[str, ModelRecord]],
    live: Collection[str],
    limits: ReapingLimits = LIMITS,
) -> tuple[Idle, ...]:
    """The best of those found `before` and those among the next models, best first.

    A registry is looked through in pieces; what is found is carried along.
    """
    found = [
        Idle(_demanded(record), record.priority, record.last_used_ms, name)
        for name, record in islice(models, limits.most_looked)
        if may_come(record, live)
    ]
    if len(before) == limits.most_loads:
        found = [each for each in found if each > before[-1]]
    return tuple(nlargest(limits.most_loads, (*before, *found))) if found else tuple(before)


def may_come(record: ModelRecord, live: Collection[str]) -> bool:
    """Whether to load it unasked makes sense: nobody who lives holds it, it has not failed too
    often, and no operator has unloaded it. His standing wish for a copy outweighs that."""
    if len(record.failed_in) >= _FAILURES or any(each in live for each in record.instance_ids):
        return False
    return not record.kept_out or _demanded(record)


def _demanded(record: ModelRecord) -> bool:
    return bool(record.pinned or record.min_copies)


def proactive_loads(
    idle: Iterable[Idle], room: Room, now_ms: float, limits: ReapingLimits = LIMITS
) -> tuple[str, ...]:
    """The models to load now (all of types that `room` is for), best first.

    What must have a copy comes whether or not there is room. What fits into free room comes. What
    would turn others out comes only if it was used clearly later than the oldest of them.
    """
    age_ms = max(now_ms - room.oldest_use_ms, 0.0)
    recent_ms = room.oldest_use_ms + max(age_ms / 3, limits.least_recent_s * 1000)
    chosen: list[str] = []
    for each in islice(sorted(idle, reverse=True), limits.most_loads):
        fits = len(chosen) < room.free
        turns_out = len(chosen) < room.most and each.last_used_ms > recent_ms
        if each.demanded or fits or turns_out:
            chosen.append(each.model_id)
    return tuple(chosen)
