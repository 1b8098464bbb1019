"""Which requests run together, and that each gets its own rows back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime_adapters import joining
from runtime_adapters.joining import ALONE, MOST_BYTES, MOST_ROWS, Shape


def shape(
    array: object, name: str = "x", requested: tuple[str, ...] = (), **parameters: int
) -> Shape:
    return joining.shape_of({name: np.asarray(array)}, parameters, requested)


ROW = [[1.0, 2.0]]


@pytest.mark.parametrize(
    "other",
    [
        shape(ROW, name="y"),
        shape(np.array(ROW, np.float32)),
        shape([[1, 2]]),
        shape([[1.0, 2.0, 3.0]]),
        shape([1.0]),
        shape(ROW, requested=("a",)),
        shape(ROW, top=1),
    ],
    ids=["name", "width", "kind", "columns", "rank", "requested", "parameters"],
)
def test_requests_that_differ_are_not_joined(other: Shape) -> None:
    assert joining.batches([shape(ROW), other]) == [[0], [1]]


def test_requests_that_differ_in_rows_alone_are_joined() -> None:
    assert joining.batches([shape(ROW), shape(ROW * 3), shape(ROW)]) == [[0, 1, 2]]


def test_true_and_one_are_different_parameters() -> None:
    assert shape(ROW, top=1).key != shape(ROW, top=True).key


def test_inputs_without_common_rows_stay_alone() -> None:
    assert joining.shape_of({}, {}, ()) == ALONE
    assert shape(3.0) == ALONE
    assert shape(np.zeros((0, 2))) == ALONE
    assert joining.shape_of({"a": np.zeros(2), "b": np.zeros(3)}, {}, ()) == ALONE
    assert joining.batches([ALONE, ALONE]) == [[0], [1]]


def test_texts_count_with_their_lengths() -> None:
    texts = np.array(["a" * 100, b"b" * 50], object)
    assert joining.shape_of({"x": texts}, {}, ()).size_bytes == 2 * texts.itemsize + 150


@given(
    st.lists(
        st.builds(
            Shape,
            st.sampled_from(["a", "b", None]),
            st.integers(1, MOST_ROWS + 10),
            st.integers(1, MOST_BYTES // 2),
        )
    )
)
def test_batches_hold_each_request_once_and_keep_the_limits(shapes: list[Shape]) -> None:
    batches = joining.batches(shapes)
    assert sorted(index for batch in batches for index in batch) == list(range(len(shapes)))
    assert [batch[0] for batch in batches] == sorted(batch[0] for batch in batches)
    for batch in batches:
        assert batch == sorted(batch)
        assert len({shapes[index].key for index in batch}) == 1
        if len(batch) > 1:
            assert shapes[batch[0]].key is not None
            assert sum(shapes[index].rows for index in batch) <= MOST_ROWS
            assert sum(shapes[index].size_bytes for index in batch) <= MOST_BYTES


@given(st.lists(st.integers(1, 5), min_size=1, max_size=20))
def test_split_gives_back_what_join_took(counts: list[int]) -> None:
    start = np.cumsum([0, *counts])
    requests = [
        {"x": np.arange(first, first + count).reshape(count, 1)}
        for first, count in zip(start, counts, strict=False)
    ]
    answers = joining.split(joining.join(requests), counts)
    for request, answer in zip(requests, answers, strict=True):
        np.testing.assert_array_equal(request["x"], answer["x"])


@pytest.mark.parametrize("output", [np.float64(1), np.zeros(2), np.zeros((4, 3))])
def test_an_output_without_the_rows_cannot_be_split(output: np.ndarray) -> None:
    with pytest.raises(joining.Unsplittable, match="output y has the shape"):
        joining.split({"y": output}, [1, 2])
