"""What the tests of the codecs share: drawn tensors, requests and JSON; the rule for refusals."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from hypothesis import strategies as st

from modelmesh.codec.tensors import (
    DATATYPES,
    Datatype,
    InferRequest,
    InferResponse,
    RequestedOutput,
    Tensor,
)
from modelmesh.errors import Code, MeshError

_WIDTHS: dict[str, Literal[16, 32, 64]] = {"FP16": 16, "FP32": 32, "FP64": 64}

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
parameters = st.dictionaries(
    names.map(lambda name: f"p{name}"),
    st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | names
    | st.floats(allow_nan=False, allow_infinity=False),
    max_size=2,
)
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)

LISTED = tuple(row for row in DATATYPES.values() if row.name != "BF16")
IN_JSON = tuple(row for row in LISTED if row.name != "FP16")


def values(row: Datatype, *, finite: bool = False) -> st.SearchStrategy[Any]:
    """Elements of a datatype; with `finite`, only those that JSON can carry."""
    if row.name == "BYTES":
        return names.map(str.encode) if finite else st.binary(max_size=5)
    if row.name == "BOOL":
        return st.booleans()
    if row.name in _WIDTHS:
        return st.floats(width=_WIDTHS[row.name], allow_nan=False, allow_infinity=not finite)
    bits = 8 * row.size_bytes
    if row.name.startswith("U"):
        return st.integers(0, 2**bits - 1)
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@st.composite
def tensors(draw: st.DrawFn, rows: tuple[Datatype, ...] = LISTED, finite: bool = False) -> Tensor:
    """A tensor with listed contents."""
    row, shape = draw(st.sampled_from(rows)), draw(shapes)
    count = 1
    for size in shape:
        count *= size
    contents = draw(st.lists(values(row, finite=finite), min_size=count, max_size=count))
    return Tensor(draw(names), row.name, shape, contents, draw(parameters))


def requests(
    rows: tuple[Datatype, ...] = LISTED, finite: bool = False
) -> st.SearchStrategy[InferRequest]:
    return st.builds(
        InferRequest,
        names,
        st.lists(tensors(rows, finite), max_size=3).map(tuple),
        model_version=names,
        id=names,
        parameters=parameters,
        outputs=st.lists(st.builds(RequestedOutput, names, parameters), max_size=2).map(tuple),
    )


def responses(
    rows: tuple[Datatype, ...] = LISTED, finite: bool = False
) -> st.SearchStrategy[InferResponse]:
    return st.builds(
        InferResponse,
        names,
        st.lists(tensors(rows, finite), max_size=3).map(tuple),
        model_version=names,
        id=names,
        parameters=parameters,
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | names,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


def floats(*numbers: float, code: str = "d") -> bytes:
    """These numbers as raw contents."""
    return struct.pack(f"<{len(numbers)}{code}", *numbers)


@contextmanager
def read_or_refused() -> Iterator[None]:
    """Whatever came in, nothing but INVALID_ARGUMENT may come out."""
    try:
        yield
    except MeshError as error:
        if error.failure.code is not Code.INVALID_ARGUMENT:
            raise
