"""Many daemons are one cache: what fits, where it goes, how many copies, how many loads."""

import pytest

from tests.app.client import answer_of, refusal_of
from tests.fleet.conftest import StartFleet
from tests.fleet.fleet import PATIENCE_S, comes_true
from tests.fleet.traffic import Traffic
from tests.registry.etcd_server import EtcdServer

pytestmark = pytest.mark.timeout(300)

ALL = ("a", "b", "c")


def test_300_models_where_100_fit(etcd: EtcdServer, start_fleet: StartFleet) -> None:
    models = [f"m{n:03}" for n in range(300)]
    fleet = start_fleet(etcd, *ALL, MM_CAPACITY_BYTES="34000000")
    fleet.dummies(*models, size_bytes=1_000_000, load_s=0.002)
    with Traffic(fleet.targets, models, most=4000, skew=0.8) as traffic:
        report = traffic.finish(240)
    report.assert_all_right(4000)
    evicted = [len(member.said("model unloads")) for member in fleet]
    assert sum(evicted) > 100
    assert all(evicted), f"not all had to evict: {evicted}"
    for member in fleet:
        gauges = member.client.metrics()
        used = gauges["modelmesh_instance_used_bytes"]
        assert 0 < used <= gauges["modelmesh_instance_capacity_bytes"]
    comes_true(fleet.settled)


def test_a_hot_model_is_everywhere(etcd: EtcdServer, start_fleet: StartFleet) -> None:
    fleet = start_fleet(etcd, *ALL)
    fleet.dummies("hot", size_bytes=1_000_000)
    with Traffic(fleet.targets, ["hot"], most=6000, rate=400) as traffic:
        report = traffic.finish(240)
    report.assert_all_right(6000)
    comes_true(lambda: fleet.holders("hot") == set(ALL))
    assert [member.loads("hot") for member in fleet] == [1, 1, 1]


def test_500_requests_at_once_are_one_load(etcd: EtcdServer, start_fleet: StartFleet) -> None:
    """But where the machine keeps a daemon still for half a second: then it is loaded elsewhere,
    and rightly, so that shows nothing and is done again."""
    fleet = start_fleet(etcd, *ALL)
    clients = [member.client for member in fleet]
    for model in ("cold-1", "cold-2", "cold-3"):
        silences = len(fleet.said("peer does not answer"))
        fleet.dummies(model, size_bytes=1_000_000, load_s=1.0)
        begun = [clients[n % 3].begin(model, timeout_s=PATIENCE_S) for n in range(500)]
        assert fleet.loads(model) == 0, "it was loaded before all had asked"
        assert {answer_of(each.result())["model"] for each in begun} == {model}
        if len(fleet.said("peer does not answer")) == silences:
            assert fleet.loads(model) == 1
            return
    pytest.fail("a daemon stood still each time")


def test_50_cold_models_are_spread(etcd: EtcdServer, start_fleet: StartFleet) -> None:
    models = [f"m{n:02}" for n in range(50)]
    fleet = start_fleet(etcd, *ALL)
    fleet.dummies(*models, size_bytes=1_000_000, load_s=0.2)
    clients = [member.client for member in fleet]
    begun = [clients[n % 3].begin(each, timeout_s=60) for n, each in enumerate(models)]
    assert [answer_of(each.result())["model"] for each in begun] == models
    loads = [member.loads() for member in fleet]
    assert sum(loads) == 50
    assert max(loads) <= 1.5 * 50 / 3, f"one took too many: {loads}"


def test_20000_models(etcd: EtcdServer, start_fleet: StartFleet) -> None:
    models = [f"m{n:05}" for n in range(20_000)]
    fleet = start_fleet(etcd, "a", "b", MM_CAPACITY_BYTES="200000000")
    fleet.dummies(*models, size_bytes=100_000)
    with Traffic(fleet.targets, models, rate=200, most=4000) as traffic:
        report = traffic.finish(240)
    report.assert_all_right(4000)
    assert all(member.loads() > 100 for member in fleet)
    assert len(fleet.models()) == 20_000


def test_what_one_daemon_registers_another_serves_at_once(
    etcd: EtcdServer, start_fleet: StartFleet
) -> None:
    fleet = start_fleet(etcd, *ALL)
    for n in range(30):
        writer, reader = fleet[ALL[n % 3]].client, fleet[ALL[(n + 1) % 3]].client
        writer.dummies(f"new-{n}")
        assert reader.infer(f"new-{n}")["model"] == f"new-{n}"
    assert fleet["a"].client.refused("never").code == "NOT_FOUND"
    fleet.store("registry/broken", b"no json")
    comes_true(lambda: "broken" in fleet["b"].client.models())
    assert fleet["b"].client.refused("broken").code == "DATA_LOSS"


def test_a_model_that_crashes_its_host_takes_one(etcd: EtcdServer, start_fleet: StartFleet) -> None:
    fleet = start_fleet(etcd, *ALL)
    good = [f"good-{n}" for n in range(12)]
    fleet.dummies(*good, size_bytes=1_000_000)
    fleet.dummies("bad", size_bytes=1_000_000, load_s=0.05, crash_on_load=True)
    with Traffic(fleet.targets, good, skew=0, rate=200) as traffic:
        traffic.more(200)
        for _ in range(4):
            asked = [member.client.begin("bad", timeout_s=60) for member in fleet]
            assert all(refusal_of(each).code != "DEADLINE_EXCEEDED" for each in asked)
        traffic.more(200)
    traffic.report.assert_all_right(400)
    lost = [line for member in fleet for line in member.said("a model cost its host")]
    assert {line["model"] for line in lost} == {"bad"}
    shared = [line for line in lost if line["shared"]]
    assert len(shared) == 1, "it took more than one host that others lived in, or none"
    for member in fleet:
        status = member.client.status("bad")
        assert any("host" in each for each in status.errors), status.errors
