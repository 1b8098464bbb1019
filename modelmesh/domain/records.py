"""Records of the registry: ModelMesh's JSON field names, unknown fields kept.

A record is written by daemons of several versions, so reading and writing it back must not lose
what this version does not know. Fields at their default are left out, as ModelMesh does.
Instances have records of their own (`instances`), so have vmodels (`vmodels`).
Pure: JSON in, JSON out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

_MODEL_FIELDS = {
    "type": "type",
    "mPath": "path",
    "encKey": "key",
    "instanceIds": "instance_ids",
    "failedIn": "failed_in",
    "fails": "fails",
    "refs": "refs",
    "autoDel": "auto_delete",
    "lu": "last_used_ms",
    "lul": "last_unload_ms",
    # Ours: ModelMesh keeps them, as it keeps whatever it does not know.
    "loadedIn": "loaded_in",
    "minCopies": "min_copies",
    "maxCopies": "max_copies",
    "pinned": "pinned",
    "priority": "priority",
    "keptOut": "kept_out",
}

# Asked first: whether something is a mapping is a dear question. And `json.dumps` makes an encoder
# for every call.
_PLAIN = (str, int)
_encoded = json.JSONEncoder(separators=(",", ":")).encode


def known_fields(record: object, names: Mapping[str, str]) -> dict[str, Any]:
    """The fields that are not at their (false) default, by their JSON names."""
    return {
        name: dict(value) if not isinstance(value, _PLAIN) and isinstance(value, Mapping) else value
        for name, attribute in names.items()
        if (value := getattr(record, attribute))
    }


def split_fields(
    value: bytes, names: Mapping[str, str], what: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(attributes that are known, fields that are not); ValueError if it is no JSON object."""
    fields = json.loads(value)
    if not isinstance(fields, dict):
        raise ValueError(f"{what} is a JSON object")
    known = {
        attribute: given
        for name, attribute in names.items()
        if (given := fields.pop(name, None)) is not None
    }
    return known, fields


def packed(unknown: Mapping[str, Any], known: Mapping[str, Any]) -> bytes:
    """The value to store: compact JSON."""
    return _encoded({**unknown, **known}).encode()


def _without(entries: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if name != key}


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One registered model. `path` and `key` are "" where ModelMesh has null.

    `instance_ids`: instance -> when its load was queued (ms); there from the claim until the copy
    goes, so it means "coming or loaded". `loaded_in`: instance -> when the load ended (ms), and
    only of copies that take calls. `failed_in` and `fails`: where a load failed, when and why
    (`{"msg": ...}`). `kept_out`: an operator unloaded it, and nobody has asked for it since: it is
    not loaded ahead of demand.
    """

    type: str
    path: str = ""
    key: str = ""
    refs: int = 0
    auto_delete: bool = False
    last_used_ms: int = 0
    instance_ids: Mapping[str, int] = field(default_factory=dict, hash=False)
    loaded_in: Mapping[str, int] = field(default_factory=dict, hash=False)
    failed_in: Mapping[str, int] = field(default_factory=dict, hash=False)
    fails: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    last_unload_ms: int = 0
    min_copies: int = 0  # 0: the fleet's own rule
    max_copies: int = 0  # 0: no limit
    pinned: bool = False
    priority: int = 0
    kept_out: bool = False
    unknown: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def same_model(self, other: "ModelRecord") -> bool:
        """Whether both name the same thing to load (registration is idempotent for these)."""
        return self.source == other.source

    @property
    def source(self) -> tuple[str, str, str]:
        """What there is to load: type, path, key."""
        return self.type, self.path, self.key

    def used_at(self, last_used_ms: int) -> "ModelRecord":
        return replace(self, last_used_ms=last_used_ms)

    # --- copies

    def claimed(self, instance_id: str, now_ms: int) -> "ModelRecord":
        """A copy is coming to this instance: somebody has asked for it."""
        return replace(
            self,
            kept_out=False,
            instance_ids={**self.instance_ids, instance_id: now_ms},
            loaded_in=_without(self.loaded_in, instance_id),
        )

    def loaded(self, instance_id: str, now_ms: int) -> "ModelRecord":
        """The copy is there; what failed there before is over. One that was loaded unclaimed was
        asked for all the same."""
        since_ms = self.instance_ids.get(instance_id, now_ms)
        return replace(
            self,
            kept_out=self.kept_out and instance_id in self.instance_ids,
            instance_ids={**self.instance_ids, instance_id: since_ms},
            loaded_in={**self.loaded_in, instance_id: now_ms},
            failed_in=_without(self.failed_in, instance_id),
            fails=_without(self.fails, instance_id),
        )

    def without_copy(self, instance_id: str) -> "ModelRecord":
        """This instance has no copy, and none is coming to it."""
        if instance_id not in self.instance_ids and instance_id not in self.loaded_in:
            return self
        return replace(
            self,
            instance_ids=_without(self.instance_ids, instance_id),
            loaded_in=_without(self.loaded_in, instance_id),
        )

    def failed(self, instance_id: str, now_ms: int, message: str) -> "ModelRecord":
        """The load there failed, for this reason."""
        gone = self.without_copy(instance_id)
        return replace(
            gone,
            failed_in={**self.failed_in, instance_id: now_ms},
            fails={**self.fails, instance_id: {"msg": message}},
        )

    def without_failure(self, instance_id: str) -> "ModelRecord":
        """What failed there is forgotten."""
        if instance_id not in self.failed_in and instance_id not in self.fails:
            return self
        return replace(
            self,
            failed_in=_without(self.failed_in, instance_id),
            fails=_without(self.fails, instance_id),
        )

    def failure_message(self, instance_id: str) -> str:
        """Why the load there failed ("" if it did not)."""
        fail = self.fails.get(instance_id)
        return str(fail.get("msg", "")) if fail else ""

    # --- JSON

    def to_json(self) -> bytes:
        """The value to store: compact JSON, defaults left out, unknown fields as they came."""
        return packed(self.unknown, known_fields(self, _MODEL_FIELDS))

    @classmethod
    def from_json(cls, value: bytes) -> "ModelRecord":
        """Read a record; raises ValueError if it is not a JSON object."""
        known, unknown = split_fields(value, _MODEL_FIELDS, "a model record")
        return cls(**{"type": "NLCLASSIFIER", **known}, unknown=unknown)
