"""Links that go bad: a daemon cut from the store, from a peer, one way, silently.

The links are those of the fault proxy; `test_networks` does the same to real network interfaces.
"""

import pytest

from tests.fleet.conftest import StartFleet
from tests.fleet.fleet import PATIENCE_S, Fleet, comes_true
from tests.fleet.known import sole_copy
from tests.fleet.proxy import BLACKHOLE, CUT, DEAF, ONE_WAY, Fault
from tests.fleet.traffic import Traffic
from tests.registry.etcd_server import EtcdServer

pytestmark = pytest.mark.timeout(900)

ALL = ("a", "b", "c")
MODELS = [f"m{n:02}" for n in range(18)]
LEASE_S = 6
FAULTS = {
    "cut": CUT,
    "silent": BLACKHOLE,
    "one way": ONE_WAY,
    "the other way": DEAF,
}


def spread(fleet: Fleet) -> None:
    fleet.dummies(*MODELS, size_bytes=1_000_000)
    fleet.dummies("cold-1", "cold-2", size_bytes=1_000_000, load_s=0.05)
    with Traffic(fleet.targets, MODELS, skew=0, most=150) as traffic:
        traffic.finish(PATIENCE_S).assert_all_right(150)
    comes_true(fleet.settled)


def converges(fleet: Fleet) -> None:
    comes_true(lambda: set(fleet.instances()) == set(ALL))
    comes_true(fleet.settled, 2 * PATIENCE_S)
    assert set(fleet.models()) >= {*MODELS, "cold-1", "cold-2"}


def all_doubt_b(fleet: Fleet) -> bool:
    return not any(fleet[name].is_sure(peer="b") for name in "ac")


def nobody_doubts_b(fleet: Fleet) -> bool:
    return all(fleet[name].is_sure(peer="b") for name in "ac")


@pytest.fixture
def fleet(etcd: EtcdServer, start_fleet: StartFleet) -> Fleet:
    fleet = start_fleet(etcd, *ALL, linked=True, MM_LEASE_SECS=str(LEASE_S))
    spread(fleet)
    return fleet


@pytest.mark.parametrize("how", list(FAULTS))
def test_from_the_store(how: str, fleet: Fleet) -> None:
    """It serves what it holds and loads what is asked of it; the others miss nothing."""
    link = fleet.etcd_links["a"]
    with Traffic(fleet.targets, MODELS, rate=150) as traffic:
        link.disturb(FAULTS[how])
        comes_true(lambda: fleet["a"].said("the registry's store does not answer"))
        comes_true(link.struck.total)
        comes_true(lambda: "a" not in fleet.instances())  # its lease is over
        for name in ALL:
            assert fleet[name].client.infer("cold-1", timeout_s=PATIENCE_S)["model"] == "cold-1"
        assert fleet["a"].client.refused_registration("new").code == "UNAVAILABLE"
        traffic.more(300)
        link.heal()
        converges(fleet)
    traffic.report.assert_all_right(300)
    assert not traffic.report.broken


@pytest.mark.parametrize("how", list(FAULTS))
def test_from_all_peers(how: str, fleet: Fleet) -> None:
    """The others ask elsewhere, and load what only it has; it goes on for its own callers."""
    sole = sole_copy(fleet, "b", MODELS)
    link = fleet.peer_links["b"]
    with Traffic(fleet.targets, MODELS, rate=150) as traffic:
        traffic.more(50)
        link.disturb(FAULTS[how])
        for name in "ac":
            assert fleet[name].client.infer(sole, timeout_s=PATIENCE_S)["model"] == sole
        comes_true(lambda: all_doubt_b(fleet))
        comes_true(link.struck.total)
        assert fleet["a"].loads(sole) + fleet["c"].loads(sole) >= 1
        traffic.more(300)
        link.heal()
        comes_true(lambda: nobody_doubts_b(fleet))
        converges(fleet)
    traffic.report.assert_all_right(350)


def test_from_one_peer(fleet: Fleet) -> None:
    """a does not reach b, c does: what a cannot have from b it loads, or asks c for."""
    link = fleet.peer_links["b"]
    sole = sole_copy(fleet, "b", MODELS)
    for name in "ac":
        assert fleet[name].client.infer(sole)["model"] == sole
    comes_true(lambda: set(link.sources) >= {"a", "c"})
    link.disturb(BLACKHOLE, source="a")
    with Traffic(fleet.targets, MODELS, rate=150) as traffic:
        assert fleet["a"].client.infer(sole, timeout_s=PATIENCE_S)["model"] == sole
        comes_true(lambda: link.struck["held"])
        comes_true(lambda: not fleet["a"].is_sure(peer="b") and fleet["c"].is_sure(peer="b"))
        traffic.more(300)
        link.heal()
        converges(fleet)
    traffic.report.assert_all_right(300)


def test_slow_and_thin(fleet: Fleet) -> None:
    """200 ms away and 1 Mbit wide: slow, and nothing else."""
    slow = Fault(delay_s=0.2, rate=125_000)
    for link in (*fleet.peer_links.values(), *fleet.etcd_links.values()):
        link.disturb(slow)
    with Traffic(fleet.targets, MODELS, rate=50) as traffic:
        for name in ALL:
            assert fleet[name].client.infer("cold-2", timeout_s=PATIENCE_S)["model"] == "cold-2"
        traffic.more(200)
    traffic.report.assert_all_right(200)
    assert all(link.struck["delayed"] for link in fleet.peer_links.values())


def test_connections_that_break_in_the_middle(fleet: Fleet) -> None:
    """What was on its way is asked again, elsewhere or anew: a prediction may be."""
    with Traffic(fleet.targets, MODELS, in_flight=16) as traffic:
        broken = 0
        for link in [*fleet.peer_links.values()] * 4:
            traffic.more(200)
            broken += link.reset()
            traffic.turn_over()  # a call is repeated once
        traffic.more(200)
    assert broken >= 10
    traffic.report.assert_all_right(2600)
