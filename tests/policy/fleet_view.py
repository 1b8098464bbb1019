"""A fleet as policies see it, made of plain values: the double of serving's view."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from modelmesh.domain.fleet import FROM_CALLER, Hops, Peer
from modelmesh.domain.instances import InstanceRecord, units_of
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Failure
from modelmesh.policy.constraints import Constraints
from modelmesh.policy.placement import Sent
from modelmesh.policy.routing import Weight

MIB = 1 << 20
NOW = 1000.0
NOW_MS = 1_700_000_000_000


def instance(**fields: Any) -> InstanceRecord:
    """An empty instance of 1,024 MiB with four slots."""
    defaults = {"start_ms": 1, "capacity_units": units_of(1024 * MIB), "load_slots": 4}
    return InstanceRecord(**{**defaults, **fields})


def peer(instance_id: str, *, suspect: bool = False, reachable: bool = True, **fields: Any) -> Peer:
    made = Peer(instance_id, instance(**fields))
    made.suspect, made.reachable = suspect, reachable
    return made


def fleet(count: int, **fields: Any) -> dict[str, Peer]:
    """`count` alike peers, i0 and on."""
    return {f"i{n}": peer(f"i{n}", **fields) for n in range(count)}


@dataclass
class View:
    """This instance is "me"; the one model is "m"."""

    peer_by_id: dict[str, Peer] = field(default_factory=dict)
    model: ModelRecord | None = field(default_factory=lambda: ModelRecord("t"))
    me: str = "me"
    my_record: InstanceRecord = field(default_factory=instance)
    fits: Constraints | None = None
    placing: dict[str, Sent] = field(default_factory=dict)
    typical_load_s: float = 1.0
    replaced_versions: Collection[int] = ()
    alone: bool = False
    store_answers: bool = True
    loaded: bool = False
    coming: bool = False
    load_here_s: float = 0.0
    failure: Failure | None = None
    broken: Failure | None = None  # why the record cannot be read
    weight: Weight = field(default_factory=lambda: Weight(MIB))

    @property
    def draining(self) -> bool:
        return self.my_record.draining

    def peers(self) -> Collection[Peer]:
        return self.peer_by_id.values()

    def peer(self, instance_id: str) -> Peer | None:
        return self.peer_by_id.get(instance_id)

    def is_registered(self, model_id: str) -> bool:
        return self.model is not None or self.broken is not None

    def is_loaded(self, model_id: str) -> bool:
        return self.loaded

    def is_coming(self, model_id: str) -> bool:
        return self.coming

    def remembered_failure(self, model_id: str, now: float) -> Failure | None:
        return self.failure

    def record(self, model_id: str) -> ModelRecord | None:
        return self.model if self.broken is None else None

    def unreadable(self, model_id: str) -> Failure | None:
        return self.broken

    def my_load_s(self, model_id: str) -> float:
        return self.load_here_s

    def weigh(self, model_id: str, record: ModelRecord) -> Weight:
        return self.weight

    def record_ms(self, now: float) -> float:
        return NOW_MS + (now - NOW) * 1000

    # --- what a test does to it

    def note_sent(self, instance_id: str, size_bytes: int = MIB) -> None:
        """As serving does when it sends a load somewhere."""
        before = self.placing.get(instance_id, Sent(0, 0))
        self.placing[instance_id] = Sent(before.loads + 1, before.size_bytes + size_bytes)

    def drain(self) -> None:
        self.my_record = replace(self.my_record, draining=True)


@dataclass(frozen=True)
class Request:
    model_id: str = "m"
    hops: Hops = FROM_CALLER
    tried: Collection[str] = ()
    balanced: bool = False
    attempt: int = 0
    asked_store: bool = False


def record(
    loaded: Mapping[str, int] | None = None, coming: Mapping[str, int] | None = None, **fields: Any
) -> ModelRecord:
    """A model with copies; ages in ms before NOW_MS."""
    loaded_in = {each: NOW_MS - age for each, age in (loaded or {}).items()}
    coming_in = {each: NOW_MS - age for each, age in (coming or {}).items()}
    return ModelRecord("t", instance_ids={**loaded_in, **coming_in}, loaded_in=loaded_in, **fields)
