"""What an operator wishes for one model: how many copies, and what they count in an eviction.

They are fields of the model's record, so the whole fleet obeys them. Pure.
"""

from dataclasses import dataclass, replace
from typing import Final

from modelmesh.domain.records import ModelRecord

MOST_COPIES: Final = 1000
MOST_PRIORITY: Final = 20  # each step is a factor of two: beyond this nothing changes any more


@dataclass(frozen=True, slots=True)
class WishChange:
    """New wishes; None: as before."""

    min_copies: int | None = None
    max_copies: int | None = None
    pinned: bool | None = None
    priority: int | None = None


def wished(record: ModelRecord, change: WishChange, *, alone: bool) -> ModelRecord:
    """The record with these wishes; ValueError says why they make no sense.

    `alone`: there is one daemon, and so at most one copy.
    """
    given = {
        name: value
        for name in ("min_copies", "max_copies", "pinned", "priority")
        if (value := getattr(change, name)) is not None
    }
    after = replace(record, **given)
    for name in ("min_copies", "max_copies"):
        if not 0 <= getattr(after, name) <= MOST_COPIES:
            raise ValueError(f"{name} must be from 0 to {MOST_COPIES}")
    if after.max_copies and after.min_copies > after.max_copies:
        raise ValueError(
            f"min_copies ({after.min_copies}) must not be more than max_copies ({after.max_copies})"
        )
    if abs(after.priority) > MOST_PRIORITY:
        raise ValueError(f"priority must be from -{MOST_PRIORITY} to {MOST_PRIORITY}")
    if alone and after.min_copies > 1:
        raise ValueError("a daemon alone holds one copy: min_copies must be 0 or 1")
    return after
