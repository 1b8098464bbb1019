"""Fleets that are known well: models that are loaded or only registered, and what must hold."""

from collections.abc import Callable

from tests.fleet.fleet import PATIENCE_S, Fleet, comes_true
from tests.fleet.traffic import Traffic

ALL = ("a", "b", "c")
WARM = [f"warm-{n:02}" for n in range(20)]
LEASE_S = 6
MANY = [f"m{n:02}" for n in range(30)]


def warm(fleet: Fleet) -> None:
    """Models that are loaded, and some that are only known."""
    fleet.dummies(*WARM, size_bytes=1_000_000)
    fleet.dummies(*cold("x"), *cold("y"), size_bytes=1_000_000, load_s=0.05)
    with Traffic(fleet.targets, WARM, skew=0, most=100) as traffic:
        traffic.finish(PATIENCE_S).assert_all_right(100)
    comes_true(fleet.settled)
    comes_true(lambda: fleet.all_know(len(fleet.models())))


def cold(part: str) -> list[str]:
    return [f"cold-{part}-{n}" for n in range(6)]


def serve_cold(fleet: Fleet, part: str) -> int:
    """Each cold model answers, at whichever daemon it is asked for; how many were loaded for it
    (the leader loads ahead of demand once a minute, so not all need be)."""
    were_cold = 0
    for n, model_id in enumerate(cold(part)):
        were_cold += not fleet.loads(model_id)
        answer = fleet[ALL[n % 3]].client.infer(model_id, timeout_s=PATIENCE_S)
        assert answer["model"] == model_id
    return were_cold


def all_said(fleet: Fleet, event: str) -> Callable[[], bool]:
    return lambda: all(member.said(event) for member in fleet)


def converges(fleet: Fleet) -> None:
    """All are there, all is registered, and every record is true."""
    comes_true(lambda: set(fleet.instances()) >= {m.instance_id for m in fleet if m.runs})
    assert set(fleet.models()) >= {*WARM, *cold("x"), *cold("y")}
    comes_true(fleet.settled, 2 * PATIENCE_S)
    fleet.any.dummies("after")
    for member in fleet:
        assert member.client.infer("after")["model"] == "after"


def still_loaded(fleet: Fleet, before: int) -> None:
    """Nobody let go of anything."""
    assert not [line for member in fleet for line in member.said("model unloads")]
    assert fleet.loads() >= before


def spread(fleet: Fleet) -> None:
    """Registered, and each loaded somewhere, on every daemon some."""
    fleet.dummies(*MANY, size_bytes=1_000_000, load_s=0.01)
    with Traffic(fleet.targets, MANY, skew=0, most=300) as warm:
        warm.finish(PATIENCE_S).assert_all_right(300)
    comes_true(fleet.settled)
    assert all(member.loads() for member in fleet), "one daemon has nothing"
