"""The orders of eviction, by tables and by what must hold for all numbers."""

from dataclasses import dataclass
from math import exp2, isclose, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.policy.eviction import NEVER, POLICIES, gdsf, log2_sum, lru


@dataclass
class Model:
    use_level: float = 0.0
    load_s: float = 1.0
    size_bytes: int = 1024
    last_used: float = 0.0
    priority: int = 0


@pytest.mark.parametrize(
    ("goes", "stays"),
    [
        pytest.param(Model(use_level=1), Model(use_level=2), id="used less often"),
        pytest.param(Model(load_s=0.1), Model(load_s=4), id="quicker to load again"),
        pytest.param(Model(size_bytes=4096), Model(size_bytes=1024), id="larger"),
        pytest.param(Model(use_level=NEVER), Model(use_level=-2), id="never used"),
        pytest.param(Model(3, priority=-1), Model(2.5), id="a step of priority halves its worth"),
        pytest.param(Model(3), Model(2.5, priority=1), id="a step of priority doubles its worth"),
        pytest.param(Model(3, 2, 4096), Model(3, 2, 2048), id="only the product counts"),
    ],
)
def test_gdsf_keeps_what_saves_more_loading_per_byte(goes: Model, stays: Model) -> None:
    assert gdsf(goes, NEVER) < gdsf(stays, NEVER)
    assert gdsf(goes, -12.0) < gdsf(stays, -12.0)


def test_the_floor_lifts_a_newcomer_over_what_was_once_busy() -> None:
    once_busy = gdsf(Model(use_level=5), NEVER)
    assert gdsf(Model(use_level=0), NEVER) < once_busy
    assert gdsf(Model(use_level=0), once_busy) > once_busy


def test_lru_looks_at_the_last_use_only() -> None:
    assert lru(Model(use_level=9, load_s=90, last_used=1.0), 5.0) < lru(Model(last_used=1.5), 0.0)


def test_a_step_of_priority_is_ten_minutes_for_lru() -> None:
    assert lru(Model(priority=1), 0.0) == lru(Model(last_used=600.0), 0.0)
    assert lru(Model(priority=-2), 0.0) < lru(Model(last_used=-1100.0), 0.0)


@given(st.floats(-900, 900), st.floats(-900, 900))
def test_the_sum_of_logarithms_is_a_sum(a: float, b: float) -> None:
    assert isclose(log2_sum(a, b), log2(exp2(a) + exp2(b)), abs_tol=1e-9)
    assert log2_sum(a, b) == log2_sum(b, a)


@pytest.mark.parametrize(
    ("a", "b", "total"),
    [(NEVER, NEVER, NEVER), (NEVER, 3.0, 3.0), (1e6, 1e6, 1e6 + 1), (1e6, -1e6, 1e6)],
)
def test_the_sum_of_logarithms_at_its_ends(a: float, b: float, total: float) -> None:
    assert log2_sum(a, b) == total


def test_both_policies_are_known_by_name() -> None:
    assert {name: policy.priority for name, policy in POLICIES.items()} == {
        "gdsf": gdsf,
        "lru": lru,
    }
