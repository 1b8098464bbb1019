"""Which requests of one model become one predict, and how its answer is taken apart again.

Requests are joined along their rows when they agree in everything else: names, datatypes, trailing
shapes, parameters and requested outputs. No timer is involved: what waits when the model's turn
comes is joined, so an idle host adds no latency and a busy one saves most of the work.

Pure.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MOST_ROWS: Final = 256
MOST_BYTES: Final = 1 << 20


class Unsplittable(ValueError):
    """The answer to joined requests does not have their rows."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides whether a request joins others: equal `key`, and room for its rows and bytes.

    `key` None: it stays alone.
    """

    key: Hashable
    rows: int
    size_bytes: int


ALONE: Final = Shape(None, 0, 0)


def shape_of(
    arrays: Mapping[str, Array],
    parameters: Mapping[str, Hashable],
    requested: tuple[str, ...],
) -> Shape:
    """The shape of one request; `ALONE` where its inputs do not have the same rows."""
    rows = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    if len(rows) != 1 or 0 in rows:
        return ALONE
    tensors = tuple((name, array.dtype.char, array.shape[1:]) for name, array in arrays.items())
    # 1 and True are equal, but not the same parameter.
    settings = frozenset((name, type(value), value) for name, value in parameters.items())
    size_bytes = sum(map(_weight, arrays.values()))
    return Shape((tensors, settings, requested), rows.pop(), size_bytes)


def _weight(array: Array) -> int:
    if array.dtype.hasobject:
        texts = (element for element in array.flat if isinstance(element, str | bytes))
        return array.nbytes + sum(map(len, texts))
    return array.nbytes


def batches(shapes: Sequence[Shape]) -> list[list[int]]:
    """The requests, by index, that run together: each in one batch, batches by their first."""
    found: list[list[int]] = []
    open_batches: dict[Hashable, tuple[list[int], int, int]] = {}
    for index, shape in enumerate(shapes):
        batch, rows, size_bytes = open_batches.get(shape.key, ([], 0, 0))
        rows, size_bytes = rows + shape.rows, size_bytes + shape.size_bytes
        if not batch or rows > MOST_ROWS or size_bytes > MOST_BYTES:
            batch, rows, size_bytes = [], shape.rows, shape.size_bytes
            found.append(batch)
        batch.append(index)
        if shape.key is not None:
            open_batches[shape.key] = (batch, rows, size_bytes)
    return found


def join(requests: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """One request with the rows of all, in order."""
    return {name: np.concatenate([arrays[name] for arrays in requests]) for name in requests[0]}


def split(outputs: Mapping[str, Array], rows: Sequence[int]) -> list[dict[str, Array]]:
    """The answer to each request; raises Unsplittable if an output has not one row per row."""
    total = sum(rows)
    for name, array in outputs.items():
        if not array.ndim or array.shape[0] != total:
            raise Unsplittable(f"output {name} has the shape {array.shape} for {total} rows")
    answers = []
    start = 0
    for count in rows:
        answers.append({name: array[start : start + count] for name, array in outputs.items()})
        start += count
    return answers
