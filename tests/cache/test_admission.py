"""Picking victims: enough, in order, and none without need."""

from hypothesis import given
from hypothesis import strategies as st

from modelmesh.cache.admission import take
from modelmesh.cache.copy import Copy, Wanted


def make(sizes: list[int]) -> list[Copy]:
    return [Copy(Wanted(str(i), "", size, False), 0.0) for i, size in enumerate(sizes)]


@given(st.lists(st.integers(1, 100), max_size=20), st.integers(1, 500))
def test_victims_are_enough_and_each_is_needed(sizes: list[int], needed: int) -> None:
    copies = make(sizes)
    victims, spared = take(iter(copies), needed)
    total = sum(copy.size_bytes for copy in victims)
    if sum(sizes) < needed:
        assert victims == copies
    else:
        assert total >= needed
        assert all(total - copy.size_bytes < needed for copy in victims)
    walked = copies[: len(victims) + len(spared)]
    assert sorted(victims + spared, key=copies.index) == walked
    assert victims == [copy for copy in walked if copy in victims]


def test_small_models_before_a_large_one_that_does_alone_are_spared() -> None:
    one, two, fifty = make([1, 2, 50])
    assert take(iter([one, two, fifty]), 10) == ([fifty], [one, two])
