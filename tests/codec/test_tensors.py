"""Tensors: what is refused, and that lists and raw bytes are the same values."""

import math
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelmesh.codec.tensors import (
    DATATYPES,
    InferRequest,
    InferResponse,
    RequestedOutput,
    Tensor,
    answered,
    check,
    check_values,
    flatten,
    nest,
    to_list,
    to_raw,
    to_text,
)
from modelmesh.errors import Code, Fault, MeshError, Reason
from tests.codec.strategies import floats, read_or_refused, shapes, tensors


@given(tensors())
def test_a_list_made_raw_and_back_is_the_same(tensor: Tensor) -> None:
    check(tensor)
    check_values(tensor)
    raw = Tensor(tensor.name, tensor.datatype, tensor.shape, memoryview(to_raw(tensor)))
    check(raw)
    assert raw.is_raw
    assert to_list(raw) == tensor.contents
    assert to_raw(raw) is raw.contents


@pytest.mark.parametrize(
    ("datatype", "values", "raw"),
    [
        ("BOOL", [True, False], b"\x01\x00"),
        ("UINT8", [255], b"\xff"),
        ("INT16", [-2], b"\xfe\xff"),
        ("UINT32", [1], b"\x01\0\0\0"),
        ("INT64", [-1], b"\xff" * 8),
        ("FP16", [1.0], b"\x00\x3c"),
        ("FP32", [6.5], b"\0\0\xd0\x40"),
        ("FP64", [1.0], b"\0\0\0\0\0\0\xf0\x3f"),
        ("BYTES", [b"test", b""], b"\x04\0\0\0test\0\0\0\0"),
    ],
)
def test_the_layout_is_little_endian_and_bytes_are_prefixed(
    datatype: str, values: list[Any], raw: bytes
) -> None:
    shape = (len(values),)
    assert to_raw(Tensor("x", datatype, shape, values)) == raw
    assert to_list(Tensor("x", datatype, shape, raw)) == values


def test_the_table_agrees_with_struct() -> None:
    for row in DATATYPES.values():
        assert not row.code or struct.calcsize(f"<{row.code}") == row.size_bytes


REFUSED = [
    (Tensor("x", "FP128", (1,), [1.0]), "invalid datatype None in the input ('x' has datatype"),
    (Tensor("x", "fp32", (1,), [1.0]), "invalid datatype None in the input"),
    (Tensor("x", "FP32", (-1,), []), "impossible shape [-1]"),
    (Tensor("x", "FP32", (-1, -1), [1.0]), "impossible shape"),
    (Tensor("x", "FP32", (2**32, 2**32), []), "impossible shape"),
    (Tensor("x", "FP32", (0, 2**63), []), "impossible shape"),
    (Tensor("x", "FP32", (1,) * 65, [1.0]), "65 dimensions"),
    (Tensor("x", "FP32", (2, 4), [1.0] * 7), "shape [2, 4], which is 8 elements, but 7"),
    (Tensor("x", "FP64", (2,), b"\0" * 15), "which is 2 elements, but 15 bytes"),
    (Tensor("x", "BF16", (2,), b"\0" * 5), "which is 2 elements, but 5 bytes"),
    (Tensor("x", "BYTES", (2,), b"\0" * 7), "which is 2 elements, but 7 bytes"),
    (Tensor("x", "UINT8", (1,), [256]), "tensor 'x' of UINT8"),
    (Tensor("x", "INT16", (1,), [-32769]), "tensor 'x' of INT16"),
]


@pytest.mark.parametrize(("tensor", "message"), REFUSED)
def test_a_tensor_that_contradicts_itself_is_refused(tensor: Tensor, message: str) -> None:
    with pytest.raises(MeshError) as caught:
        check(tensor)
    assert message in str(caught.value)
    assert caught.value.failure.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT32", 1.5),
        ("INT32", 2**31),
        ("UINT64", -1),
        ("INT8", True),
        ("BOOL", 1),
        ("FP32", "1"),
        ("FP32", 1e300),
        ("FP64", None),
        ("FP64", 10**400),
        ("FP16", 1e6),
        ("BYTES", 7),
        ("BF16", 1.0),
    ],
)
def test_a_list_holds_only_values_of_its_datatype(datatype: str, value: object) -> None:
    with pytest.raises(MeshError):
        check_values(Tensor("x", datatype, (1,), [value]))


@pytest.mark.parametrize("raw", [b"\x05\0\0\0abc", b"\0\0\0", b"\xff\xff\xff\xff", b"\0" * 12])
def test_raw_bytes_elements_that_do_not_split_are_refused(raw: bytes) -> None:
    with pytest.raises(MeshError):
        to_list(Tensor("x", "BYTES", (2,), raw))


@given(st.sampled_from(sorted(DATATYPES)), shapes, st.binary(max_size=40))
def test_any_raw_contents_are_read_or_refused(
    datatype: str, shape: tuple[int, ...], raw: bytes
) -> None:
    tensor = Tensor("x", datatype, shape, raw)
    with read_or_refused():
        check(tensor)
        assert len(to_list(tensor)) == math.prod(shape)


def test_bytes_as_text() -> None:
    assert to_text(Tensor("x", "BYTES", (2,), ["a", "ä".encode()])) == ["a", "ä"]
    with pytest.raises(MeshError, match="not UTF-8"):
        to_text(Tensor("x", "BYTES", (1,), [b"\xff"]))


@given(shapes.filter(lambda shape: shape and 0 not in shape))
@example((2, 3))
def test_nested_lists_keep_their_shape(shape: tuple[int, ...]) -> None:
    flat = list(range(math.prod(shape)))
    assert flatten("x", nest(flat, shape)) == (shape, flat)


@pytest.mark.parametrize("ragged", [[[1], [2, 3]], [1, [2]], [[1], 2], [[], [1]], [[[1]], [1]]])
def test_ragged_lists_are_refused(ragged: list[Any]) -> None:
    with pytest.raises(MeshError, match="ragged"):
        flatten("x", ragged)


def test_an_empty_tensor_demands_no_rows() -> None:
    assert nest([], (2**40, 0)) == []


ASKED = InferRequest("m", (), outputs=(RequestedOutput("b"), RequestedOutput("a")))
HAS = tuple(Tensor(name, "FP64", (1,), floats(1)) for name in "abc")


def test_requested_outputs_select_and_order() -> None:
    assert [t.name for t in answered(InferResponse("m", HAS), ASKED)] == ["b", "a"]
    assert answered(InferResponse("m", HAS), InferRequest("m", ())) == HAS


def test_an_unknown_output_is_the_callers_fault_a_broken_one_the_models() -> None:
    with pytest.raises(MeshError) as caught:
        answered(InferResponse("m", HAS[:1]), ASKED)
    assert str(caught.value) == "Unexpected inference output 'b' for model 'm'"
    assert caught.value.failure.code is Code.INVALID_ARGUMENT
    with pytest.raises(MeshError) as caught:
        answered(InferResponse("m", (Tensor("a", "FP64", (2,), [1.0]),)), ASKED)
    failure = caught.value.failure
    assert (failure.code, failure.fault, failure.reason, failure.executed) == (
        Code.INTERNAL,
        Fault.MODEL,
        Reason.MODEL_ERROR,
        True,
    )
