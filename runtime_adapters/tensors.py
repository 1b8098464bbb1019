"""numpy arrays on one side, the protocols' tensors and V1's instances on the other.

Everything that a caller or a model can get wrong about an array is found here and named: `BadInput`
for what came in, `BadOutput` for what a model answered. Arrays handed to models are writable
copies: the bytes below them belong to the wire, and compiled model code often refuses read-only
memory.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from modelmesh.codec import tensors as codec
from modelmesh.codec.tensors import Contents, Tensor
from runtime_adapters.base import Array, BadInput, Parameter

_DTYPES: Final = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_DATATYPES: Final = {dtype: name for name, dtype in _DTYPES.items()}

INSTANCES: Final = "instances"  # what V1's rows are called where inputs have names
FRAME: Final[dict[str, Parameter]] = {"content_type": "pd"}  # KServe's word for "columns"


class BadOutput(TypeError):
    """The model answered something that the protocols cannot carry."""


# --- towards the model


def to_array(tensor: Tensor) -> Array:
    """A writable array of the tensor's shape. BYTES become an object array of `bytes`."""
    if tensor.datatype == "BYTES":
        return _objects(codec.to_list(tensor)).reshape(tensor.shape)
    if tensor.datatype == "BF16":
        return _of_bfloat16(tensor.contents).reshape(tensor.shape)
    dtype = _DTYPES[tensor.datatype]
    contents = tensor.contents
    if isinstance(contents, list):
        return np.array(contents, dtype).reshape(tensor.shape)
    return np.frombuffer(contents, dtype).reshape(tensor.shape).copy()


def _of_bfloat16(contents: Contents) -> Array:
    """The upper half of a float32 each; numpy has no such type, models compute in float32."""
    if isinstance(contents, list):
        return np.array(contents, np.float32)
    halves = np.frombuffer(contents, "<u2").astype("<u4")
    return (halves << 16).view("<f4")


def _objects(elements: Sequence[object]) -> NDArray[np.object_]:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


def of_instances(instances: list[Any]) -> tuple[dict[str, Array], dict[str, Parameter]]:
    """V1's instances as inputs and parameters, by KServe's rules.

    Records (or lists of records) are columns; strings stay as they are; the rest is one array.
    """
    first = instances[0] if instances else None
    if isinstance(first, dict) or (
        isinstance(first, list) and first and isinstance(first[0], dict)
    ):
        return _columns(_records(instances)), dict(FRAME)
    if isinstance(first, str):
        if not all(isinstance(instance, str) for instance in instances):
            raise BadInput("instances mix strings with something else")
        return {INSTANCES: _objects(instances)}, {}
    return {INSTANCES: _rectangle(instances)}, {}


def _rectangle(rows: list[Any]) -> Array:
    """Nested lists of equal lengths as an array of numbers, booleans or strings."""
    try:
        array = np.array(rows)
    except (ValueError, OverflowError) as error:
        raise BadInput(f"instances are not rectangular: {error}") from None
    if array.dtype.kind == "O":
        raise BadInput("instances hold null, objects, or integers beyond 64 bits")
    return array.astype(object) if array.dtype.kind == "U" else array


def _records(instances: list[Any]) -> list[dict[str, Any]]:
    """One dict a row; a record of columns (lists, or dicts by index) is several rows."""
    rows: list[dict[str, Any]] = []
    for instance in instances:
        for record in instance if isinstance(instance, list) else [instance]:
            if not isinstance(record, dict):
                raise BadInput("instances mix records with something else")
            rows += _rows_of(record)
    return rows


def _rows_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    columns: dict[str, list[Any]] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            value = list(value.values())
        columns[name] = value if isinstance(value, list) else [value]
    count = max(map(len, columns.values()), default=0)
    for name, values in columns.items():
        if len(values) != count:
            raise BadInput(f"column {name!r} has {len(values)} rows where others have {count}")
    return [{name: values[row] for name, values in columns.items()} for row in range(count)]


def _columns(rows: list[dict[str, Any]]) -> dict[str, Array]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _column(name, [row.get(name) for row in rows]) for name in names}


def _column(name: str, values: list[Any]) -> Array:
    """One column, as pandas would have it: nothing (null or absent) is NaN among numbers."""
    present = [value for value in values if value is not None]
    if all(isinstance(value, str) for value in present):
        return _objects(values)
    if not all(isinstance(value, bool | int | float) for value in present):
        raise BadInput(f"column {name!r} mixes texts, numbers or lists")
    if len(present) < len(values):
        values = [np.nan if value is None else value for value in values]
    try:
        array = np.array(values)
    except OverflowError as error:
        raise BadInput(f"column {name!r}: {error}") from None
    if array.dtype.kind == "O":
        raise BadInput(f"column {name!r} holds integers beyond 64 bits")
    return array


# --- from the model


def settle(name: str, array: Array) -> Array:
    """The output as the protocols know it: a datatype's dtype, or objects that are all texts.

    Raises BadOutput for complex numbers, dates, nested objects and the like.
    """
    kind = array.dtype.kind
    if kind in "biuf":
        return array if array.dtype in _DATATYPES else array.astype(_nearest(name, array.dtype))
    if kind in "US":
        return array.astype(object)
    if kind == "O":
        elements = array.ravel().tolist()
        if all(isinstance(element, str | bytes) for element in elements):
            return array
        inferred = np.array(elements)
        if inferred.dtype.kind in "biuf" and inferred.shape == (array.size,):
            return settle(name, inferred.reshape(array.shape))
    raise BadOutput(f"output {name!r} is of type {array.dtype}, which no datatype can carry")


def _nearest(name: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind == "f":
        return np.dtype("<f8")
    little = dtype.newbyteorder("<")
    if little not in _DATATYPES:
        raise BadOutput(f"output {name!r} is of type {dtype}, which no datatype can carry")
    return little


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The protocol's name for a dtype; texts and objects are BYTES."""
    return _DATATYPES.get(dtype, "BYTES" if dtype.kind in "OUS" else "FP64")


def of_array(name: str, array: Array, *, raw: bool) -> Tensor:
    """A settled output as a tensor, its contents raw or a flat list."""
    datatype = datatype_of(array.dtype)
    contents: Contents = array.ravel().tolist()
    if raw and datatype != "BYTES":
        contents = array.tobytes()
    return Tensor(name, datatype, array.shape, contents)
