"""Fleets that are known well: models that are loaded or only registered, and what must hold."""

from collections.abc import Callable, Sequence

from tests.fleet.fleet import PATIENCE_S, Fleet, comes_true
from tests.fleet.traffic import Traffic

ALL = ("a", "b", "c")
WARM = [f"warm-{n:02}" for n in range(20)]
LEASE_S = 6
MANY = [f"m{n:02}" for n in range(30)]


def warm(fleet: Fleet) -> None:
    """Models that are loaded, and some that are only known."""
    fleet.dummies(*cold("x"), *cold("y"), size_bytes=1_000_000, load_s=0.05)
    for model_id in (*cold("x"), *cold("y")):
        fleet.any.unload(model_id)  # else the leader may load it before anybody asks for it
    fleet.dummies(*WARM, size_bytes=1_000_000)
    with Traffic(fleet.targets, WARM, skew=0, most=100) as traffic:
        traffic.finish(PATIENCE_S).assert_all_right(100)
    comes_true(fleet.settled)


def cold(part: str) -> list[str]:
    return [f"cold-{part}-{n}" for n in range(6)]


def serve_cold(fleet: Fleet, part: str) -> int:
    """Each cold model answers, at whichever daemon it is asked for; how many were loaded for it."""
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
    fleet.dummies("after")
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
    for member in fleet:
        sole_copy(fleet, member.instance_id, MANY)


def sole_copy(fleet: Fleet, instance_id: str, models: Sequence[str]) -> str:
    """One of these models, or another one, that this daemon alone holds.

    It holds none of them where the machine kept it still while they were loaded; then more are
    loaded, until it has one.
    """
    names = iter(f"more-{instance_id}-{n}" for n in range(60))
    found = list(models)
    while True:
        comes_true(fleet.settled)
        for model_id in found:
            if fleet.holders(model_id) == {instance_id}:
                return model_id
        found = [next(names)]
        fleet.dummies(*found, size_bytes=1_000_000)
        fleet[instance_id].client.infer(found[0], metadata=[("mm-balanced", "true")])
