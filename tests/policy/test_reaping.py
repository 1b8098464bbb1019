"""What the leader tidies up: who is gone, what has expired, what to push on, what to load ahead."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.domain.instances import InstanceRecord, units_of
from modelmesh.domain.records import ModelRecord
from modelmesh.domain.vmodels import VModelRecord
from modelmesh.policy.reaping import (
    Idle,
    Prune,
    ReapingLimits,
    Room,
    due_transitions,
    mentioned_in,
    note_missing,
    proactive_loads,
    room_for,
    shortlist,
    sweep,
    to_confirm,
)
from tests.policy.fleet_view import MIB, NOW_MS, instance, record

MINUTE_MS = 60_000
OLD, YOUNG = 11 * MINUTE_MS, 9 * MINUTE_MS


def test_who_is_missing_for_long_is_asked_for() -> None:
    missing = note_missing({"a", "b", "c"}, {"c"}, {}, 100.0)
    assert missing == {"a": 100.0, "b": 100.0}
    missing = note_missing({"a", "b", "d"}, {"b"}, missing, 699.0)  # b is back, c no longer named
    assert missing == {"a": 100.0, "d": 699.0}
    assert to_confirm(missing, 699.9) == ()
    assert to_confirm(missing, 700.0) == ("a",)


def test_the_missing_come_in_order_whatever_a_process_makes_of_a_set() -> None:
    names = {f"i{n}" for n in range(100)}
    assert list(note_missing(names, set(), {}, 1.0)) == sorted(names)


def test_records_mention_those_who_load_and_those_who_hold() -> None:
    models = [record(loaded={"a": 1}), record(coming={"b": 1}), ModelRecord("t")]
    assert mentioned_in(models) == {"a", "b"}


@pytest.mark.parametrize(
    ("model", "copies", "failures"),
    [
        (record(loaded={"gone": OLD, "here": OLD}), ("gone",), ()),
        (record(coming={"gone": OLD, "here": OLD}), ("gone",), ()),
        (record(loaded={"gone": YOUNG}), (), ()),  # somebody new has the old name
        (record(failed_in={"gone": NOW_MS - 14 * MINUTE_MS}), (), ()),
        (record(failed_in={"here": NOW_MS - 15 * MINUTE_MS}), (), ("here",)),
        (record(fails={"here": {"msg": "without a time"}}), (), ("here",)),
        (ModelRecord("t", loaded_in={"gone": 1}), ("gone",), ()),  # a half-written record
        (record(loaded={"here": OLD}), (), ()),
    ],
)
def test_what_is_pruned(
    model: ModelRecord, copies: tuple[str, ...], failures: tuple[str, ...]
) -> None:
    result = sweep([("m", model)], {"gone"}, NOW_MS)
    assert result.after == ""
    expected = (Prune("m", copies, failures),) if copies or failures else ()
    assert result.prunes == expected
    for prune in result.prunes:
        pruned = prune.applied(model)
        assert not sweep([("m", pruned)], {"gone"}, NOW_MS).prunes
        assert prune.applied(pruned) is pruned


IDS = st.sampled_from(["a", "b", "c"])
AGES = st.integers(0, 30 * MINUTE_MS)


@given(
    ages=st.lists(st.tuples(st.dictionaries(IDS, AGES), st.dictionaries(IDS, AGES)), max_size=20),
    gone=st.sets(IDS),
    looked=st.integers(1, 5),
    changes=st.integers(1, 3),
)
def test_pieces_together_prune_what_one_look_would_and_nothing_alive(
    ages: list[tuple[dict[str, int], dict[str, int]]], gone: set[str], looked: int, changes: int
) -> None:
    models = [
        (f"m{n:02}", record(loaded=a, failed_in={e: NOW_MS - age for e, age in b.items()}))
        for n, (a, b) in enumerate(ages)
    ]
    limits = ReapingLimits(most_looked=looked, most_changes=changes)
    whole = sweep(models, gone, NOW_MS, ReapingLimits(most_changes=1000))
    found: list[Prune] = []
    after = ""
    for _ in range(len(models) + 1):
        piece = sweep([each for each in models if each[0] > after], gone, NOW_MS, limits)
        assert piece.looked <= looked
        assert len(piece.prunes) <= changes
        found += piece.prunes
        after = piece.after
        if not after:
            break
    assert not after
    assert tuple(found) == whole.prunes
    for prune in found:
        assert set(prune.copies) <= gone


def test_a_look_is_bounded_by_records_and_by_changes() -> None:
    models = [(f"m{n}", record(loaded={"gone": OLD})) for n in range(5)]
    by_changes = sweep(models, {"gone"}, NOW_MS, ReapingLimits(most_changes=2))
    assert (len(by_changes.prunes), by_changes.after, by_changes.looked) == (2, "m1", 2)
    by_records = sweep(models, set(), NOW_MS, ReapingLimits(most_looked=3))
    assert (len(by_records.prunes), by_records.after, by_records.looked) == (0, "m2", 3)


# --- vmodels


def test_transitions_are_pushed_on_and_failures_now_and_then() -> None:
    moving, failed = VModelRecord("a", "b"), VModelRecord("a", "b", failed=True)
    vmodels = [("still", VModelRecord("a", "a")), ("moving", moving), ("failed", failed)]
    assert set(due_transitions(vmodels, {}, 100.0)) == {"moving", "failed"}
    tried = {"moving": 99.0, "failed": 99.0}
    assert due_transitions(vmodels, tried, 100.0) == ("moving",)
    assert due_transitions(vmodels, tried, 159.0) == ("moving", "failed")
    bounded = ReapingLimits(most_transitions=1)
    many = [("x", moving), ("y", moving)]
    assert due_transitions(many, {"x": 5.0, "y": 4.0}, 9.0, bounded) == ("y",)  # its turn


# --- ahead of demand


def test_room_is_half_of_what_is_free_less_an_eighth() -> None:
    empty = instance(capacity_units=units_of(80 * MIB))
    assert room_for([empty], MIB, 0) == Room(35, 35, 0)
    half = replace(empty, used_units=units_of(40 * MIB))
    assert room_for([half], MIB, 0) == Room(15, 15, 0)
    full = replace(empty, used_units=units_of(75 * MIB))
    assert room_for([full, full], MIB, 0) == Room(0, 8, 0)  # a twentieth of it
    assert room_for([replace(empty, draining=True)], MIB, 0) == Room(0, 0, 0)
    assert room_for([replace(empty, load_slots=1, loading=40)], MIB, 0).free == 5
    assert room_for([], 0, 0) == Room(0, 0, 0)


def test_the_shortlist_has_what_nobody_holds_best_first() -> None:
    models = [
        ("held", record(loaded={"live": 5}, last_used_ms=9)),
        ("lost", record(loaded={"gone": 5}, last_used_ms=3)),
        ("old", record(last_used_ms=1)),
        ("twin-a", record(last_used_ms=2)),
        ("twin-b", record(last_used_ms=2)),
        ("broken", record(last_used_ms=8, failed_in={"a": 1, "b": 1})),
        ("pinned", record(pinned=True)),
        ("dear", record(priority=1)),
        ("unloaded", record(last_used_ms=9, kept_out=True)),
        ("unloaded but wished for", record(pinned=True, kept_out=True)),
    ]
    found = shortlist((), models, {"live"})
    assert [each.model_id for each in found] == [
        "unloaded but wished for",
        "pinned",
        "dear",
        "lost",
        "twin-b",
        "twin-a",
        "old",
    ]
    pieces = shortlist(shortlist((), models[:4], {"live"}), models[4:], {"live"})
    assert pieces == found
    few, one_by_one = ReapingLimits(most_loads=2), tuple[Idle, ...]()
    assert shortlist((), models, {"live"}, few) == found[:2]
    for each in models:
        one_by_one = shortlist(one_by_one, [each], {"live"}, few)
    assert one_by_one == found[:2]


def test_what_is_loaded_ahead() -> None:
    now, hour = 100 * 60 * MINUTE_MS, 60 * MINUTE_MS

    def used(name: str, hours_ago: int, **fields: Any) -> Idle:
        return Idle(fields.get("demanded", False), 0, now - hours_ago * hour, name)

    room = Room(free=1, most=3, oldest_use_ms=now - 30 * hour)  # recent: within 20 hours
    idle = [used("a", 1), used("b", 19), used("c", 21), used("d", 19)]
    assert proactive_loads(idle, room, now) == ("a", "d", "b")
    assert proactive_loads(idle, replace(room, free=0), now) == ("a", "d", "b")
    assert proactive_loads(idle, replace(room, free=4, most=4), now) == ("a", "d", "b", "c")
    assert proactive_loads(idle, Room(0, 0, 0), now) == ()
    must = [*idle, used("must", 90, demanded=True)]
    assert proactive_loads(must, Room(0, 0, 0), now) == ("must",)
    busy = replace(room, oldest_use_ms=now - 1200)  # the fleet forgets within minutes
    assert proactive_loads(idle, replace(busy, free=0), now) == ()


@given(
    records=st.lists(
        st.builds(
            instance,
            capacity_units=st.integers(0, 9999),
            used_units=st.integers(0, 9999),
            loading=st.integers(0, 300),
            load_slots=st.integers(0, 8),
            draining=st.booleans(),
        ),
        max_size=5,
    ),
    size_bytes=st.integers(1, 10 * MIB),
)
def test_free_room_is_never_promised_twice(records: list[InstanceRecord], size_bytes: int) -> None:
    room = room_for(records, size_bytes, 0)
    free_bytes = sum(each.free_bytes for each in records if not each.draining)
    assert 0 <= room.free * size_bytes * 2 <= free_bytes
    assert room.most >= room.free
