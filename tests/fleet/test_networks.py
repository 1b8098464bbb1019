"""Real network interfaces that go dead: nobody is told, no connection is refused."""

from collections.abc import Iterator

import pytest

from tests.fleet.conftest import StartFleet
from tests.fleet.fleet import PATIENCE_S, Fleet, comes_true
from tests.fleet.known import sole_copy
from tests.fleet.networks import Networks, networks, why_not
from tests.fleet.proxy import Proxy
from tests.fleet.traffic import Traffic
from tests.registry.etcd_server import EtcdServer

WHY_NOT = why_not()
pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
]

ALL = ("a", "b", "c")
MODELS = [f"m{n:02}" for n in range(18)]


@pytest.fixture
def net() -> Iterator[Networks]:
    with networks() as made:
        yield made


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Brings the daemons to etcd, which listens on this machine's loopback only."""
    made = Proxy()
    yield made
    made.close()


@pytest.fixture
def fleet(etcd: EtcdServer, start_fleet: StartFleet, proxy: Proxy, net: Networks) -> Fleet:
    where, _, port = etcd.address.partition(":")
    link = proxy.link((where, int(port)), net.here)
    fleet = start_fleet(etcd, KV_STORE="etcd:{}:{}".format(*link.address), MM_LEASE_SECS="6")
    for name in ALL:
        host, within = net.add(name)
        fleet.add(name, host, within).launch()
    for name in ALL:
        fleet[name].ready()
    comes_true(fleet.sees_itself)
    fleet.dummies(*MODELS, size_bytes=1_000_000)
    with Traffic(fleet.targets, MODELS, skew=0, most=150) as traffic:
        traffic.finish(PATIENCE_S).assert_all_right(150)
    comes_true(fleet.settled)
    return fleet


def test_unplugged(fleet: Fleet, net: Networks) -> None:
    sole = sole_copy(fleet, "b", MODELS)
    others = [fleet[name].target for name in "ac"]
    with Traffic(others, MODELS, rate=150) as traffic:
        traffic.more(50)
        net.unplug("b")
        assert fleet["a"].client.infer(sole, timeout_s=PATIENCE_S)["model"] == sole
        comes_true(lambda: fleet["a"].said("peer does not answer", peer="b"))
        comes_true(lambda: "b" not in fleet.instances())
        traffic.more(300)
        net.plug("b")
        comes_true(lambda: "b" in fleet.instances())
        comes_true(fleet.settled, 2 * PATIENCE_S)
        traffic.more(50)
    traffic.report.assert_all_right(400)
    assert fleet["b"].client.infer(sole)["model"] == sole


@pytest.mark.parametrize(("sender", "receiver"), [("a", "b"), ("b", "a")])
def test_one_way(sender: str, receiver: str, fleet: Fleet, net: Networks) -> None:
    """Of two daemons one does not hear the other: for both that is as good as silence."""
    sole = sole_copy(fleet, "b", MODELS)
    with Traffic(fleet.targets, MODELS, rate=150) as traffic:
        traffic.more(50)
        net.lose(sender, receiver)
        assert fleet["a"].client.infer(sole, timeout_s=PATIENCE_S)["model"] == sole
        comes_true(lambda: not fleet["a"].is_sure(peer="b") and fleet["c"].is_sure())
        traffic.more(300)
        net.find(sender, receiver)
        comes_true(lambda: fleet["a"].is_sure(peer="b"))
        comes_true(fleet.settled, 2 * PATIENCE_S)
    traffic.report.assert_all_right(350)
