"""A file of registrations, one JSON object a line, read and judged before anything is sent.

A typing error on the last line must not leave half of a file registered, so the whole file is
read first. What it says about a model is for the daemon to judge.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from modelmesh.cli.exits import BadUsage
from modelmesh.pb.admin_pb2 import RegisterModelsRequest

Item = RegisterModelsRequest.Item

_KEYS = ("model_id", "type", "path", "key")
_MOST_ITEMS = 1_000  # a request: an answer within a moment
_MOST_BYTES = 4 << 20  # a request: well below the daemon's limit on messages


def read(text: str) -> list[Item]:
    """The registrations of a file; raises BadUsage naming the first line that is none."""
    return [_item(line, n) for n, line in enumerate(text.split("\n"), 1) if line.strip()]


def _item(line: str, number: int) -> Item:
    try:
        return Item(**_fields(json.loads(line)))
    except RecursionError:
        raise BadUsage(f"line {number} is nested too deeply") from None
    except ValueError as error:  # no JSON, not what a registration has, or no Unicode
        raise BadUsage(f"line {number}: {error}") from None


def _fields(line: Any) -> dict[str, str]:
    if not isinstance(line, dict):
        raise ValueError("not a JSON object")
    strange = [name for name in line if name not in _KEYS]
    if strange:
        raise ValueError(f"{strange[0]!r} is none of {', '.join(_KEYS)}")
    if isinstance(line.get("key"), dict):
        line["key"] = json.dumps(line["key"], separators=(",", ":"), ensure_ascii=False)
    wrong = [name for name, value in line.items() if not isinstance(value, str)]
    if wrong:
        raise ValueError(f"{wrong[0]} must be a string")
    return line


def batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The registrations in requests of a size that the daemon takes."""
    batch: list[Item] = []
    size_bytes = 0
    for item in items:
        if batch and (len(batch) == _MOST_ITEMS or size_bytes + item.ByteSize() > _MOST_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(item)
        size_bytes += item.ByteSize()
    if batch:
        yield batch
