"""Nouns of a fleet: peers as they are seen from here, and what a forwarded call says of itself.

A `Peer` is one other instance: what it published, and what this daemon has seen of it. It is made
once and kept up to date in place, because a warm request looks at it and must not build anything;
only the peers room writes to it. Policies read.

Pure: no clock, no I/O.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from modelmesh.domain.instances import InstanceRecord


class Intent(StrEnum):
    """What the daemon that receives a call may do with it."""

    ANY = ""  # straight from a caller: serve it, load it, or forward it (once)
    HIT = "hit"  # serve the copy you hold (or that is coming to you), or refuse
    LOAD = "load"  # load it yourself and serve it, or refuse


@dataclass(frozen=True, slots=True)
class Hops:
    """What a call has behind it. `tried`: instances that were asked already, in order."""

    intent: Intent = Intent.ANY
    sender: str = ""
    tried: tuple[str, ...] = ()


FROM_CALLER = Hops()


class Peer:
    """One other instance, as seen from here.

    `reachable` is False after a refused connection until it answers again; `suspect` is True while
    it leaves health questions unanswered. `queue_depth` (calls it holds) and `latency_s` (a
    running mean of warm answers) are what its replies reported last; `in_flight` are this daemon's
    own calls to it that have no answer yet.
    """

    __slots__ = (
        "in_flight", "instance_id", "latency_s", "queue_depth", "reachable", "record", "suspect",
    )  # fmt: skip

    def __init__(self, instance_id: str, record: InstanceRecord) -> None:
        self.instance_id = instance_id
        self.record = record
        self.reachable = True
        self.suspect = False
        self.in_flight = 0
        self.queue_depth = 0
        self.latency_s = 0.0

    @property
    def answers(self) -> bool:
        """Whether new calls may go there."""
        return self.reachable and not self.suspect

    def __repr__(self) -> str:
        return f"<Peer {self.instance_id} {self.record.address}>"


def rendezvous(model_id: str, instance_ids: Collection[str]) -> list[str]:
    """Instances in the order of their claim to a model when nobody can be asked: the same
    everywhere, and another for every model (highest random weight)."""

    def weight(instance_id: str) -> tuple[int, str]:
        return _fnv64(f"{model_id}\0{instance_id}".encode()), instance_id

    return sorted(instance_ids, key=weight, reverse=True)


def _fnv64(text: bytes) -> int:
    """FNV-1a with a final mix: stable over processes and versions, unlike `hash`."""
    value = 0xCBF29CE484222325
    for byte in text:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    value ^= value >> 33
    value = (value * 0xFF51AFD7ED558CCD) & 0xFFFFFFFFFFFFFFFF
    return value ^ (value >> 33)
