"""The order of eviction as a structure."""

from hypothesis import given
from hypothesis import strategies as st

from modelmesh.cache.copy import Copy, Wanted
from modelmesh.cache.order import Order


def make(model_id: str) -> Copy:
    return Copy(Wanted(model_id, "", 1, False), 0.0)


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(-5, 5)), max_size=60))
def test_filing_moves_to_the_end_of_its_rank(steps: list[tuple[int, int | None]]) -> None:
    copies = [make(str(number)) for number in range(10)]
    order = Order()
    expected: dict[int, int] = {}  # number -> rank, last filed last
    for number, rank in steps:
        expected.pop(number, None)
        if rank is None:
            order.remove(copies[number])
        else:
            order.file(copies[number], rank)
            expected[number] = rank
    in_order = sorted(expected, key=lambda number: expected[number])  # stable
    assert [copy.model_id for copy in order] == [str(number) for number in in_order]
    assert len(order._buckets) == len(set(expected.values())), "empty ranks leave nothing behind"
