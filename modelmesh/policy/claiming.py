"""Who may load a cold model: at most one daemon, though many are asked for it at once.

A claim stands in the model's record ("a copy is coming to daemon i since t"). It binds while its
daemon exists, answers, and could still be loading; a claim that does not bind is taken over. This
module says which claim binds; the registry writes it with compare-and-set.

Pure: no clock, no I/O. A daemon's own old claim never stands in its own way.
"""

from collections.abc import Callable
from dataclasses import dataclass

from modelmesh.domain.records import ModelRecord


@dataclass(frozen=True, slots=True)
class Claiming:
    """What a claim is judged by.

    `exists`: whether an instance counts (it is registered, answers, and is not being left).
    `coming_bound_ms`: a copy that has been coming for longer than this will not come any more.
    """

    me: str
    now_ms: int
    exists: Callable[[str], bool]
    coming_bound_ms: int


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody else has the model, or is getting it."""

    instance_id: str
    loaded: bool


def contender(record: ModelRecord, claiming: Claiming, *, further: bool) -> Contender | None:
    """Whose copy or claim forbids one more claim; None if the claim is free.

    A first copy yields to any copy. A further one (somebody decided that there should be more)
    yields only to a copy that is still coming: one at a time keeps two deciders from overshooting.
    """
    coming: Contender | None = None
    for instance_id, since_ms in sorted(record.instance_ids.items(), key=lambda item: item[1]):
        if instance_id == claiming.me or not claiming.exists(instance_id):
            continue
        if instance_id in record.loaded_in:
            if not further:
                return Contender(instance_id, loaded=True)
        elif coming is None and claiming.now_ms - since_ms < claiming.coming_bound_ms:
            coming = Contender(instance_id, loaded=False)
    return coming
