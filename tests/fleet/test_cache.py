"""Many daemons are one cache: what fits, where it goes, how many copies, how many loads.

Where the machine keeps a daemon or etcd still for half a second or more, a model is loaded at a
second place too, and rightly: what is then counted shows nothing, and is done again.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.app.client import answer_of, patiently, refusal_of
from tests.app.runtimes import closed
from tests.fleet.conftest import StartFleet
from tests.fleet.fleet import PATIENCE_S, Fleet, Member, comes_true
from tests.fleet.traffic import Traffic
from tests.registry.etcd_server import EtcdServer

pytestmark = pytest.mark.timeout(900)

ALL = ("a", "b", "c")


def undoubted(fleet: Fleet, attempts: int = 8) -> Iterator[int]:
    """Attempts, each begun while everybody sees everybody, until one has ended so."""
    for attempt in range(attempts):
        comes_true(fleet.is_sure)
        doubts = fleet.doubts()
        yield attempt
        if fleet.doubts() == doubts:
            return
    pytest.fail("a daemon, or etcd, stood still each time")


def test_300_models_where_100_fit(etcd: EtcdServer, start_fleet: StartFleet) -> None:
    models = [f"m{n:03}" for n in range(300)]
    fleet = start_fleet(etcd, *ALL, MM_CAPACITY_BYTES="34000000")
    fleet.dummies(*models, size_bytes=1_000_000, load_s=0.002)
    with Traffic(fleet.targets, models, most=4000, skew=0.8) as traffic:
        report = traffic.finish(PATIENCE_S)
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
    with Traffic(fleet.targets, ["hot"], rate=400) as traffic:
        comes_true(lambda: fleet.holders("hot") == set(ALL), 4 * PATIENCE_S)
        traffic.more(max(6000 - traffic.report.right, 1000))
    traffic.report.assert_all_right(6000)
    comes_true(fleet.settled)
    assert [member.loads("hot") for member in fleet] == [1, 1, 1]


def test_500_requests_at_once_are_one_load(
    etcd: EtcdServer, start_fleet: StartFleet, tmp_path: Path
) -> None:
    """Fewer where a busy machine keeps a daemon that has so many from answering its peers."""
    fleet = start_fleet(etcd, *ALL, MM_RUNTIMES="tests.app.runtimes:Gated")
    clients = [member.client for member in fleet]
    gate = tmp_path / "gate"
    for attempt in undoubted(fleet):
        model = f"cold-{attempt}"
        with closed(gate):
            fleet.register([model], "gated", str(gate))
            begun: list[Any] = []
            while len(begun) < (500, 500, 500, 250, 100, 50, 25, 10)[attempt]:
                begun += [each.begin(model, timeout_s=4 * PATIENCE_S) for each in clients * 8]
                for client in clients:  # behind the others: when it is answered, they are there
                    client.status(model)
            assert not any(each.done() for each in begun)
        assert {answer_of(each.result())["model"] for each in begun} == {model}
        loads = fleet.loads(model)
    assert loads == 1


def test_50_cold_models_are_spread(etcd: EtcdServer, start_fleet: StartFleet) -> None:
    fleet = start_fleet(etcd, *ALL)
    clients = [member.client for member in fleet]
    for attempt in undoubted(fleet):
        models = [f"m{attempt}-{n:02}" for n in range(50)]
        before = [member.loads() for member in fleet]
        fleet.dummies(*models, size_bytes=1_000_000, load_s=0.2)
        begun = [clients[n % 3].begin(each, timeout_s=PATIENCE_S) for n, each in enumerate(models)]
        assert [answer_of(each.result())["model"] for each in begun] == models
        loads = [member.loads() - old for member, old in zip(fleet, before, strict=True)]
    assert sum(loads) == 50
    assert max(loads) <= 1.5 * 50 / 3, f"one took too many: {loads}"


def test_20000_models(etcd: EtcdServer, start_fleet: StartFleet) -> None:
    models = [f"m{n:05}" for n in range(20_000)]
    fleet = start_fleet(etcd, "a", "b", MM_CAPACITY_BYTES="200000000")
    fleet.dummies(*models, size_bytes=100_000)
    with Traffic(fleet.targets, models, rate=200, most=4000) as traffic:
        report = traffic.finish(PATIENCE_S)
    report.assert_all_right(4000)
    assert all(member.loads() > 100 for member in fleet)
    assert len(fleet.models()) == 20_000


def test_what_one_daemon_registers_another_serves_at_once(
    etcd: EtcdServer, start_fleet: StartFleet
) -> None:
    fleet = start_fleet(etcd, *ALL)
    for n in range(30):
        writer, reader = fleet[ALL[n % 3]].client, fleet[ALL[(n + 1) % 3]].client
        name = f"new-{n}"
        writer.dummies(name)
        assert patiently(partial(reader.infer, name))["model"] == name
    for attempt in undoubted(fleet):
        refused = fleet["a"].client.refused(f"never-{attempt}").code
    assert refused == "NOT_FOUND"
    fleet.store("registry/broken", b"no json")
    comes_true(lambda: "broken" in fleet["b"].client.models())
    assert fleet["b"].client.refused("broken").code == "DATA_LOSS"


def test_a_model_that_crashes_its_host_takes_one(etcd: EtcdServer, start_fleet: StartFleet) -> None:
    fleet = start_fleet(etcd, *ALL)
    good = [f"good-{n}" for n in range(12)]
    fleet.dummies(*good, size_bytes=1_000_000)
    with Traffic(fleet.targets, good, skew=0, rate=200) as traffic:
        traffic.more(200)
        for attempt in undoubted(fleet):
            bad = f"bad-{attempt}"
            fleet.dummies(bad, size_bytes=1_000_000, load_s=0.05, crash_on_load=True)
            for _ in range(4):
                asked = [m.client.begin(bad, timeout_s=2 * PATIENCE_S) for m in fleet]
                assert all(refusal_of(each).code != "DEADLINE_EXCEEDED" for each in asked)
            lost = [line for line in fleet.said("a model cost its host") if line["model"] == bad]
        traffic.more(200)
    traffic.report.assert_all_right(400)
    blamed = {str(line["model"]) for line in fleet.said("a model cost its host")}
    assert all(model.startswith("bad-") for model in blamed)
    shared = [line for line in lost if line["shared"]]
    assert len(shared) == 1, "it took more than one host that others lived in, or none"
    for member in fleet:
        comes_true(partial(blames_a_host, member, bad))


def blames_a_host(member: Member, model_id: str) -> bool:
    """Whether its status of the model tells of a host; others are told by the registry."""
    return any("host" in each for each in member.client.status(model_id).errors)
