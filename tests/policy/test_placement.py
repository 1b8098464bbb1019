"""Where a model is loaded: obstacles, costs, draws, and that a burst spreads over a stale fleet."""

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.domain.fleet import Peer
from modelmesh.domain.instances import InstanceRecord, units_of
from modelmesh.policy.constraints import parse
from modelmesh.policy.placement import (
    Obstacle,
    Sent,
    Subject,
    likely_replaced,
    place,
    possible,
)
from tests.policy.fleet_view import MIB, NOW, View, fleet, instance, peer

SUBJECT = Subject("t", 10 * MIB)
FULL = {"used_units": units_of(1020 * MIB)}


def chosen(view: View, subject: Subject = SUBJECT, seed: int = 1) -> str | None:
    return place(view, subject, NOW, Random(seed).random).instance_id


def view_of(*peers: Peer, me: InstanceRecord | None = None, **fields: object) -> View:
    """A fleet of these, and me (draining unless given: out of the way)."""
    view = View({each.instance_id: each for each in peers})
    view.my_record = me or instance(draining=True)
    for name, value in fields.items():
        setattr(view, name, value)
    return view


# --- one of two, for a reason


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"loading": 0}, {"loading": 3}),
        ({"loading": 4, "load_slots": 8}, {"loading": 4, "load_slots": 2}),
        ({}, FULL),  # room before eviction
        ({"loading": 12}, FULL),  # ... for as long as the queue is not absurd
        ({**FULL}, {"loading": 80}),
        ({**FULL, "victim_worth": 1e-12}, {**FULL, "victim_worth": 1e-8}),
        ({}, {"version": 1}),  # 1 is being replaced
        ({"loading": 99}, {"version": 1}),
        ({**FULL, "victim_worth": 1.0}, {"version": 1}),
        ({"labels": ("fast",)}, {}),  # preferred by type t
        ({"labels": ("fast",), "loading": 2}, {}),
        ({}, {"labels": ("fast",), **FULL}),  # a preference is no reason to evict
        # Of two that cost the same:
        ({"rate_rpm": 0}, {"rate_rpm": 500}),
        ({}, {"used_units": units_of(500 * MIB)}),
        ({"zone": "near"}, {"zone": "far"}),
        ({"model_count": 1}, {"model_count": 9}),
    ],
)
def test_the_better_of_two(better: dict[str, Any], worse: dict[str, Any]) -> None:
    for names in (("a", "b"), ("b", "a")):
        view = view_of(
            peer(names[0], **better),
            peer(names[1], **worse),
            me=instance(draining=True, zone="near"),
            fits=parse('{"t": {"preferred": ["fast"]}}') if "labels" in {*better, *worse} else None,
            replaced_versions={1},
        )
        assert {chosen(view, seed=seed) for seed in range(20)} == {names[0]}


def test_a_victim_worth_more_than_the_model_is_spared_if_another_is_not() -> None:
    dear = peer("dear", used_units=units_of(1024 * MIB), victim_worth=2e-13)
    cheap = peer("cheap", used_units=units_of(1024 * MIB), victim_worth=1e-14, loading=100)
    view = view_of(dear, cheap)
    assert chosen(view, replace(SUBJECT, worth=1e-13)) == "cheap"
    assert chosen(view, replace(SUBJECT, worth=1e-12)) == "dear"


def test_loads_just_sent_count_although_no_record_shows_them() -> None:
    view = view_of(peer("a"), peer("b"))
    view.placing = {"a": Sent(1, MIB)}
    assert {chosen(view, seed=seed) for seed in range(20)} == {"b"}
    view.placing = {"a": Sent(0, 1020 * MIB)}  # its room is promised away
    assert {chosen(view, seed=seed) for seed in range(20)} == {"b"}


def test_balanced_callers_stay_where_that_costs_no_more() -> None:
    view = view_of(*fleet(5).values(), me=instance())
    balanced = replace(SUBJECT, balanced=True)
    assert {chosen(view, balanced, seed) for seed in range(20)} == {"me"}
    assert len({chosen(view, SUBJECT, seed) for seed in range(40)}) > 2
    view.my_record = instance(loading=2)
    assert "me" not in {chosen(view, balanced, seed) for seed in range(20)}


def test_a_further_copy_goes_to_another_zone() -> None:
    view = view_of(peer("a", zone="x"), peer("b", zone="y"), me=instance(zone="x", draining=True))
    assert chosen(view) == "a"
    assert chosen(view, replace(SUBJECT, avoid_zones={"x"})) == "b"


# --- nowhere


@pytest.mark.parametrize(
    ("fields", "subject", "obstacle"),
    [
        ({"labels": ()}, SUBJECT, Obstacle.LABELS),
        ({"capacity_units": units_of(9 * MIB)}, SUBJECT, Obstacle.SIZE),
        ({"draining": True}, SUBJECT, Obstacle.DRAINING),
        ({}, replace(SUBJECT, holders={"a"}), Obstacle.HOLDS),
        ({}, replace(SUBJECT, failed={"a"}), Obstacle.FAILED),
        ({}, replace(SUBJECT, tried=("a",)), Obstacle.TRIED),
        ({"suspect": True}, SUBJECT, Obstacle.SILENT),
        ({"reachable": False}, SUBJECT, Obstacle.SILENT),
        ({"suspect": True, "draining": True}, SUBJECT, Obstacle.DRAINING),
    ],
)
def test_what_keeps_an_instance_out(
    fields: dict[str, Any], subject: Subject, obstacle: Obstacle
) -> None:
    view = view_of(
        peer("a", **{"labels": ("gpu",), **fields}),
        me=instance(),  # which lacks the label
        fits=parse('{"t": {"required": ["gpu"]}}'),
    )
    decision = place(view, subject, NOW, Random(1).random, explain=True)
    assert decision.instance_id is None
    assert decision.obstacle is obstacle
    assert decision.reason
    assert {each.instance_id for each in decision.candidates} == {"a", "me"}
    assert possible(view, subject) == []


def test_the_size_is_compared_to_the_byte_of_a_unit() -> None:
    view = view_of(peer("a", capacity_units=units_of(10 * MIB)))
    assert chosen(view, replace(SUBJECT, size_bytes=10 * MIB)) == "a"
    assert chosen(view, replace(SUBJECT, size_bytes=10 * MIB + 1)) is None


# --- properties

RECORDS = st.builds(
    instance,
    loading=st.integers(0, 9),
    load_slots=st.integers(0, 4),
    capacity_units=st.sampled_from([0, units_of(9 * MIB), units_of(100 * MIB)]),
    used_units=st.integers(0, units_of(120 * MIB)),
    victim_worth=st.floats(0, 1e-6),
    draining=st.booleans(),
    labels=st.sampled_from([(), ("gpu",), ("fast", "gpu")]),
    version=st.integers(0, 1),
    rate_rpm=st.integers(0, 5000),
)
PEERS = st.lists(st.tuples(RECORDS, st.booleans(), st.booleans()), max_size=8)


def drawn_view(me: InstanceRecord, drawn: list[tuple[InstanceRecord, bool, bool]]) -> View:
    view = View({}, my_record=me, replaced_versions={0})
    for number, (record, reachable, suspect) in enumerate(drawn):
        made = Peer(f"i{number}", record)
        made.reachable, made.suspect = reachable, suspect
        view.peer_by_id[made.instance_id] = made
    return view


@given(
    me=RECORDS,
    drawn=PEERS,
    out=st.sets(st.sampled_from(["me", "i0", "i1", "i2"])),
    text=st.sampled_from(["", '{"t": {"required": ["gpu"]}}', '{"t": {"preferred": ["fast"]}}']),
    seed=st.integers(0, 99),
    balanced=st.booleans(),
)
def test_the_choice_is_possible_and_costs_about_the_least(
    me: InstanceRecord,
    drawn: list[tuple[InstanceRecord, bool, bool]],
    out: set[str],
    text: str,
    seed: int,
    balanced: bool,
) -> None:
    view = drawn_view(me, drawn)
    view.fits = parse(text) if text else None
    subject = replace(SUBJECT, failed=out, balanced=balanced)
    decision = place(view, subject, NOW, Random(seed).random, explain=True)
    assert {each.instance_id for each in decision.candidates} == {"me", *view.peer_by_id}
    choices = possible(view, subject)
    if decision.instance_id is None:
        assert not choices
        return
    assert decision.instance_id in choices
    winner, costs = decision.candidates[0], [
        each.cost_s for each in decision.candidates if each.instance_id in choices
    ]  # fmt: skip
    assert winner.instance_id == decision.instance_id
    assert winner.verdict == "chosen"
    assert winner.cost_s <= min(costs) * 1.05 + view.typical_load_s / 16
    plain = place(view, subject, NOW, Random(seed).random)
    assert plain == replace(decision, candidates=())  # explaining changes nothing


@given(
    count=st.integers(3, 10),
    typical_s=st.sampled_from([0.005, 1.0, 60.0]),
    size_bytes=st.sampled_from([1, MIB, 10 * MIB]),
    seed=st.integers(0, 10_000),
    balanced=st.booleans(),
)
def test_fifty_cold_models_spread_although_no_record_changes(
    count: int, typical_s: float, size_bytes: int, seed: int, balanced: bool
) -> None:
    rng = Random(seed)
    view = View(fleet(count - 1), typical_load_s=typical_s)
    went: Counter[str | None] = Counter()
    for _ in range(50):
        subject = Subject("t", size_bytes, balanced=balanced)
        where = place(view, subject, NOW, rng.random).instance_id
        assert where is not None
        view.note_sent(where, size_bytes)
        went[where] += 1
    assert max(went.values()) <= 1.5 * 50 / count
    assert len(went) == count


@given(count=st.integers(3, 10), seed=st.integers(0, 10_000))
def test_they_spread_as_well_if_three_daemons_place_them_blind_of_each_other(
    count: int, seed: int
) -> None:
    rng = Random(seed)
    peers = fleet(count)
    views = [
        View({each: peers[each] for each in peers if each != me}, me=me)
        for me in list(peers)[:3]
    ]  # fmt: skip
    went: Counter[str | None] = Counter()
    for number in range(50):
        view = views[number % 3]
        where = place(view, SUBJECT, NOW, rng.random).instance_id
        assert where is not None
        view.note_sent(where)
        went[where] += 1
    assert max(went.values()) <= max(1.5 * 50 / count, 50 / count + 3)


# --- rolling updates

MINUTE_MS = 60_000


@pytest.mark.parametrize(
    ("starts", "now_minutes", "replaced"),
    [
        ([(1, 0), (1, 1)], 2, set()),  # one version: no update
        ([(1, 0), (2, 100)], 101, {1}),
        ([(1, 0), (2, 100)], 114, {1}),
        ([(1, 0), (2, 100)], 116, set()),  # nobody joined for 15 minutes
        ([(1, 0), (2, 100), (2, 114)], 116, {1}),
        ([(1, 0), (2, 100), (2, 119)], 121, set()),  # it takes too long to be an update
        ([(1, 0), (2, 100), (1, 101)], 102, set()),  # both still come
        ([(2, 0), (1, 100)], 101, {2}),  # a rollback
    ],
)
def test_which_versions_are_being_rolled_away(
    starts: list[tuple[int, int]], now_minutes: int, replaced: set[int]
) -> None:
    records = [instance(version=version, start_ms=at * MINUTE_MS) for version, at in starts]
    assert likely_replaced(records, now_minutes * MINUTE_MS) == replaced
