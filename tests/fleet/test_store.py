"""A fleet whose store dies, hangs, forgets or goes back in time: nothing is lost.

Inference goes on, cold loads of known models included; management says UNAVAILABLE; and when the
store is back, records and daemons agree again.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.conftest import VERSION, StartFleet
from tests.fleet.fleet import PATIENCE_S, Fleet, comes_true
from tests.fleet.proxy import CUT
from tests.fleet.traffic import Traffic
from tests.registry.etcd_server import PROGRAMS, EtcdServer, cluster

pytestmark = pytest.mark.timeout(300)

ALL = ("a", "b", "c")
WARM = [f"warm-{n:02}" for n in range(20)]
LEASE_S = 6
# Longer than the lease; the full time is for `make test-fleet`.
OUTAGES = [10, pytest.param(60, marks=pytest.mark.slow)]


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


def serve_cold(fleet: Fleet, part: str) -> None:
    """Each cold model is loaded and answers, at whichever daemon it is asked for."""
    for n, model_id in enumerate(cold(part)):
        assert fleet.loads(model_id) == 0
        answer = fleet[ALL[n % 3]].client.infer(model_id, timeout_s=PATIENCE_S)
        assert answer["model"] == model_id


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


@pytest.mark.parametrize("outage_s", OUTAGES)
def test_killed(outage_s: int, own_etcd: EtcdServer, start_fleet: StartFleet) -> None:
    fleet = start_fleet(own_etcd, *ALL, MM_LEASE_SECS=str(LEASE_S))
    warm(fleet)
    loads = fleet.loads()
    with Traffic(fleet.targets, WARM, rate=100) as traffic:
        own_etcd.kill()
        comes_true(all_said(fleet, "the registry's store does not answer"))
        serve_cold(fleet, "x")
        assert fleet.any.mesh is not None
        with pytest.raises(Exception, match="UNAVAILABLE"):
            fleet.any.dummies("new")
        traffic.more(100 * outage_s)
        own_etcd.start()
        comes_true(all_said(fleet, "the registry's store answers again"))
        serve_cold(fleet, "y")
        converges(fleet)
    traffic.report.assert_all_right(100 * outage_s)
    assert not traffic.report.broken
    still_loaded(fleet, loads + 12)


def test_paused_past_the_lease(own_etcd: EtcdServer, start_fleet: StartFleet) -> None:
    fleet = start_fleet(own_etcd, *ALL, MM_LEASE_SECS=str(LEASE_S))
    warm(fleet)
    loads, epochs = fleet.loads(), {k: v.epoch for k, v in fleet.instances().items()}
    with Traffic(fleet.targets, WARM, rate=100) as traffic:
        own_etcd.pause()
        comes_true(all_said(fleet, "the registry's store does not answer"))
        serve_cold(fleet, "x")
        traffic.more(100 * LEASE_S * 2)
        own_etcd.resume()
        comes_true(lambda: {k: v.epoch for k, v in fleet.instances().items()}.keys() == set(ALL))
        comes_true(
            lambda: any(v.epoch > epochs[k] for k, v in fleet.instances().items())
        )  # the leases had expired: that was the fault
        serve_cold(fleet, "y")
        converges(fleet)
    traffic.report.assert_all_right(100 * LEASE_S * 2)
    still_loaded(fleet, loads + 12)


def test_lease_revoked(own_etcd: EtcdServer, start_fleet: StartFleet) -> None:
    fleet = start_fleet(own_etcd, *ALL, MM_LEASE_SECS=str(LEASE_S))
    warm(fleet)
    loads, epochs = fleet.loads(), {k: v.epoch for k, v in fleet.instances().items()}
    with Traffic(fleet.targets, WARM, rate=100) as traffic:
        traffic.more(50)
        leases = own_etcd.ask("lease/leases", {})["leases"]
        assert len(leases) == 3
        for lease in leases:
            own_etcd.ask("lease/revoke", {"ID": lease["ID"]})
        comes_true(
            lambda: (
                (now := fleet.instances()).keys() == set(ALL)
                and all(now[k].epoch > epochs[k] for k in ALL)
            )
        )
        traffic.more(100)
        converges(fleet)
    traffic.report.assert_all_right(150)
    still_loaded(fleet, loads)


def test_compacted_while_watches_were_cut(own_etcd: EtcdServer, start_fleet: StartFleet) -> None:
    fleet = start_fleet(own_etcd, *ALL, linked=True)
    warm(fleet)
    fleet["c"].client.dummies("leaving")
    with Traffic(fleet.targets, WARM, rate=100) as traffic:
        fleet.etcd_links["a"].disturb(CUT)
        comes_true(lambda: fleet["a"].said("the registry's store does not answer"))
        fleet["b"].client.dummies(*(f"missed-{n}" for n in range(20)), size_bytes=1_000_000)
        fleet["b"].client.unregister("leaving")
        revision = int(own_etcd.ask("kv/range", {"key": "AA=="})["header"]["revision"])
        own_etcd.compact(revision)
        fleet.etcd_links["a"].heal()
        assert fleet.etcd_links["a"].struck["reset"], "it was not cut"
        comes_true(lambda: "missed-19" in fleet["a"].client.models())
        comes_true(lambda: "leaving" not in fleet["a"].client.models())
        assert fleet["a"].client.infer("missed-7")["model"] == "missed-7"
        converges(fleet)
    traffic.report.assert_all_right(100)


def test_restored_from_an_older_snapshot(
    own_etcd: EtcdServer, start_fleet: StartFleet, tmp_path: Path
) -> None:
    fleet = start_fleet(own_etcd, *ALL, MM_LEASE_SECS=str(LEASE_S))
    fleet.dummies(*WARM, size_bytes=1_000_000)
    own_etcd.stop()
    older = tmp_path / "older"
    shutil.copytree(own_etcd.place.folder, older)
    own_etcd.start()
    warm(fleet)
    loads = fleet.loads()
    with Traffic(fleet.targets, WARM, rate=100) as traffic:
        own_etcd.kill()
        shutil.rmtree(own_etcd.place.folder)
        shutil.copytree(older, own_etcd.place.folder)
        own_etcd.start()
        assert not set(cold("x")) & set(fleet.models()), "it is not the older one"
        comes_true(lambda: any(m.said("the registry's store was restored") for m in fleet))
        serve_cold(fleet, "x")
        comes_true(lambda: set(cold("y")) <= set(fleet.models()))
        serve_cold(fleet, "y")
        converges(fleet)
    traffic.report.assert_all_right(100)
    still_loaded(fleet, loads + 12)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[EtcdServer]]:
    servers = cluster(PROGRAMS[VERSION], tmp_path / "cluster", 3)
    yield servers
    for server in servers:
        server.stop()


def test_leader_killed(three: list[EtcdServer], start_fleet: StartFleet) -> None:
    everywhere = ",".join(server.address for server in three)
    fleet = start_fleet(three[0], KV_STORE=f"etcd:{everywhere}")
    fleet.start(*ALL)
    warm(fleet)
    leader = leader_of(three)
    fleet.etcd = next(server for server in three if server is not leader)
    with Traffic(fleet.targets, WARM, rate=100) as traffic:
        traffic.more(50)
        leader.kill()
        comes_true(lambda: leader_of([s for s in three if s is not leader]) is not None)
        serve_cold(fleet, "x")
        converges(fleet)
        leader.start()
        serve_cold(fleet, "y")
        traffic.more(50)
    traffic.report.assert_all_right(100)


def leader_of(servers: list[EtcdServer]) -> Any:
    """The one that leads, if one of these does."""
    for server in servers:
        status = server.ask("maintenance/status", {})
        if status.get("leader") == status["header"]["member_id"]:
            return server
    return None
