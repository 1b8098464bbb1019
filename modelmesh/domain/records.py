"""Records of the registry: ModelMesh's JSON field names, unknown fields kept.

A record is written by daemons of several versions, so reading and writing it back must not lose
what this version does not know. Fields at their default are left out, as ModelMesh does.
Pure: JSON in, JSON out.
"""

import json
from dataclasses import dataclass, field, replace
from typing import Any

_MODEL_FIELDS = {"type": "type", "mPath": "path", "encKey": "key", "refs": "refs"}
_MODEL_FIELDS |= {"autoDel": "auto_delete", "lu": "last_used_ms"}


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One registered model. `path` and `key` are "" where ModelMesh has null."""

    type: str
    path: str = ""
    key: str = ""
    refs: int = 0
    auto_delete: bool = False
    last_used_ms: int = 0
    unknown: dict[str, Any] = field(default_factory=dict, hash=False)

    def same_model(self, other: "ModelRecord") -> bool:
        """Whether both name the same thing to load (registration is idempotent for these)."""
        return (self.type, self.path, self.key) == (other.type, other.path, other.key)

    def used_at(self, last_used_ms: int) -> "ModelRecord":
        return replace(self, last_used_ms=last_used_ms)

    def to_json(self) -> bytes:
        """The value to store: compact JSON, defaults left out, unknown fields as they came."""
        known = {
            name: value
            for name, attribute in _MODEL_FIELDS.items()
            if (value := getattr(self, attribute))
        }
        return json.dumps({**self.unknown, **known}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, value: bytes) -> "ModelRecord":
        """Read a record; raises ValueError if it is not a JSON object."""
        fields = json.loads(value)
        if not isinstance(fields, dict):
            raise ValueError("a model record is a JSON object")
        known = {
            attribute: value
            for name, attribute in _MODEL_FIELDS.items()
            if (value := fields.pop(name, None)) is not None
        }
        return cls(**{"type": "NLCLASSIFIER", **known}, unknown=fields)
