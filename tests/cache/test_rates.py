"""Decayed counters against the plain sum that they stand for."""

from math import isclose, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.cache.rates import NEVER, add_uses, rate_per_s

HALF_LIFE_S = 600.0


def per_s(decayed_uses: float) -> float:
    return decayed_uses * log(2) / HALF_LIFE_S


@given(st.lists(st.tuples(st.floats(0, 5000), st.integers(1, 9)), max_size=30), st.floats(0, 5000))
def test_a_counter_is_the_sum_of_faded_uses(uses: list[tuple[float, int]], later: float) -> None:
    level = NEVER
    for at, count in sorted(uses):
        level = add_uses(level, count, at, HALF_LIFE_S)
    now = max((at for at, _ in uses), default=0.0) + later
    expected = sum(count * 0.5 ** ((now - at) / HALF_LIFE_S) for at, count in uses)
    assert isclose(rate_per_s(level, now, HALF_LIFE_S), per_s(expected), rel_tol=1e-9)


def test_a_use_is_half_forgotten_after_the_half_life() -> None:
    level = add_uses(NEVER, 1, 100.0, HALF_LIFE_S)
    assert rate_per_s(level, 100.0 + HALF_LIFE_S, HALF_LIFE_S) == pytest.approx(per_s(0.5))


def test_a_steady_stream_is_seen_at_its_rate() -> None:
    level = NEVER
    for second in range(20 * int(HALF_LIFE_S)):
        level = add_uses(level, 3, float(second), HALF_LIFE_S)
    assert rate_per_s(level, 20 * HALF_LIFE_S, HALF_LIFE_S) == pytest.approx(3.0, rel=1e-3)


def test_a_year_of_uptime_overflows_nothing() -> None:
    year = 365 * 86_400.0
    level = add_uses(add_uses(NEVER, 7, 0.0, HALF_LIFE_S), 1, year, HALF_LIFE_S)
    assert rate_per_s(level, year, HALF_LIFE_S) == pytest.approx(per_s(1.0))
    assert rate_per_s(level, 2 * year, HALF_LIFE_S) == 0.0
