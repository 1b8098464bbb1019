"""When copies were used, as the cache is asked about it."""

import pytest

from modelmesh.cache.copies import Copies
from tests.cache.test_copies import holding, use


def test_the_oldest_use_is_known() -> None:
    copies = holding(10, "gdsf", a=1, b=1)
    assert copies.oldest_use() == 0.0
    copies.touch("a", 7.0)
    assert copies.oldest_use() == 1.0
    assert Copies(1).oldest_use() == float("inf")


def test_hot_counters_are_folded_in_before_they_mislead() -> None:
    """A use noted an hour ago must not count as one of now, however seldom the order is asked."""
    copies = holding(10, "gdsf", hot=1)
    for second in range(0, 3600, 2):
        copies.release(use(copies, "hot", float(second)), float(second))
    # Half a request a second; each costs the floor of 5 ms; one byte.
    assert copies.worth("hot", 3600.0) == pytest.approx(0.5 * 0.005, rel=0.03)
