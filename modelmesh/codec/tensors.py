"""Neutral inference requests and responses: tensors with names, shapes and flat contents.

The V2 protocol exists as protobuf, JSON and JSON with raw tensors behind it; adapters should see
one form. A tensor's contents stay as they came: raw little-endian bytes (so that an adapter can
make an array of them without touching an element), or a flat Python list in row-major order. The
conversions between the two are here, as are the checks that both forms share: what passed
`check` has a known datatype and exactly as many elements as its shape says.

Pure, and without numpy: the daemon imports this room and must not load the numeric stack. Nothing
here may raise anything but `MeshError` (INVALID_ARGUMENT) for what a caller can send.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import prod
from typing import Any, Final

from modelmesh.errors import Code, Failure, Fault, MeshError, Reason, invalid

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

    `size_bytes` of an element (0: varies), `code` of `struct` ("" where Python has none), and the
    field of InferTensorContents ("" for raw only).
    """

    name: str
    size_bytes: int
    code: str
    contents_field: str


DATATYPES: Final[dict[str, Datatype]] = {
    row.name: row
    for row in (
        Datatype("BOOL", 1, "?", "bool_contents"),
        Datatype("UINT8", 1, "B", "uint_contents"),
        Datatype("UINT16", 2, "H", "uint_contents"),
        Datatype("UINT32", 4, "I", "uint_contents"),
        Datatype("UINT64", 8, "Q", "uint64_contents"),
        Datatype("INT8", 1, "b", "int_contents"),
        Datatype("INT16", 2, "h", "int_contents"),
        Datatype("INT32", 4, "i", "int_contents"),
        Datatype("INT64", 8, "q", "int64_contents"),
        Datatype("FP16", 2, "e", ""),
        Datatype("BF16", 2, "", ""),
        Datatype("FP32", 4, "f", "fp32_contents"),
        Datatype("FP64", 8, "d", "fp64_contents"),
        Datatype("BYTES", 0, "", "bytes_contents"),
    )
}
_RAW_ONLY: Final = frozenset({"FP16", "BF16"})
_NARROW: Final = frozenset("BHbh")  # protobuf carries these in 32 bits: a value may be out of range
_ELEMENT_TYPES: Final[dict[str, frozenset[type]]] = {
    "BOOL": frozenset({bool}),
    "BYTES": frozenset({bytes, str}),
    "FP16": frozenset({float, int}),
    "BF16": frozenset(),
    "FP32": frozenset({float, int}),
    "FP64": frozenset({float, int}),
}
_INTEGERS: Final = frozenset({int})

MOST_DIMENSIONS: Final = 64  # numpy's own limit
MOST_ELEMENTS: Final = 2**63 - 1  # dimensions are int64 in protobuf


def datatype_of(name: str, datatype: object) -> Datatype:
    """The row of the table; the first half of the refusal is KServe's text, word for word."""
    row = DATATYPES.get(datatype) if isinstance(datatype, str) else None
    if row is None:
        raise invalid(f"invalid datatype None in the input ({name!r} has datatype {datatype!r})")
    return row


def element_count(name: str, shape: Sequence[int]) -> int:
    """How many elements a tensor of this shape has; refuses what no array can have."""
    if len(shape) > MOST_DIMENSIONS:
        raise invalid(f"tensor {name!r} has {len(shape)} dimensions; {MOST_DIMENSIONS} is the most")
    count = prod(shape)
    if shape and (min(shape) < 0 or max(count, *shape) > MOST_ELEMENTS):
        raise invalid(f"tensor {name!r} has an impossible shape {list(shape)}")
    return count


def check(tensor: Tensor) -> None:
    """Refuse an unknown datatype, an impossible shape, and contents of another size than it says.

    Narrow integers are checked for their range. Raw BYTES are only known to be long enough:
    `to_list` splits them, and refuses what does not split.
    """
    row = datatype_of(tensor.name, tensor.datatype)
    count = element_count(tensor.name, tensor.shape)
    contents = tensor.contents
    if not isinstance(contents, list):
        size = contents.nbytes if isinstance(contents, memoryview) else len(contents)
        if size != count * row.size_bytes if row.size_bytes else size < 4 * count:
            raise _mismatch(tensor, count, f"{size} bytes of raw contents")
    elif len(contents) != count:
        raise _mismatch(tensor, count, f"{len(contents)} in its contents")
    elif row.code in _NARROW:
        _packed(tensor.name, row, contents)


def check_values(tensor: Tensor) -> None:
    """Refuse a list that holds anything but values of the datatype, within its range."""
    contents = tensor.contents
    if not isinstance(contents, list):
        return
    strangers = set(map(type, contents)) - _ELEMENT_TYPES.get(tensor.datatype, _INTEGERS)
    if strangers:
        names = ", ".join(sorted(kind.__name__ for kind in strangers))
        raise invalid(f"tensor {tensor.name!r} of {tensor.datatype} cannot hold {names}")
    row = DATATYPES[tensor.datatype]
    if row.code:
        _packed(tensor.name, row, contents)


def to_raw(tensor: Tensor) -> Raw:
    """The contents as raw little-endian bytes; those of a checked tensor that is raw, untouched."""
    contents = tensor.contents
    if not isinstance(contents, list):
        return contents
    row = datatype_of(tensor.name, tensor.datatype)
    if row.code:
        return _packed(tensor.name, row, contents)
    if row.name == "BYTES":
        return _prefixed(tensor.name, contents)
    raise invalid(f"tensor {tensor.name!r} of {row.name} has raw contents only")


def to_list(tensor: Tensor) -> list[Any]:
    """The contents as a flat list; those of a checked tensor that is a list, untouched."""
    contents = tensor.contents
    if isinstance(contents, list):
        return contents
    row = datatype_of(tensor.name, tensor.datatype)
    if row.code:
        try:
            return list(struct.unpack(f"<{len(contents) // row.size_bytes}{row.code}", contents))
        except struct.error as error:
            raise invalid(f"tensor {tensor.name!r}: {error}") from error
    if row.name != "BYTES":
        raise invalid(f"tensor {tensor.name!r} of {row.name} has raw contents only")
    values = _split(tensor.name, contents)
    if len(values) != (count := element_count(tensor.name, tensor.shape)):
        raise _mismatch(tensor, count, f"{len(values)} in its contents")
    return values


def to_text(tensor: Tensor) -> list[str]:
    """The elements of a BYTES tensor as text."""
    try:
        return [v if isinstance(v, str) else str(v, "utf-8") for v in to_list(tensor)]
    except (UnicodeDecodeError, TypeError) as error:
        raise invalid(
            f"tensor {tensor.name!r} holds bytes that are not UTF-8 text; ask for binary data"
        ) from error


def is_raw_only(tensor: Tensor) -> bool:
    """Whether neither JSON nor the typed contents of protobuf can carry it (FP16, BF16)."""
    return tensor.datatype in _RAW_ONLY


def answered(response: InferResponse, request: InferRequest) -> tuple[Tensor, ...]:
    """The outputs that go back: those requested in the order of the request, or all of them.

    A name that the model does not have is the caller's fault; a tensor that contradicts itself is
    the model's.
    """
    for tensor in response.outputs:
        try:
            check(tensor)
            check_values(tensor)
        except MeshError as error:
            raise model_error(f"model {response.model_name!r} answered badly: {error}") from error
    if not request.outputs:
        return response.outputs
    by_name = {tensor.name: tensor for tensor in response.outputs}
    for output in request.outputs:
        if output.name not in by_name:
            raise invalid(
                f"Unexpected inference output '{output.name}' for model '{response.model_name}'"
            )
    return tuple(by_name[output.name] for output in request.outputs)


def model_error(message: str) -> MeshError:
    """The model (or the server behind us) answered something that cannot be passed on."""
    return MeshError(
        Failure(Code.INTERNAL, message, Fault.MODEL, Reason.MODEL_ERROR, executed=True)
    )


def flatten(name: str, nested: list[Any]) -> tuple[tuple[int, ...], list[Any]]:
    """The shape and the row-major elements of nested lists; refuses ragged ones.

    One pass in C for each level, however deep.
    """
    shape = [len(nested)]
    while nested and list in (kinds := set(map(type, nested))):
        lengths = set(map(len, nested)) if len(kinds) == 1 else set()
        if len(lengths) != 1:
            raise invalid(f"the data of {name!r} are ragged: rows differ in length or depth")
        shape.append(lengths.pop())
        nested = list(chain.from_iterable(nested))
    return tuple(shape), nested


def nest(flat: list[Any], shape: Sequence[int]) -> list[Any]:
    """Nested lists of a checked tensor's elements; a scalar becomes a list of one.

    Without elements the answer is empty whatever the shape, which could demand any number of rows.
    """
    if flat:
        for size in reversed(shape[1:]):
            flat = [flat[at : at + size] for at in range(0, len(flat), size)]
    return flat


def _packed(name: str, row: Datatype, values: list[Any]) -> bytes:
    try:
        return struct.pack(f"<{len(values)}{row.code}", *values)
    except (struct.error, OverflowError) as error:
        raise invalid(f"tensor {name!r} of {row.name}: {error}") from error


def _prefixed(name: str, values: list[Any]) -> bytes:
    """BYTES elements, each behind its length as a little-endian u32."""
    pieces: list[bytes] = []
    for value in values:
        try:
            element = value if isinstance(value, bytes) else value.encode()
        except (AttributeError, UnicodeEncodeError) as error:
            raise invalid(f"tensor {name!r} of BYTES: {error}") from error
        pieces += (len(element).to_bytes(4, "little"), element)
    return b"".join(pieces)


def _split(name: str, raw: Raw) -> list[bytes]:
    """The BYTES elements of raw contents."""
    view = bytes(raw)
    values: list[bytes] = []
    at, end = 0, len(view)
    while at < end:
        start = at + 4
        at = start + int.from_bytes(view[at:start], "little")
        if at > end:
            raise invalid(f"tensor {name!r} of BYTES: its raw contents are cut off")
        values.append(view[start:at])
    return values


def _mismatch(tensor: Tensor, count: int, found: str) -> MeshError:
    return invalid(
        f"tensor {tensor.name!r} of {tensor.datatype} has shape {list(tensor.shape)}, "
        f"which is {count} elements, but {found}"
    )
