"""What an operator may wish for a model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.domain.records import ModelRecord
from modelmesh.serving.wishes import WishChange, wished

RECORD = ModelRecord("t", min_copies=1, max_copies=3, pinned=True, priority=2)


def test_what_is_not_named_stays_and_nothing_else_is_touched() -> None:
    full = ModelRecord("t", "/p", "k", last_used_ms=7, instance_ids={"a": 1}, unknown={"x": 1})
    after = wished(full, WishChange(2, 4, True, -3), alone=False)
    assert after == ModelRecord(
        "t", "/p", "k", last_used_ms=7, instance_ids={"a": 1}, unknown={"x": 1},
        min_copies=2, max_copies=4, pinned=True, priority=-3,
    )  # fmt: skip
    assert wished(after, WishChange(), alone=False) == after
    assert wished(after, WishChange(pinned=False, min_copies=0), alone=False).max_copies == 4


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (WishChange(min_copies=4), r"min_copies \(4\) must not be more than max_copies \(3\)"),
        (WishChange(min_copies=1, max_copies=-1), "max_copies must be from 0 to 1000"),
        (WishChange(min_copies=1001, max_copies=0), "min_copies must be from 0 to 1000"),
        (WishChange(priority=21), "priority must be from -20 to 20"),
        (WishChange(priority=-21), "priority must be from -20 to 20"),
    ],
)
def test_what_makes_no_sense(change: WishChange, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        wished(RECORD, change, alone=False)


def test_a_daemon_alone_holds_one_copy() -> None:
    with pytest.raises(ValueError, match="one copy"):
        wished(RECORD, WishChange(min_copies=2), alone=True)
    assert wished(RECORD, WishChange(min_copies=1), alone=True).min_copies == 1


NUMBERS = st.none() | st.integers(-5, 1005)


@given(NUMBERS, NUMBERS, st.none() | st.booleans(), st.none() | st.integers(-30, 30))
def test_what_is_accepted_can_be_met(
    least: int | None, most: int | None, pinned: bool | None, priority: int | None
) -> None:
    try:
        after = wished(RECORD, WishChange(least, most, pinned, priority), alone=False)
    except ValueError:
        return
    assert after.min_copies >= 0
    assert after.max_copies == 0 or after.min_copies <= after.max_copies
    assert ModelRecord.from_json(after.to_json()) == after
