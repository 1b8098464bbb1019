"""Neutral inference requests and responses: tensors with names, shapes and flat contents.

The V2 protocol exists as protobuf, JSON and JSON with raw tensors behind it; adapters should see
one form. A tensor's contents stay as they came: raw little-endian bytes (so that an adapter can
make an array of them without touching an element), or a flat Python list in row-major order. The
conversions between the two are here, as are the checks that both forms share: what passed
`check` has a known datatype and exactly as many elements as its shape says.

Pure, and without numpy: the daemon imports this room and must not load the numeric stack. Nothing
here may raise anything but `MeshError` (INVALID_ARGUMENT) for what a caller can send.
"""

from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

Raw = bytes | bytearray | memoryview
Contents = Raw | list[Any]
Parameter = bool | int | float | str
Parameters = dict[str, Parameter]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output.

    `contents` is either raw (little-endian, row-major; each BYTES element behind its length as
    u32) or a flat list of bool, int, float, or for BYTES `bytes` (encoders take `str` as well).
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    contents: Contents
    parameters: Parameters = field(default_factory=dict)

    @property
    def is_raw(self) -> bool:
        return not isinstance(self.contents, list)


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that the caller asks for by name."""

    name: str
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One inference request; "" where the caller gave no version or id. No outputs: all of them."""

    model_name: str
    inputs: tuple[Tensor, ...]
    model_version: str = ""
    id: str = ""
    parameters: Parameters = field(default_factory=dict)
    outputs: tuple[RequestedOutput, ...] = ()

    @property
    def is_raw(self) -> bool:
        """Whether any input came as raw bytes (a gRPC answer then goes back raw as well)."""
        return any(tensor.is_raw for tensor in self.inputs)


@dataclass(frozen=True, slots=True)
class InferResponse:
    """One answer with all the outputs that the model has; encoders select what was requested."""

    model_name: str
    outputs: tuple[Tensor, ...]
    model_version: str = ""
    id: str = ""
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Datatype:
    """One row of the protocol's table.

    `size_bytes` of an element (0: varies), `code` of `struct` ("" where Python has none), the
    field of InferTensorContents ("" for raw only), and the range of a value.
    """

    name: str
    size_bytes: int
    code: str
    contents_field: str
    least: float = -inf
    most: float = inf


def _integer(name: str, size_bytes: int, code: str, contents_field: str) -> Datatype:
    bits = 8 * size_bytes
    least, most = (
        (0, 2**bits - 1) if name.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    )
    return Datatype(name, size_bytes, code, contents_field, least, most)


_FP32_MOST = float.fromhex("0x1.fffffep+127")
_FP16_MOST = 65504.0

DATATYPES: Final[dict[str, Datatype]] = {
    row.name: row
    for row in (
        Datatype("BOOL", 1, "?", "bool_contents", 0, 1),
        _integer("UINT8", 1, "B", "uint_contents"),
        _integer("UINT16", 2, "H", "uint_contents"),
        _integer("UINT32", 4, "I", "uint_contents"),
        _integer("UINT64", 8, "Q", "uint64_contents"),
        _integer("INT8", 1, "b", "int_contents"),
        _integer("INT16", 2, "h", "int_contents"),
        _integer("INT32", 4, "i", "int_contents"),
        _integer("INT64", 8, "q", "int64_contents"),
        Datatype("FP16", 2, "e", "", -_FP16_MOST, _FP16_MOST),
        Datatype("BF16", 2, "", ""),
        Datatype("FP32", 4, "f", "fp32_contents", -_FP32_MOST, _FP32_MOST),
        Datatype("FP64", 8, "d", "fp64_contents"),
        Datatype("BYTES", 0, "", "bytes_contents"),
    )
}
