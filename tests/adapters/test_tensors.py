"""Arrays from and to the protocols, V1's instances, and what is refused of both."""

from typing import Any

import numpy as np
import pytest

from modelmesh.codec import tensors as codec
from modelmesh.codec.tensors import Tensor
from runtime_adapters import tensors
from runtime_adapters.base import BadInput

NUMBERS = [
    ("BOOL", np.bool_, [True, False]),
    ("UINT8", np.uint8, [0, 255]),
    ("UINT16", np.uint16, [0, 65535]),
    ("UINT32", np.uint32, [0, 2**32 - 1]),
    ("UINT64", np.uint64, [0, 2**64 - 1]),
    ("INT8", np.int8, [-128, 127]),
    ("INT16", np.int16, [-32768, 32767]),
    ("INT32", np.int32, [-(2**31), 2**31 - 1]),
    ("INT64", np.int64, [-(2**63), 2**63 - 1]),
    ("FP32", np.float32, [0.5, -1.5]),
    ("FP64", np.float64, [0.1, -1e300]),
]


@pytest.mark.parametrize(("datatype", "dtype", "values"), NUMBERS, ids=lambda v: str(v)[:8])
@pytest.mark.parametrize("raw", [False, True])
def test_numbers_go_both_ways(datatype: str, dtype: Any, values: list[Any], raw: bool) -> None:
    array = np.array([values], dtype)
    tensor = tensors.of_array("x", array, raw=raw)
    assert (tensor.datatype, tensor.shape, tensor.is_raw) == (datatype, (1, 2), raw)
    assert codec.to_list(tensor) == values
    back = tensors.to_array(tensor)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, array)
    back[0, 0] = 0  # models may write into their inputs


def test_half_precision_comes_raw() -> None:
    halves = np.array([0.5, -2.0], np.float16)
    tensor = tensors.of_array("x", halves, raw=True)
    assert tensor.datatype == "FP16"
    np.testing.assert_array_equal(tensors.to_array(tensor), halves)
    brain = Tensor("x", "BF16", (2,), np.array([0.5, -2.0], "<f4").tobytes()[2:4] + b"\x00\xc0")
    np.testing.assert_array_equal(tensors.to_array(brain), np.array([0.5, -2.0], np.float32))


def test_texts_go_both_ways() -> None:
    tensor = tensors.of_array("x", np.array([["ä", "b"]], object), raw=True)
    assert (tensor.datatype, codec.to_text(tensor)) == ("BYTES", ["ä", "b"])
    raw = Tensor("x", "BYTES", (2,), codec.to_raw(tensor))
    assert tensors.to_array(raw).tolist() == ["ä".encode(), b"b"]


@pytest.mark.parametrize(
    ("answer", "dtype"),
    [
        (np.array(["a", "b"]), object),
        (np.array([b"a"]), object),
        (np.array([1, 2], object), np.int64),
        (np.array([True, False], object), np.bool_),
        (np.array([1.5], np.longdouble), np.float64),
        (np.array([1, 2], ">i4"), "<i4"),
    ],
)
def test_answers_are_settled(answer: np.ndarray, dtype: Any) -> None:
    assert tensors.settle("y", answer).dtype == dtype


@pytest.mark.parametrize(
    "answer",
    [
        np.array([1j]),
        np.array(["2020-01-01"], "datetime64[D]"),
        np.array([None]),
        np.array([{}, "a"], object),
        np.array([2**70], object),
        np.zeros(1, [("a", "i4")]),
    ],
)
def test_answers_that_no_datatype_carries_are_refused(answer: np.ndarray) -> None:
    with pytest.raises(tensors.BadOutput, match="output 'y'"):
        tensors.settle("y", answer)


@pytest.mark.parametrize(
    ("instances", "columns"),
    [
        ([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}], {"a": [1, 2], "b": ["x", "y"]}),
        ([{"a": {"0": 6.8}, "b": {"0": 2.8}}], {"a": [6.8], "b": [2.8]}),
        ([{"a": [1, 2], "b": [3, 4]}, {"a": [5], "b": [6]}], {"a": [1, 2, 5], "b": [3, 4, 6]}),
        ([[{"a": 1}, {"a": 2.5}]], {"a": [1, 2.5]}),
        ([{"b": True}], {"b": [True]}),
    ],
)
def test_records_are_columns(instances: list[Any], columns: dict[str, list[Any]]) -> None:
    arrays, parameters = tensors.of_instances(instances)
    assert {name: array.tolist() for name, array in arrays.items()} == columns
    assert parameters == {"content_type": "pd"}


def test_nothing_in_a_column_is_what_pandas_makes_of_it() -> None:
    arrays, _ = tensors.of_instances([{"a": 1, "t": "x"}, {"a": None, "t": None}, {"a": 3}])
    np.testing.assert_array_equal(arrays["a"], [1.0, np.nan, 3.0])
    assert arrays["t"].tolist() == ["x", None, None]


def test_plain_instances_are_one_array() -> None:
    assert tensors.of_instances([[1, 2], [3, 4]])[0]["instances"].dtype == np.int64
    assert tensors.of_instances([[1, 2.5]])[0]["instances"].dtype == np.float64
    assert tensors.of_instances(["a", "b"])[0]["instances"].tolist() == ["a", "b"]
    assert tensors.of_instances([["a", "b"]])[0]["instances"].dtype == object
    assert tensors.of_instances([])[0]["instances"].shape == (0,)


@pytest.mark.parametrize(
    "instances",
    [
        [[1, 2], [3]],
        [[1, None]],
        [[1, {"a": 2}]],
        [1, [2]],
        ["a", 1],
        [{"a": 1}, 2],
        [{"a": [1, 2], "b": [3]}],
        [{"a": 1}, {"a": "x"}],
        [{"a": [[1]]}],
        [2**70],
        [{"a": 2**70}],
    ],
    ids=str,
)
def test_instances_that_are_no_table_are_the_callers_error(instances: list[Any]) -> None:
    with pytest.raises(BadInput):
        tensors.of_instances(instances)
