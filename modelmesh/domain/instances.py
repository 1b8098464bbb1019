"""The record that a daemon publishes of itself: ModelMesh's JSON field names and ours beside them.

It lies under a lease: it is there as long as its daemon keeps it alive, which says who exists, and
nothing about who answers. Memory is written in ModelMesh's units of 8 KiB and read as bytes.
Unknown fields are kept. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelmesh.domain.records import known_fields, packed, split_fields

UNIT_BYTES = 8192
PROTOCOL = 1  # the version of what daemons say to each other

_FIELDS = {
    "startTime": "start_ms",
    "vers": "version",
    "loc": "location",
    "zone": "zone",
    "labels": "labels",
    "lruTime": "lru_ms",
    "count": "model_count",
    "cap": "capacity_units",
    "used": "used_units",
    "lThreads": "load_slots",
    "lInProg": "loading",
    "rpm": "rate_rpm",
    "shutdown": "draining",
    # Ours: ModelMesh keeps what it does not know.
    "addr": "address",
    "epoch": "epoch",
    "worth": "victim_worth",
    "protocol": "protocol",
}


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """One daemon as it describes itself.

    `address`: host:port of its peer port. `epoch` grows with every joining under this id.
    `victim_worth`: seconds of loading saved per second and byte by what it would evict next
    (0: it has room, or nothing to evict). `lru_ms`: last use of its longest unused model (0: it
    has none). `protocol`: version of what daemons say to each other.
    """

    start_ms: int
    version: int = 0
    location: str = ""
    zone: str = ""
    labels: tuple[str, ...] = ()
    lru_ms: int = 0
    model_count: int = 0
    capacity_units: int = 0
    used_units: int = 0
    load_slots: int = 0
    loading: int = 0
    rate_rpm: int = 0
    draining: bool = False
    address: str = ""
    epoch: int = 0
    victim_worth: float = 0.0
    protocol: int = PROTOCOL
    unknown: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def capacity_bytes(self) -> int:
        return self.capacity_units * UNIT_BYTES

    @property
    def used_bytes(self) -> int:
        return self.used_units * UNIT_BYTES

    @property
    def free_bytes(self) -> int:
        return max(self.capacity_units - self.used_units, 0) * UNIT_BYTES

    def to_json(self) -> bytes:
        """The value to store."""
        known = known_fields(self, _FIELDS)
        if self.labels:
            known["labels"] = list(self.labels)
        return packed(self.unknown, known)

    @classmethod
    def from_json(cls, value: bytes) -> "InstanceRecord":
        """Read a record; raises ValueError if it is not a JSON object."""
        known, unknown = split_fields(value, _FIELDS, "an instance record")
        known["labels"] = tuple(known.get("labels", ()))
        return cls(**{"start_ms": 0, **known}, unknown=unknown)


def units_of(size_bytes: int) -> int:
    """Bytes in ModelMesh's units, rounded up."""
    return -(-size_bytes // UNIT_BYTES)
