"""Daemons that die, leave, stall and come back under load: their callers notice nothing."""

import signal

import pytest

from tests.fleet.conftest import StartFleet
from tests.fleet.fleet import PATIENCE_S, Fleet, comes_true
from tests.fleet.known import MANY, sole_copy, spread
from tests.fleet.traffic import Traffic
from tests.registry.etcd_server import EtcdServer

pytestmark = pytest.mark.timeout(900)

IN_FLIGHT = 8


def test_kill(etcd: EtcdServer, start_fleet: StartFleet) -> None:
    fleet = start_fleet(etcd, "a", "b", "c", MM_LEASE_SECS="10")
    spread(fleet)
    sole = sole_copy(fleet, "b", MANY)
    with Traffic(fleet.targets, MANY, in_flight=IN_FLIGHT, rate=300) as traffic:
        traffic.more(500)
        fleet["b"].kill()
        killed_at = traffic.report.right
        fleet["a"].client.infer(sole)  # a sole copy is back
        comes_true(lambda: fleet.holders(sole) - {"b"})  # and its record says so
        traffic.more(1500)
        comes_true(lambda: "b" not in fleet.instances())
        comes_true(fleet.settled)
        fleet["b"].restart()
        traffic.more(500)
    report = traffic.report
    report.assert_all_right(killed_at + 2000)
    assert report.refused[fleet["b"].target], "nobody noticed that it was gone"
    # Only what stood at the door of the one that was killed is lost, and asked again.
    assert set(report.broken) <= {fleet["b"].target}
    assert report.broken.total() <= IN_FLIGHT


def test_pause(etcd: EtcdServer, start_fleet: StartFleet) -> None:
    fleet = start_fleet(etcd, "a", "b", "c", MM_LEASE_SECS="10")
    spread(fleet)
    sole = sole_copy(fleet, "b", MANY)
    others = [fleet[name].target for name in "ac"]
    with Traffic(others, MANY, in_flight=IN_FLIGHT, rate=300) as traffic:
        traffic.more(500)
        fleet["b"].pause()
        waiting = fleet["b"].client.begin(sole, timeout_s=10 * PATIENCE_S)
        fleet["a"].client.infer(sole)
        traffic.more(1500)
        comes_true(lambda: "b" not in fleet.instances())  # its lease is over, too
        fleet["b"].resume()
        assert waiting.result(), "the daemon that slept answers who waited for it"
        comes_true(lambda: "b" in fleet.instances())
        traffic.more(500)
    traffic.report.assert_all_right(2500)
    assert not traffic.report.broken
    comes_true(fleet.settled)
    fleet["b"].client.infer(sole)


def test_killed_while_it_hands_over(etcd: EtcdServer, start_fleet: StartFleet) -> None:
    """Half of its copies are elsewhere, its record says that it leaves, and then it is gone."""
    fleet = start_fleet(etcd, "a", "b", "c", MM_LEASE_SECS="10")
    spread(fleet)
    with Traffic(fleet.targets, MANY, in_flight=IN_FLIGHT, rate=300) as traffic:
        traffic.more(100)
        kill_while_it_leaves(fleet, "b")
        traffic.more(500)
        fleet["b"].launch()
        fleet["b"].process.signal(signal.SIGTERM)  # before it has begun to be anything
        assert fleet["b"].process.wait(2 * PATIENCE_S) in (0, -signal.SIGTERM)
        fleet["b"].restart()
        assert not fleet.instances()["b"].draining
        traffic.more(500)
        comes_true(fleet.settled)
    report = traffic.report
    report.assert_all_right(1100)
    assert set(report.broken) <= {fleet["b"].target}


def kill_while_it_leaves(fleet: Fleet, instance_id: str) -> None:
    """By -9, once its record says that it leaves; again where it had left before that was seen."""
    member = fleet[instance_id]
    for _ in range(5):
        member.process.signal(signal.SIGTERM)
        comes_true(lambda: leaves(fleet, instance_id))
        member.process.signal(signal.SIGKILL)
        status = member.process.wait()
        member.client.close()
        if status == -signal.SIGKILL:
            return
        member.restart()
    pytest.fail("it had left each time")


def leaves(fleet: Fleet, instance_id: str) -> bool:
    record = fleet.instances().get(instance_id)
    return record is None or record.draining
