"""Who is who: two daemons of one name, and daemons of several versions in one fleet.

A daemon that does not answer within a second may be replaced. One that the machine keeps still for
so long is, rightly; then the attempt shows nothing, and another fleet is asked.
"""

from functools import partial

import grpc
import pytest

from modelmesh.pb import admin_pb2
from tests.fleet.conftest import StartFleet
from tests.fleet.fleet import PATIENCE_S, Fleet, Member, comes_true
from tests.fleet.known import sole_copy
from tests.fleet.traffic import Traffic
from tests.registry.etcd_server import EtcdServer

pytestmark = pytest.mark.timeout(900)

MODELS = [f"m{n:02}" for n in range(12)]
ATTEMPTS = 3


def namesake(fleet: Fleet, instance_id: str) -> Member:
    """A daemon elsewhere that claims the same id; it is not ready, if it ever will be."""
    holder = fleet.members.pop(instance_id)
    twin = fleet.add(instance_id)
    fleet.members = {**fleet.members, instance_id: holder, "twin": twin}
    twin.launch()
    return twin


def is_decided(member: Member) -> bool:
    """Whether it has ended or is ready."""
    return not member.runs or bool(member.said("ready"))


def test_a_namesake_is_refused_while_the_holder_answers(
    etcd: EtcdServer, start_fleet: StartFleet
) -> None:
    for _ in range(ATTEMPTS):
        fleet = start_fleet(etcd, "a", "b")
        fleet.dummies(*MODELS)
        before = fleet.instances()["a"]
        with Traffic([fleet["a"].target], MODELS, rate=100) as traffic:
            twin = namesake(fleet, "a")
            comes_true(partial(is_decided, twin))
            if twin.runs:
                continue
            assert twin.process.wait() == 1
            assert "in use" in twin.process.lines[-1]
            traffic.more(50)
        traffic.report.assert_all_right(50)
        after = fleet.instances()["a"]
        assert (after.epoch, after.address) == (before.epoch, before.address)
        return
    pytest.fail("it was let in each time")


def test_a_silent_holder_is_taken_over_and_yields_when_it_wakes(
    etcd: EtcdServer, start_fleet: StartFleet
) -> None:
    fleet = start_fleet(etcd, "a", "b", MM_LEASE_SECS="60")
    fleet.dummies(*MODELS)
    fleet["a"].client.infer(MODELS[0])
    before = fleet.instances()["a"]
    fleet["a"].pause()
    twin = namesake(fleet, "a")
    twin.ready()
    comes_true(lambda: fleet.instances()["a"].address.startswith(twin.host))
    assert fleet.instances()["a"].epoch > before.epoch
    with Traffic([fleet["b"].target, twin.target], MODELS, rate=100) as traffic:
        traffic.more(100)
        fleet["a"].resume()
        comes_true(lambda: fleet["a"].said("another daemon has joined under this id"))
        traffic.more(100)
    traffic.report.assert_all_right(200)


def test_who_wakes_without_a_name_manages_nothing(
    etcd: EtcdServer, start_fleet: StartFleet
) -> None:
    item = admin_pb2.RegisterModelsRequest.Item(model_id="late", type="dummy")
    request = admin_pb2.RegisterModelsRequest(models=[item])
    for _ in range(ATTEMPTS):
        fleet = start_fleet(etcd, "a", "b", MM_LEASE_SECS="6")
        fleet["a"].pause()
        twin = namesake(fleet, "a")
        twin.ready()
        asked = fleet["a"].client.admin.RegisterModels.future(request, timeout=PATIENCE_S)
        fleet["a"].resume()
        if asked.exception() is None:  # it took its name back: the twin did not answer
            continue
        assert asked.exception().code() is grpc.StatusCode.UNAVAILABLE
        assert "late" not in fleet.models()
        assert fleet["a"].process.wait(PATIENCE_S) == 1
        return
    pytest.fail("it was somebody each time")


NEWER = {"MM_SKEW": "true"}


def test_daemons_of_several_versions(etcd: EtcdServer, start_fleet: StartFleet) -> None:
    """A newer one writes fields, hop headers and a version that the others do not know."""
    fleet = start_fleet(etcd, "old-1", "old-2", linked=True)
    plain = [f"plain-{n}" for n in range(8)]
    fleet.dummies(*plain, size_bytes=1_000_000)
    for n, model_id in enumerate(plain):
        fleet[("old-1", "old-2")[n % 2]].client.infer(model_id)
    plain += [sole_copy(fleet, name, plain) for name in ("old-1", "old-2")]
    fleet.start("new", **NEWER)
    for name in ("old-1", "old-2"):
        fleet.peer_links[name].look_for = b"mm-hop-later"
    fleet["new"].client.dummies(*MODELS, size_bytes=1_000_000, load_s=0.01)
    comes_true(lambda: fleet.all_know(MODELS))
    with Traffic(fleet.targets, MODELS + plain, skew=0, rate=150) as traffic:
        traffic.more(300)
        comes_true(fleet.settled)
        assert all(fleet.peer_links[name].seen for name in ("old-1", "old-2"))
        records = fleet.models()
        assert all(records[each].unknown for each in MODELS), "it wrote nothing unknown"
        assert fleet.instances()["new"].protocol > fleet.instances()["old-1"].protocol
        assert fleet.instances()["new"].unknown
        for model_id in MODELS:  # a change by one who does not know the field keeps it
            fleet["old-1"].client.load(model_id)
        fleet["new"].restart()
        traffic.more(300)
    traffic.report.assert_all_right(600)
    assert all(fleet.models()[each].unknown for each in MODELS)
