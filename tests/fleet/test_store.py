"""A fleet whose store forgets, is compacted, loses its leader or goes back in time."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.conftest import VERSION, StartFleet
from tests.fleet.fleet import comes_true
from tests.fleet.known import ALL, LEASE_S, WARM, cold, converges, serve_cold, still_loaded, warm
from tests.fleet.proxy import CUT
from tests.fleet.traffic import Traffic
from tests.registry.etcd_server import PROGRAMS, EtcdServer, cluster

pytestmark = pytest.mark.timeout(900)


def test_lease_revoked(own_etcd: EtcdServer, start_fleet: StartFleet) -> None:
    fleet = start_fleet(own_etcd, *ALL, MM_LEASE_SECS=str(LEASE_S))
    warm(fleet)
    loads, epochs = fleet.loads(), {k: v.epoch for k, v in fleet.instances().items()}
    with Traffic(fleet.targets, WARM, rate=100) as traffic:
        traffic.more(50)
        leases = fleet.leases()
        assert len(leases) == 3
        for lease in leases:
            own_etcd.ask("lease/revoke", {"ID": lease})
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
        own_etcd.compact(revision_of(own_etcd))
        fleet.etcd_links["a"].heal()
        struck = fleet.etcd_links["a"].struck
        assert struck["reset"] + struck["refused"], "it was not cut"
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
        newest = revision_of(own_etcd)
        own_etcd.kill()
        shutil.rmtree(own_etcd.place.folder)
        shutil.copytree(older, own_etcd.place.folder)
        own_etcd.start()
        assert revision_of(own_etcd) < newest, "it is not the older one"
        comes_true(lambda: any(m.said("the registry's store was restored") for m in fleet))
        assert serve_cold(fleet, "x"), "none was cold"
        comes_true(lambda: set(cold("y")) <= set(fleet.models()))
        serve_cold(fleet, "y")
        converges(fleet)
    traffic.report.assert_all_right(100)
    still_loaded(fleet, loads + 12)


def revision_of(etcd: EtcdServer) -> int:
    return int(etcd.ask("kv/range", {"key": "AA=="})["header"]["revision"])


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
    leader = leader_comes(three)
    fleet.etcd = next(server for server in three if server is not leader)
    with Traffic(fleet.targets, WARM, rate=100) as traffic:
        traffic.more(50)
        leader.kill()
        leader_comes([server for server in three if server is not leader])
        assert serve_cold(fleet, "x"), "none was cold"
        converges(fleet)
        leader.start()
        serve_cold(fleet, "y")
        traffic.more(50)
    traffic.report.assert_all_right(100)


def leader_comes(servers: list[EtcdServer]) -> EtcdServer:
    """Wait for one of these to lead."""
    found: list[EtcdServer] = []

    def look() -> bool:
        found.extend(leader_of(servers))
        return bool(found)

    comes_true(look)
    return found[0]


def leader_of(servers: list[EtcdServer]) -> Iterator[EtcdServer]:
    """The one that leads, if one of these does."""
    for server in servers:
        status = server.ask("maintenance/status", {})
        if status.get("leader") == status["header"]["member_id"]:
            yield server
