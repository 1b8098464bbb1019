"""How many copies a model has: more where its calls need them, fewer where its room is needed.

Each daemon judges the copies that it holds, by what it has seen of them; nobody adds up the fleet.
Copies are added for four reasons, in this order: the operator's minimum, a rate above the
threshold, more calls at once than a copy can run, and, for a model with a single copy, regular use.
What was decided is not decided again while a copy is coming, or has come and not yet shown its
effect. Copies go when the fleet is full and they have been idle; of several holders the one most
pressed for room goes first, all see which one that is, and nobody drops the last copy.

ModelMesh's meaning and thresholds, with its slips mended (ages are compared with ages, no instance
is subtracted twice, recent heavy use keeps a copy longer). Pure. Times are ages in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from math import exp2, inf
from typing import Final

from modelmesh.domain.instances import InstanceRecord
from modelmesh.domain.records import ModelRecord

_HOUR_S: Final = 3600.0
_LEAST_THRESHOLD_RPM: Final = 10  # of the dynamic setting, as in ModelMesh
_AT_ONCE: Final = 2  # copies added by demand, or a third of the fleet: the next look knows more


@dataclass(frozen=True, slots=True)
class ScalingLimits:
    """Thresholds. `scaleup_rpm`: calls a minute that one copy should answer at most.

    `bandwidth_pct`: how much of what a copy can run at once it should use at most. `tick_s`: how
    often copies are judged. `full_share`, `crowded_share`: free memory of the fleet below which
    idle copies go and second copies do not come.
    """

    scaleup_rpm: int = 2000
    bandwidth_pct: int = 90
    tick_s: float = 10.0
    second_copy_min_age_s: float = 420.0
    second_copy_max_age_s: float = 2400.0
    full_share: float = 0.05
    crowded_share: float = 0.10
    least_calls: int = 8
    demand_s: float = 600.0

    @property
    def threshold_rpm(self) -> int:
        return max(self.scaleup_rpm, _LEAST_THRESHOLD_RPM)


LIMITS: Final = ScalingLimits()


@dataclass(frozen=True, slots=True)
class Copies:
    """The copies of one model that count: on instances that live, answer and stay.

    `loaded` and `coming` include this instance. `newest_age_s`: since the last load elsewhere
    began; `unload_age_s`: since the last copy went anywhere.
    """

    loaded: int
    coming: int = 0
    newest_age_s: float = inf
    unload_age_s: float = inf


@dataclass(frozen=True, slots=True)
class Use:
    """What this instance has seen of its copy.

    `rate_rpm`, `calls` and `parallel` (calls in it at once, waiting ones included, on average) are
    of the last interval. `most_parallel`: calls that it can run at once; 0: unknown. `regular`: see
    `Pattern`. Ages: since its last use, and since its rate was last near the threshold.
    """

    rate_rpm: float = 0.0
    calls: int = 0
    parallel: float = 0.0
    most_parallel: int = 0
    queued: int = 0
    regular: bool = False
    used_age_s: float = 0.0
    heavy_age_s: float = inf
    load_s: float = 1.0


@dataclass(frozen=True, slots=True)
class FleetUse:
    """The instances that may hold models of this type, this one included.

    `oldest_use_age_s`: since the use of what has been unused longest anywhere: how long the fleet
    can afford to remember.
    """

    instances: int
    free_share: float = 1.0
    oldest_use_age_s: float = inf


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator asks for one model (fields of its record); 0: nothing."""

    min_copies: int = 0
    max_copies: int = 0
    pinned: bool = False
    priority: int = 0

    @classmethod
    def of(cls, record: ModelRecord) -> "Wishes":
        return cls(record.min_copies, record.max_copies, record.pinned, record.priority)


NO_WISHES: Final = Wishes()


@dataclass(frozen=True, slots=True)
class More:
    """How many further copies to load, one after the other and elsewhere; and why."""

    copies: int
    reason: str


@dataclass(frozen=True, slots=True)
class Fewer:
    """Whether this instance gives up its copy, and why."""

    drop: bool
    reason: str


def scale_up(
    use: Use, copies: Copies, fleet: FleetUse, wishes: Wishes = NO_WISHES,
    limits: ScalingLimits = LIMITS,
) -> More:  # fmt: skip
    """How many copies are wanted beside those that are loaded or coming."""
    there = copies.loaded + copies.coming
    most = fleet.instances - there
    if most <= 0:
        return More(0, "every instance that may hold it has a copy")
    if wishes.max_copies:
        most = min(most, wishes.max_copies - there)
        if most <= 0:
            return More(0, "it has as many copies as it may")
    if there < wishes.min_copies:
        return More(min(wishes.min_copies - there, most), "it has fewer copies than it must")
    if copies.coming:
        return More(0, "a copy is coming")
    if copies.newest_age_s < 2 * (limits.tick_s + use.load_s):
        return More(0, "the newest copy has not shown its effect yet")
    return _by_use(use, copies, fleet, wishes, limits, most)


def _by_use(
    use: Use, copies: Copies, fleet: FleetUse, wishes: Wishes, limits: ScalingLimits, most: int
) -> More:
    wanted, reason = _demand(use, limits)
    if wanted:
        return More(min(wanted, most, max(_AT_ONCE, fleet.instances // 3)), reason)
    if copies.loaded == 1 and use.regular:
        if wishes.priority < 0:
            return More(0, "in regular use, but of low priority")
        if wishes.priority == 0 and _crowded(fleet, limits):
            return More(0, "in regular use, but the fleet has no room to spare")
        return More(1, "a second copy of what is in regular use")
    return More(0, "its copies are enough")


def _demand(use: Use, limits: ScalingLimits) -> tuple[int, str]:
    """How many further copies this one's calls could do with, and why."""
    if by_rate := int(use.rate_rpm // limits.threshold_rpm):
        return by_rate, "more calls a minute than one copy should get"
    bandwidth = use.most_parallel * limits.bandwidth_pct / 100
    if bandwidth and use.calls >= limits.least_calls and use.parallel >= bandwidth:
        return int(use.parallel // bandwidth), "more calls at once than one copy should run"
    return 0, ""


def _crowded(fleet: FleetUse, limits: ScalingLimits) -> bool:
    """Little is free, and what would have to go for a second copy is in use itself."""
    recent_s = max(30 * limits.second_copy_max_age_s, 6 * _HOUR_S)
    return fleet.free_share < limits.crowded_share and fleet.oldest_use_age_s <= recent_s


def is_heavy(rate_rpm: float, limits: ScalingLimits = LIMITS) -> bool:
    """Whether this is near enough to the threshold to remember it."""
    return rate_rpm > limits.threshold_rpm * 3 / 4


def is_too_busy(record: InstanceRecord, rate_rpm: float, limits: ScalingLimits = LIMITS) -> bool:
    """Whether an instance has so many calls that a copy of this model would not help there."""
    threshold = limits.threshold_rpm
    return record.rate_rpm > max(4 * threshold, rate_rpm - 2 * threshold)


# --- regular use


@dataclass(frozen=True, slots=True)
class Pattern:
    """Two marks of a model's uses (monotonic seconds), enough to know a regular one.

    Regular is what is used now and was used some minutes ago as well, but not merely hours ago.
    """

    earlier: float = -inf
    last: float = -inf

    def is_regular(self, now: float, limits: ScalingLimits = LIMITS) -> bool:
        """Asked at a use, before it is noted."""
        low, high = limits.second_copy_min_age_s, limits.second_copy_max_age_s
        return low <= now - self.earlier <= high or low <= now - self.last <= high

    def used(self, now: float, limits: ScalingLimits = LIMITS) -> "Pattern":
        """With this use noted; the earlier mark stays for as long as it can say something."""
        if now - self.earlier > limits.second_copy_max_age_s:
            return Pattern(self.last if self.last > -inf else now, now)
        return Pattern(self.earlier, now)


# --- fewer


def scale_down(
    use: Use, copies: Copies, fleet: FleetUse, *, goes_first: bool, wishes: Wishes = NO_WISHES,
    limits: ScalingLimits = LIMITS,
) -> Fewer:  # fmt: skip
    """Whether the copy here goes. `goes_first`: whether `drops_first` names this instance.

    Whoever does it takes itself out of the record by compare-and-set and asks again if the record
    has changed: two holders that go at once would else leave none.
    """
    if copies.loaded <= max(wishes.min_copies, 1):
        return Fewer(False, "the last copy, or as few as it must have")
    if not goes_first:
        return Fewer(False, "another holder would go first")
    if wishes.max_copies and copies.loaded > wishes.max_copies:
        return Fewer(True, "it has more copies than it may")
    if fleet.free_share > limits.full_share:
        return Fewer(False, "there is room")
    if copies.coming:
        return Fewer(False, "a copy is coming")
    if _demand(use, limits)[0]:  # in a fleet that thrashes even the busiest seems long unused
        return Fewer(False, "its calls need it")
    return _second(use, fleet) if copies.loaded == 2 else _third(use, copies, fleet, limits)


def _second(use: Use, fleet: FleetUse) -> Fewer:
    """One of two goes after a tenth of what the fleet remembers; after heavy use not even so."""
    memory_s = fleet.oldest_use_age_s
    idle_s = memory_s / 10
    if use.heavy_age_s > memory_s / 5:  # never, or long ago
        idle_s = min(idle_s, 10 * _HOUR_S)
    if use.used_age_s <= idle_s:
        return Fewer(False, "used not long ago")
    return Fewer(True, "one of two copies, long unused")


def _third(use: Use, copies: Copies, fleet: FleetUse, limits: ScalingLimits) -> Fewer:
    """One of many goes when they have been more than enough for a while, one at a time."""
    quiet_s = min(max((3 * fleet.oldest_use_age_s + 10_400) / 100, 600.0), 5 * _HOUR_S)
    if copies.unload_age_s < 80:
        return Fewer(False, "a copy went just now")
    if copies.newest_age_s < 1800:
        return Fewer(False, "a copy came not long ago")
    if use.heavy_age_s < quiet_s or use.rate_rpm > limits.threshold_rpm * 2 / 3 or use.queued > 1:
        return Fewer(False, "in heavy use, or not long ago")
    return Fewer(True, "more copies than its calls need")


def drops_first(holders: Mapping[str, InstanceRecord]) -> str:
    """Who of those that hold a loaded copy gives it up first; all must see the same records.

    Who leaves, then whose next victim is worth most, then who has least room.
    """

    def order(instance_id: str) -> tuple[bool, float, int, str]:
        record = holders[instance_id]
        return record.draining, record.victim_worth, -record.free_bytes, instance_id

    return max(holders, key=order)


# --- eviction


class Keeping(IntEnum):
    """How an eviction treats a copy: in this order, and within one by worth."""

    FREE = 0
    RELUCTANT = 1  # only if all the free ones are not enough
    NEVER = 2


def keeps_last_copy(
    others: int, rate_per_s: float, wishes: Wishes = NO_WISHES, limits: ScalingLimits = LIMITS
) -> Keeping:
    """How to treat the copy here. `others`: loaded copies on instances that live and stay.

    The last copy of what will be asked for within `demand_s` goes only for want of anything else:
    its next caller waits for a load, while that of a further copy finds another one.
    """
    if others >= max(wishes.min_copies, 1):
        return Keeping.FREE
    if wishes.pinned or others + 1 <= wishes.min_copies:
        return Keeping.NEVER
    return Keeping.RELUCTANT if rate_per_s * limits.demand_s >= 1 else Keeping.FREE


def weighted(worth: float, priority: int) -> float:
    """The worth of a copy with its operator's priority: each step counts double."""
    return worth * exp2(max(-20, min(priority, 20)))


# --- facts from a record


def copies_of(record: ModelRecord, me: str, stays: Mapping[str, bool], now_ms: float) -> Copies:
    """Count copies. `stays`: live, answering instances, and whether they stay (do not drain)."""
    loaded = coming = 0
    newest_ms = -inf
    for instance_id, queued_ms in record.instance_ids.items():
        if not stays.get(instance_id, False):
            continue
        if instance_id in record.loaded_in:
            loaded += 1
        else:
            coming += 1
        if instance_id != me:
            newest_ms = max(newest_ms, queued_ms)
    unload_ms = record.last_unload_ms or -inf
    return Copies(loaded, coming, (now_ms - newest_ms) / 1000, (now_ms - unload_ms) / 1000)
