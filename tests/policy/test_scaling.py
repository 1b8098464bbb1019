"""How many copies: each reason as a row, and what no combination may do."""

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.domain.records import ModelRecord
from modelmesh.policy.scaling import (
    Copies,
    FleetUse,
    Keeping,
    Pattern,
    ScalingLimits,
    Use,
    Wishes,
    copies_of,
    drops_first,
    is_heavy,
    is_too_busy,
    keeps_last_copy,
    scale_down,
    scale_up,
    weighted,
)
from tests.policy.fleet_view import NOW_MS, instance, record

HOUR = 3600.0
BUSY = Use(rate_rpm=2000)
ONE, TWO, THREE = Copies(1), Copies(2), Copies(3)
EMPTY = FleetUse(9)
CROWDED = FleetUse(9, free_share=0.09, oldest_use_age_s=20 * HOUR)


@pytest.mark.parametrize(
    ("use", "copies", "fleet", "wishes", "further", "says"),
    [
        # by rate
        (Use(rate_rpm=1999), ONE, EMPTY, Wishes(), 0, "enough"),
        (BUSY, ONE, EMPTY, Wishes(), 1, "a minute"),
        (Use(rate_rpm=6500), ONE, EMPTY, Wishes(), 3, "a minute"),
        (Use(rate_rpm=99_000), ONE, EMPTY, Wishes(), 3, "a minute"),  # a third of the fleet
        (Use(rate_rpm=99_000), ONE, FleetUse(3), Wishes(), 2, "a minute"),
        (BUSY, TWO, CROWDED, Wishes(), 1, "a minute"),  # demand, room or not
        (BUSY, ONE, FleetUse(1), Wishes(), 0, "every instance"),
        (BUSY, TWO, FleetUse(2), Wishes(), 0, "every instance"),
        (BUSY, Copies(1, coming=1), EMPTY, Wishes(), 0, "coming"),
        (BUSY, Copies(2, newest_age_s=21.9), EMPTY, Wishes(), 0, "effect"),
        (BUSY, Copies(2, newest_age_s=22), EMPTY, Wishes(), 1, "a minute"),
        (replace(BUSY, load_s=60), Copies(2, newest_age_s=22), EMPTY, Wishes(), 0, "effect"),
        # by concurrency
        (Use(calls=8, parallel=3.6, most_parallel=4), ONE, EMPTY, Wishes(), 1, "at once"),
        (Use(calls=8, parallel=3.5, most_parallel=4), ONE, EMPTY, Wishes(), 0, "enough"),
        (Use(calls=7, parallel=4, most_parallel=4), ONE, EMPTY, Wishes(), 0, "enough"),
        (Use(calls=8, parallel=9, most_parallel=4), ONE, EMPTY, Wishes(), 2, "at once"),
        (Use(calls=8, parallel=99, most_parallel=0), ONE, EMPTY, Wishes(), 0, "enough"),
        # by regular use
        (Use(regular=True), ONE, EMPTY, Wishes(), 1, "regular"),
        (Use(regular=True), TWO, EMPTY, Wishes(), 0, "enough"),
        (Use(regular=True), ONE, CROWDED, Wishes(), 0, "no room"),
        (Use(regular=True), ONE, replace(CROWDED, free_share=0.1), Wishes(), 1, "regular"),
        (Use(regular=True), ONE, replace(CROWDED, oldest_use_age_s=21 * HOUR), Wishes(), 1, "reg"),
        (Use(regular=True), ONE, CROWDED, Wishes(priority=1), 1, "regular"),
        (Use(regular=True), ONE, EMPTY, Wishes(priority=-1), 0, "low priority"),
        # by wish
        (Use(), ONE, CROWDED, Wishes(min_copies=3), 2, "must"),
        (Use(), Copies(1, coming=1), EMPTY, Wishes(min_copies=3), 1, "must"),
        (Use(), ONE, FleetUse(2), Wishes(min_copies=3), 1, "must"),
        (BUSY, TWO, EMPTY, Wishes(max_copies=2), 0, "may"),
        (Use(rate_rpm=9999), ONE, EMPTY, Wishes(max_copies=2), 1, "a minute"),
        (Use(), ONE, EMPTY, Wishes(min_copies=3, max_copies=2), 1, "must"),
    ],
)
def test_more_copies(
    use: Use, copies: Copies, fleet: FleetUse, wishes: Wishes, further: int, says: str
) -> None:
    decision = scale_up(use, copies, fleet, wishes)
    assert decision.copies == further
    assert says in decision.reason


def test_the_threshold_can_be_moved_but_not_to_nothing() -> None:
    assert (
        scale_up(Use(rate_rpm=100), ONE, EMPTY, limits=ScalingLimits(scaleup_rpm=100)).copies == 1
    )
    assert scale_up(Use(rate_rpm=9), ONE, EMPTY, limits=ScalingLimits(scaleup_rpm=0)).copies == 0


def test_heavy_and_too_busy() -> None:
    assert not is_heavy(1500)
    assert is_heavy(1501)
    assert not is_too_busy(instance(rate_rpm=8000), 0)
    assert is_too_busy(instance(rate_rpm=8001), 0)
    assert not is_too_busy(instance(rate_rpm=8001), 20_000)  # much less than here


# --- regular use


@pytest.mark.parametrize(
    ("uses", "at", "regular"),
    [
        ([], 0, False),
        ([0], 419, False),
        ([0], 420, True),
        ([0], 2400, True),
        ([0], 2401, False),
        ([0, 300], 2500, True),  # seen 2,200 s ago
        ([0, 2500], 2600, False),
        ([0, 2500], 2920, True),
        (list(range(0, 410, 10)), 420, True),  # in use all the time
        ([-9000, 0], 430, True),
    ],
)
def test_regular_is_now_and_some_minutes_ago(uses: list[float], at: float, regular: bool) -> None:
    pattern = Pattern()
    for use in uses:
        pattern = pattern.used(use)
    assert pattern.is_regular(at) is regular


@given(
    gap_s=st.floats(1, 1990), start=st.floats(0, 1e6), count=st.integers(1, 200)
)  # fmt: skip
def test_steady_use_is_found_regular_within_two_windows(
    gap_s: float, start: float, count: int
) -> None:
    pattern, found = Pattern(), False
    for number in range(count):
        now = start + number * gap_s
        found = found or pattern.is_regular(now)
        pattern = pattern.used(now)
    assert found or (count - 1) * gap_s < 2400 + 420
    assert not found or (count - 1) * gap_s >= 420 - 1e-6


# --- fewer

FULL = FleetUse(9, free_share=0.05, oldest_use_age_s=20 * HOUR)
LONG_MEMORY = replace(FULL, oldest_use_age_s=500 * HOUR)
IDLE = Use(used_age_s=inf)


@pytest.mark.parametrize(
    ("use", "copies", "fleet", "wishes", "drop", "says"),
    [
        (IDLE, ONE, FULL, Wishes(), False, "last"),
        (IDLE, TWO, FULL, Wishes(), True, "unused"),
        (IDLE, TWO, replace(FULL, free_share=0.06), Wishes(), False, "room"),
        (IDLE, TWO, FULL, Wishes(min_copies=2), False, "must"),
        (IDLE, Copies(2, coming=1), FULL, Wishes(), False, "coming"),
        (Use(used_age_s=2 * HOUR), TWO, FULL, Wishes(), False, "not long ago"),
        (Use(used_age_s=2.1 * HOUR), TWO, FULL, Wishes(), True, "unused"),
        # a long memory: 10 hours, unless it was in heavy use since
        (Use(used_age_s=11 * HOUR), TWO, LONG_MEMORY, Wishes(), True, "unused"),
        (
            Use(used_age_s=11 * HOUR, heavy_age_s=99 * HOUR),
            TWO, LONG_MEMORY, Wishes(), False, "not long ago",
        ),
        (Use(rate_rpm=2000, used_age_s=1), TWO, FleetUse(9, 0.0, 0.0), Wishes(), False, "need"),
        # three and more
        (Use(rate_rpm=1333), THREE, FULL, Wishes(), True, "more copies"),
        (Use(rate_rpm=1334), THREE, FULL, Wishes(), False, "heavy"),
        (Use(queued=2), THREE, FULL, Wishes(), False, "heavy"),
        (Use(heavy_age_s=2263), THREE, FULL, Wishes(), False, "heavy"),
        (Use(heavy_age_s=2265), THREE, FULL, Wishes(), True, "more copies"),
        (Use(), Copies(3, newest_age_s=1799), FULL, Wishes(), False, "came"),
        (Use(), Copies(3, unload_age_s=79), FULL, Wishes(), False, "went"),
        # too many
        (BUSY, THREE, replace(FULL, free_share=1), Wishes(max_copies=2), True, "may"),
        (BUSY, THREE, FULL, Wishes(min_copies=3, max_copies=2), False, "must"),
    ],
)  # fmt: skip
def test_fewer_copies(
    use: Use, copies: Copies, fleet: FleetUse, wishes: Wishes, drop: bool, says: str
) -> None:
    decision = scale_down(use, copies, fleet, goes_first=True, wishes=wishes)
    assert decision.drop is drop
    assert says in decision.reason
    assert not scale_down(use, copies, fleet, goes_first=False, wishes=wishes).drop


def test_who_leaves_or_is_pressed_for_room_drops_first() -> None:
    roomy, pressed = instance(victim_worth=1e-12), instance(victim_worth=1e-9)
    assert drops_first({"a": pressed, "b": roomy}) == "a"
    assert drops_first({"a": pressed, "b": instance(draining=True)}) == "b"
    assert drops_first({"a": instance(used_units=5), "b": instance()}) == "a"
    assert drops_first({"a": roomy, "b": roomy}) == drops_first({"b": roomy, "a": roomy})


USES = st.builds(
    Use,
    rate_rpm=st.floats(0, 1e5),
    calls=st.integers(0, 100),
    parallel=st.floats(0, 100),
    most_parallel=st.integers(0, 8),
    regular=st.booleans(),
    used_age_s=st.floats(0, 1e6),
    heavy_age_s=st.floats(0, 1e6),
)
COPIES = st.builds(
    Copies,
    loaded=st.integers(1, 9),
    coming=st.integers(0, 3),
    newest_age_s=st.floats(0, 1e5),
    unload_age_s=st.floats(0, 1e5),
)
FLEETS = st.builds(
    FleetUse,
    instances=st.integers(1, 12),
    free_share=st.floats(0, 1),
    oldest_use_age_s=st.floats(0, 1e7),
)
WISHES = st.builds(
    Wishes,
    min_copies=st.integers(0, 4),
    max_copies=st.integers(0, 4),
    pinned=st.booleans(),
    priority=st.integers(-2, 2),
)


@given(use=USES, copies=COPIES, fleet=FLEETS, wishes=WISHES, first=st.booleans())
def test_bounds_hold_and_nothing_goes_up_and_down_at_once(
    use: Use, copies: Copies, fleet: FleetUse, wishes: Wishes, first: bool
) -> None:
    up = scale_up(use, copies, fleet, wishes)
    down = scale_down(use, copies, fleet, goes_first=first, wishes=wishes)
    there = copies.loaded + copies.coming
    assert up.reason
    assert down.reason
    assert up.copies >= 0
    if up.copies:
        assert there + up.copies <= fleet.instances
        assert not wishes.max_copies or there + up.copies <= wishes.max_copies
    if down.drop:
        assert copies.loaded - 1 >= max(wishes.min_copies, 1)
        assert not up.copies


# --- eviction


@pytest.mark.parametrize(
    ("others", "uses_in_demand_time", "wishes", "keeping"),
    [
        (1, 99, Wishes(), Keeping.FREE),
        (0, 1, Wishes(), Keeping.RELUCTANT),
        (0, 0.99, Wishes(), Keeping.FREE),
        (0, 0, Wishes(pinned=True), Keeping.NEVER),
        (1, 0, Wishes(pinned=True), Keeping.FREE),  # another copy is there
        (1, 0, Wishes(min_copies=2), Keeping.NEVER),
        (2, 0, Wishes(min_copies=2), Keeping.FREE),
    ],
)
def test_how_an_eviction_treats_a_copy(
    others: int, uses_in_demand_time: float, wishes: Wishes, keeping: Keeping
) -> None:
    assert keeps_last_copy(others, uses_in_demand_time / 600, wishes) is keeping


def test_each_step_of_priority_counts_double() -> None:
    assert [weighted(8.0, step) for step in (-1, 0, 2)] == [4.0, 8.0, 32.0]
    assert weighted(1.0, 10**9) < inf


def test_copies_are_counted_where_they_count() -> None:
    model = record(
        loaded={"me": 9000, "a": 8000, "leaving": 1}, coming={"b": 2000, "gone": 1},
        last_unload_ms=NOW_MS - 500,
    )  # fmt: skip
    stays = {"me": True, "a": True, "b": True, "leaving": False}
    assert copies_of(model, "me", stays, NOW_MS) == Copies(2, 1, 2.0, 0.5)
    assert copies_of(model, "b", stays, NOW_MS).newest_age_s == 8.0
    assert copies_of(ModelRecord("t"), "me", stays, NOW_MS) == Copies(0, 0, inf, inf)
