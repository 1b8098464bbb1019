"""Where a model should be loaded.

Out are instances that may not (labels, size, draining) or had better not (silent, tried, failed).
The others are compared by what it would cost to start there, in seconds: loads that come first;
what would have to be evicted, by its worth; and how unwelcome the place is. Instances publish all
that only now and then, so the loads that this daemon has sent there lately are added (`placing`):
fifty cold models at once must not all see the same empty queue. Of those that cost about the same,
this instance takes it if its callers come balanced, else the better one of two drawn: many daemons
with the same stale picture must not all run to the same best place.

One pass and no sorting, because this is done for every cold model over every instance; only who
asks for an explanation pays for one. Pure. A target is free to refuse: nothing here reserves.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, Protocol

from modelmesh.domain.fleet import Peer, rendezvous
from modelmesh.domain.instances import UNIT_BYTES, InstanceRecord, units_of

Rng = Callable[[], float]
"""The next random number in [0, 1), as `random.Random(seed).random` gives it."""

# How many loads one would rather queue behind than ...
_EVICTION: Final = 16  # ... evict anything while there is room elsewhere,
_UNWELCOME: Final = 4  # ... take an instance one rank worse by labels,
_OUTWORTH: Final = 64  # ... evict what is worth more than the model itself.

# An evicted model's worth counts for so long: about as long as it takes until it would be back.
_HORIZON_S: Final = 60.0
# Dearer than anything above: last resorts.
_REPLACED_S: Final = 1e9
# Costs this close are the same: half a load on an instance with eight slots, or 5 %.
_CLOSE_LOADS: Final = 1 / 16
_CLOSE_SHARE: Final = 0.05

_BUSY_RPM: Final = 100  # below it nobody is busy


class Obstacle(IntEnum):
    """Why an instance is out, in the order in which it is found."""

    NONE = 0
    LABELS = 1
    SIZE = 2
    DRAINING = 3
    HOLDS = 4
    FAILED = 5
    TRIED = 6
    SILENT = 7


_WORDS: Final = {
    Obstacle.NONE: "there is no instance",
    Obstacle.LABELS: "lacks a label that the type requires",
    Obstacle.SIZE: "is smaller than the model",
    Obstacle.DRAINING: "is draining",
    Obstacle.HOLDS: "has a copy, or one is coming",
    Obstacle.FAILED: "failed to load it not long ago",
    Obstacle.TRIED: "was asked already",
    Obstacle.SILENT: "does not answer",
}


@dataclass(frozen=True, slots=True)
class Sent:
    """Loads that this daemon sent to one instance and that its record cannot show yet."""

    loads: int
    size_bytes: int


class Fits(Protocol):
    """Type constraints, as far as placement asks (`policy.constraints`)."""

    def rank(self, model_type: str, labels: Collection[str]) -> int | None:
        """None: must not be there. Else 0 and more; less is better."""


class View(Protocol):
    """What this daemon knows of the fleet."""

    @property
    def me(self) -> str: ...

    @property
    def my_record(self) -> InstanceRecord:
        """This instance as it is now, draining included."""

    @property
    def fits(self) -> Fits | None:
        """None: no constraints."""

    @property
    def placing(self) -> Mapping[str, Sent]:
        """By instance, this one too; only those to which something was sent."""

    @property
    def typical_load_s(self) -> float:
        """A running median over all loads; above 0."""

    @property
    def replaced_versions(self) -> Collection[int]:
        """Versions that are probably being rolled away (see `likely_replaced`)."""

    def peers(self) -> Collection[Peer]:
        """The live others."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The model to be placed.

    `worth`: seconds of loading that it would save per second and byte; 0: unknown. `holders`,
    `failed`, `tried`: instances that are out. `balanced`: callers spread over the fleet, so this
    instance need not send its work away. `avoid_zones`: where it is already, if it shall spread.
    """

    model_type: str
    size_bytes: int
    worth: float = 0.0
    holders: Collection[str] = ()
    failed: Collection[str] = ()
    tried: Collection[str] = ()
    balanced: bool = False
    avoid_zones: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """One instance that was looked at, and why it won or lost."""

    instance_id: str
    verdict: str
    cost_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Placement:
    """The instance (None: nowhere), and why.

    `obstacle`: where it is nowhere, what kept out those that came furthest. `candidates` only if
    asked for.
    """

    instance_id: str | None
    reason: str
    obstacle: Obstacle = Obstacle.NONE
    candidates: tuple[Candidate, ...] = ()


_Scored = tuple[float, str, InstanceRecord]


def place(view: View, subject: Subject, now: float, rng: Rng, explain: bool = False) -> Placement:
    """Choose. `now` changes nothing yet: what is known is as old as it is."""
    scored = _scored(view, subject)
    if not scored:
        obstacle = max((o for _, o in _judged(view, subject)), default=Obstacle.NONE)
        candidates = _explained(view, subject, {}, "") if explain else ()
        return Placement(None, _nowhere(obstacle), obstacle, candidates)
    chosen, reason = _chosen(view, subject, scored, rng)
    candidates = ()
    if explain:
        costs = {instance_id: cost for cost, instance_id, _ in _all_scored(view, subject)}
        candidates = _explained(view, subject, costs, chosen)
    return Placement(chosen, reason, candidates=candidates)


def possible(view: View, subject: Subject) -> list[str]:
    """All instances that may be asked to load it, in no order."""
    return [each for each, obstacle in _judged(view, subject) if obstacle is Obstacle.NONE]


def unclaimed(view: View, subject: Subject, model_id: str) -> Placement | None:
    """The same instance for all daemons, while the store is silent and nothing can be claimed.

    What was draining when it was last heard of may long be back: at the worst it is asked in vain.
    """
    if ids := possible(view, subject):
        reason = "the store does not answer, and it is the first for this model"
        return Placement(rendezvous(model_id, ids)[0], reason)
    if ids := _said_to_drain(view, subject):
        reason = "the store does not answer: it was draining, and may have come back"
        return Placement(rendezvous(model_id, ids)[0], reason)
    return None


def _said_to_drain(view: View, subject: Subject) -> list[str]:
    units = units_of(max(subject.size_bytes, 1))
    found = []
    for peer in view.peers():
        if peer.record.draining:
            record = replace(peer.record, draining=False)
            if not _obstacle(view, subject, units, peer.instance_id, record, peer.answers):
                found.append(peer.instance_id)
    return found


def likely_replaced(records: Iterable[InstanceRecord], now_ms: float) -> frozenset[int]:
    """Versions that a rolling update is probably taking away.

    The version that joined last is the new one, whatever its number (a rollback goes backwards).
    While it is younger than 20 minutes and somebody joined with it within 15, older versions that
    nobody has joined with since are on their way out, and a model loaded there would move twice.
    """
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for record in records:
        first[record.version] = min(first.get(record.version, record.start_ms), record.start_ms)
        last[record.version] = max(last.get(record.version, record.start_ms), record.start_ms)
    if len(first) < 2:
        return frozenset()
    newest = max(first, key=lambda version: (first[version], version))
    if now_ms - first[newest] > 1_200_000 or now_ms - last[newest] > 900_000:
        return frozenset()
    return frozenset(version for version in last if last[version] < first[newest])


# --- the one pass


def _scored(view: View, subject: Subject) -> list[_Scored]:
    """Those whose cost was close to the least one when they were looked at."""
    close: list[_Scored] = []
    best, limit = float("inf"), float("inf")
    slack_s = view.typical_load_s * _CLOSE_LOADS
    for scored in _all_scored(view, subject):
        cost = scored[0]
        if cost <= limit:
            close.append(scored)
            if cost < best:
                best, limit = cost, cost * (1 + _CLOSE_SHARE) + slack_s
    return [scored for scored in close if scored[0] <= limit]


def _all_scored(view: View, subject: Subject) -> Iterator[_Scored]:
    """The possible instances with what starting there costs, seconds."""
    out = frozenset((*subject.tried, *subject.failed, *subject.holders))
    units = units_of(max(subject.size_bytes, 1))
    cost_of = _pricing(view, subject, units)
    mine = view.my_record
    if not mine.draining and mine.capacity_units >= units and view.me not in out:
        cost = cost_of(view.me, mine)
        if cost is not None:
            yield cost, view.me, mine
    for peer in view.peers():
        record = peer.record
        if (
            not peer.reachable
            or peer.suspect
            or record.draining
            or record.capacity_units < units
            or peer.instance_id in out
        ):
            continue
        cost = cost_of(peer.instance_id, record)
        if cost is not None:
            yield cost, peer.instance_id, record


def _pricing(
    view: View, subject: Subject, units: int
) -> Callable[[str, InstanceRecord], float | None]:
    """What a start at an instance costs; None: its labels keep the model out.

    A closure, since what it looks at is the same for a thousand instances.
    """
    placing, typical_s, replaced = view.placing, view.typical_load_s, view.replaced_versions
    bytes_s = units * UNIT_BYTES * _HORIZON_S
    rank_of = _ranks(view.fits, subject.model_type)
    own_worth = subject.worth or float("inf")

    def cost_s(instance_id: str, record: InstanceRecord) -> float | None:
        loads = record.loading
        room = record.capacity_units - record.used_units - units
        if placing and (sent := placing.get(instance_id)) is not None:
            loads += sent.loads
            room -= sent.size_bytes // UNIT_BYTES
        cost = loads * typical_s / (record.load_slots or 1)
        if room < 0:
            worth = record.victim_worth
            cost += _EVICTION * typical_s + worth * bytes_s
            if worth > own_worth:
                cost += _OUTWORTH * typical_s
        if rank_of is not None:
            rank = rank_of(record.labels)
            if rank is None:
                return None
            cost += rank * _UNWELCOME * typical_s
        if replaced and record.version in replaced:
            cost += _REPLACED_S
        return cost

    return cost_s


def _ranks(fits: Fits | None, model_type: str) -> Callable[[tuple[str, ...]], int | None] | None:
    """Ranks by labels, each set of labels asked about once: a fleet has few."""
    if fits is None:
        return None
    known: dict[tuple[str, ...], int | None] = {}

    def rank_of(labels: tuple[str, ...]) -> int | None:
        if labels not in known:
            known[labels] = fits.rank(model_type, labels)
        return known[labels]

    return rank_of


# --- among equals


def _chosen(view: View, subject: Subject, close: list[_Scored], rng: Rng) -> tuple[str, str]:
    if len(close) == 1:
        return close[0][1], "starting there costs least"
    if subject.balanced and any(instance_id == view.me for _, instance_id, _ in close):
        return view.me, "this instance costs no more than the best"
    first = int(rng() * len(close))
    second = int(rng() * (len(close) - 1))
    second += second >= first
    zone = view.my_record.zone
    _, chosen, _ = min(
        close[first], close[second], key=lambda scored: _comfort(scored[2], subject, zone)
    )
    return chosen, "the better one of two that cost about the least"


def _comfort(record: InstanceRecord, subject: Subject, zone: str) -> tuple[int, int, bool, int]:
    """Less is better: how busy, how full (in eighths), how far, how many models."""
    far = record.zone in subject.avoid_zones if subject.avoid_zones else record.zone != zone
    busy = (record.rate_rpm // _BUSY_RPM).bit_length()
    full = 8 * record.used_units // (record.capacity_units or 1)
    return busy, full, far, record.model_count


# --- the explanation


def _judged(view: View, subject: Subject) -> Iterator[tuple[str, Obstacle]]:
    units = units_of(max(subject.size_bytes, 1))
    everybody = ((peer.instance_id, peer.record, peer.answers) for peer in view.peers())
    for instance_id, record, answers in ((view.me, view.my_record, True), *everybody):
        yield instance_id, _obstacle(view, subject, units, instance_id, record, answers)


def _obstacle(
    view: View,
    subject: Subject,
    units: int,
    instance_id: str,
    record: InstanceRecord,
    answers: bool,
) -> Obstacle:
    if view.fits is not None and view.fits.rank(subject.model_type, record.labels) is None:
        return Obstacle.LABELS
    if record.capacity_units < units:
        return Obstacle.SIZE
    if record.draining:
        return Obstacle.DRAINING
    if instance_id in subject.holders:
        return Obstacle.HOLDS
    if instance_id in subject.failed:
        return Obstacle.FAILED
    if instance_id in subject.tried:
        return Obstacle.TRIED
    return Obstacle.NONE if answers else Obstacle.SILENT


def _nowhere(obstacle: Obstacle) -> str:
    if obstacle is Obstacle.NONE:
        return _WORDS[obstacle]
    return f"every instance is out; the likeliest {_WORDS[obstacle]}"


def _explained(
    view: View, subject: Subject, costs: Mapping[str, float], chosen: str
) -> tuple[Candidate, ...]:
    """All instances, first those that came closest."""
    best = costs.get(chosen, 0.0)

    def verdict(instance_id: str, obstacle: Obstacle) -> str:
        if instance_id == chosen:
            return "chosen"
        if obstacle is not Obstacle.NONE:
            return _WORDS[obstacle]
        more_s = costs[instance_id] - best
        if more_s >= _REPLACED_S / 2:
            return "is probably being replaced by a newer version"
        return f"costs {more_s:.3g} s more" if more_s > 0 else "costs no more, and lost the draw"

    candidates = (
        Candidate(instance_id, verdict(instance_id, obstacle), costs.get(instance_id, 0.0))
        for instance_id, obstacle in _judged(view, subject)
    )
    return tuple(
        sorted(
            candidates,
            key=lambda each: (
                each.instance_id != chosen, each.instance_id not in costs, each.cost_s,
                each.instance_id,
            ),
        )
    )  # fmt: skip
