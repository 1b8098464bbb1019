"""How copies stand in a fleet, as decisions about vmodels see it."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from modelmesh.domain.fleet import Peer
from modelmesh.domain.instances import InstanceRecord
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.policy.routing import RoutingLimits
from modelmesh.policy.transition import Standing
from modelmesh.serving.standing import InFleet, is_final

NOW_MS = 1_800_000_000_000
LIMITS = RoutingLimits(load_timeout_s=90, failure_expiry_s=900, max_load_failures=3)
HERE = InstanceRecord(1, labels=("gpu",))


class Fits:
    def rank(self, model_type: str, labels: Collection[str]) -> int | None:
        return 0 if model_type != "large" or "gpu" in labels else None


@dataclass
class View:
    """This instance `me`, and peers that answer, are silent, or leave."""

    my_record: InstanceRecord = HERE
    fits: Fits | None = field(default_factory=Fits)
    me: str = "me"

    def peers(self) -> list[Peer]:
        peers = [
            Peer("a", InstanceRecord(1)), Peer("b", InstanceRecord(1)),
            Peer("silent", InstanceRecord(1)), Peer("leaving", InstanceRecord(1, draining=True)),
        ]  # fmt: skip
        peers[2].suspect = True
        return peers

    def record_ms(self, now: float) -> float:
        return NOW_MS


def stand(record: ModelRecord, view: View | None = None) -> Standing:
    fleet: Any = cast(Any, InFleet)(view or View(), None, None, lambda: 0.0, LIMITS)
    standing: Standing = fleet.stand("m", record)
    return standing


def copies(loaded: str = "", coming: str = "", ago_s: int = 10) -> dict[str, Any]:
    at_ms = NOW_MS - ago_s * 1000
    there = dict.fromkeys(loaded.split(), at_ms)
    return {"loaded_in": there, "instance_ids": there | dict.fromkeys(coming.split(), at_ms)}


def failed(*instance_ids: str, ago_s: int = 10) -> dict[str, Any]:
    return {
        "failed_in": {e: NOW_MS - ago_s * 1000 + n for n, e in enumerate(instance_ids)},
        "fails": {e: {"msg": f"why {e}"} for e in instance_ids},
    }


@pytest.mark.parametrize(
    ("fields", "standing"),
    [
        ({}, Standing(possible=3)),
        (copies("a me"), Standing(loaded=2, possible=3, loaded_s=10)),
        (copies("a", "b silent"), Standing(loaded=1, coming=1, possible=3, loaded_s=10)),
        (copies("silent leaving gone"), Standing(possible=3)),
        (failed("a"), Standing(possible=2)),
        (failed("a", "gone", "silent"), Standing(possible=2, failure="why silent")),
        (failed("a", "b", "me"), Standing(possible=0, failure="why me")),
        (failed("a", "b", "me", ago_s=901), Standing(possible=3)),
        ({"type": "large"}, Standing(possible=1)),
        ({"type": "large", **failed("me")}, Standing(possible=0, failure="why me")),
        (
            {**copies("a"), **failed("b", "me")},
            Standing(loaded=1, possible=1, loaded_s=10),
        ),
    ],
)
def test_only_copies_count_that_answer(fields: dict[str, Any], standing: Standing) -> None:
    assert stand(replace(ModelRecord("t"), **fields)) == standing


def test_a_daemon_that_leaves_counts_itself_out() -> None:
    view = View(my_record=replace(HERE, draining=True), fits=None)
    standing = stand(ModelRecord("t", **copies("me a")), view)
    assert standing == Standing(loaded=1, possible=2, loaded_s=10)


@pytest.mark.parametrize(
    ("failure", "final"),
    [
        (Failure(Code.FAILED_PRECONDITION, "", Fault.MODEL, Reason.LOAD_FAILED), True),
        (Failure(Code.UNAVAILABLE, "", Fault.MODEL, Reason.LOAD_FAILED, 1.0), True),
        (Failure(Code.UNAVAILABLE, "", Fault.CAPACITY, Reason.NO_SPACE, 5.0), False),
        (Failure(Code.UNAVAILABLE, "", Fault.STORE, retry_after_s=1.0), False),
        (Failure(Code.NOT_FOUND, ""), True),
    ],
)
def test_whose_fault_it_is(failure: Failure, final: bool) -> None:
    assert is_final(failure) is final
