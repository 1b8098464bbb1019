"""The record of a vmodel: a name that stands for one model now, and for another one soon.

ModelMesh's JSON field names, unknown fields kept. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelmesh.domain.records import known_fields, packed, split_fields

_FIELDS = {"o": "owner", "amid": "active_id", "tmid": "target_id", "failed": "failed"}


@dataclass(frozen=True, slots=True)
class VModelRecord:
    """`active_id` answers; `target_id` takes over as soon as it can. Equal: no transition."""

    active_id: str
    target_id: str
    owner: str = ""
    failed: bool = False  # the target could not be loaded
    unknown: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def transitioning(self) -> bool:
        return self.active_id != self.target_id

    def to_json(self) -> bytes:
        """The value to store."""
        return packed(self.unknown, known_fields(self, _FIELDS))

    @classmethod
    def from_json(cls, value: bytes) -> "VModelRecord":
        """Read a record; raises ValueError if it is not a JSON object."""
        known, unknown = split_fields(value, _FIELDS, "a vmodel record")
        return cls(**{"active_id": "", "target_id": "", **known}, unknown=unknown)
