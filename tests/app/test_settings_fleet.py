"""Rows of settings.py that only a fleet has: another value, and its members behave otherwise.

Real daemons in threads of this process, over a real etcd.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pytest

from modelmesh.domain.instances import InstanceRecord
from tests.app.client import patiently, until
from tests.app.daemon import Running, joined
from tests.app.sockets import free_port, is_listening
from tests.registry.etcd_server import PROGRAMS, EtcdServer, shared, stop_shared


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    """The first etcd found here; every test has a fleet of its own in it."""
    yield shared(next(iter(PROGRAMS)), "settings of a fleet")
    stop_shared("settings of a fleet")


@pytest.fixture
def fleet(etcd: EtcdServer, tmp_path: Any) -> Iterator[Any]:
    """Starts members of one fleet: `fleet("a", **settings)`."""
    name = f"fleet-{uuid4().hex}"
    with ExitStack() as stack:

        def start(instance_id: str, **settings: Any) -> Running:
            chosen = {
                "kv_store": f"etcd:{etcd.address}",
                "service_name": name,
                "instance_id": instance_id,
                "data_dir": str(tmp_path / f"{instance_id}-{uuid4().hex}"),
                "peer_port": 0,
                "tier": "inline",
                **settings,
            }
            return joined(stack, **chosen)

        yield start


def published(daemon: Running, instance_id: str) -> InstanceRecord:
    """What the registry has of that instance, as this daemon sees it."""
    member = daemon.app._daemon.member  # type: ignore[union-attr]
    assert member is not None
    until(lambda: instance_id in member.membership.others())
    return member.membership.others()[instance_id]


def test_the_fleet_is_found_below_its_prefix_and_name(fleet: Any) -> None:
    first = fleet("a", kvstore_prefix="mm", service_name="one-fleet")
    same = fleet("b", kvstore_prefix="mm", service_name="one-fleet")
    other = fleet("c", kvstore_prefix="mm", service_name="another")
    elsewhere = fleet("d", kvstore_prefix="tas-runtime", service_name="one-fleet")
    first.dummies("m")
    assert patiently(lambda: same.infer("m")) == first.infer("m")
    for stranger in (other, elsewhere):
        until(lambda s=stranger: s.refused("m").code == "NOT_FOUND")  # type: ignore[misc]


def test_peer_port(fleet: Any) -> None:
    port = free_port()
    daemon = fleet("a", peer_port=port)
    assert daemon.ports["peer"] == port
    assert is_listening("127.0.0.1", port)


def test_peer_host(fleet: Any) -> None:
    first, second = fleet("a", peer_host="127.0.0.3"), fleet("b")
    assert published(second, "a").address == f"127.0.0.3:{first.ports['peer']}"
    assert is_listening("127.0.0.3", first.ports["peer"])
    assert not is_listening("127.0.0.3", first.ports["grpc"])


def test_peer_address(fleet: Any) -> None:
    first, second = fleet("a", peer_address="mesh.example:1234"), fleet("b")
    assert published(second, "a").address == "mesh.example:1234"
    assert is_listening("127.0.0.1", first.ports["peer"])


def test_lease(fleet: Any) -> None:
    short, long = fleet("a", lease_s=2.0), fleet("b")
    for daemon in (short, long):  # as if it were killed: nobody keeps its lease
        membership = daemon.app._daemon.member.membership
        daemon.app._daemon.member.rounds.publisher._task.get_loop().call_soon_threadsafe(
            membership._keeper.cancel
        )
    watching = fleet("c")
    member = watching.app._daemon.member
    until(lambda: "a" not in member.membership.others())
    assert "b" in member.membership.others()


def test_place_and_labels_are_published(fleet: Any) -> None:
    fleet("a", zone="z1", location="node-7", labels="gpu, big")
    record = published(fleet("b"), "a")
    assert (record.zone, record.location, record.labels) == ("z1", "node-7", ("gpu", "big"))


def test_a_type_goes_where_its_labels_are(fleet: Any) -> None:
    constraints = json.dumps({"dummy": {"required": ["gpu"]}})
    plain = fleet("a", type_constraints=constraints)
    special = fleet("b", type_constraints=constraints, labels="gpu")
    plain.dummies("m")
    patiently(lambda: plain.infer("m"))
    until(lambda: special.app.instance._copies.is_loaded("m"))
    assert not plain.app.instance._copies.is_loaded("m")


def test_constraints_are_read_again_when_their_file_changes(fleet: Any, tmp_path: Any) -> None:
    file = tmp_path / "constraints.json"
    file.write_text(json.dumps({"dummy": {"required": ["gpu"]}}))
    plain = fleet("a", type_constraints_path=str(file))
    plain.dummies("m")
    assert plain.refused("m").code != "OK", "nobody has a gpu"
    file.write_text("{}")
    until(lambda: plain.begin("m").exception() is None)


def holders(*daemons: Running) -> int:
    """How many of these hold the model m."""
    return sum(daemon.app.instance._copies.is_loaded("m") for daemon in daemons)


def ask_until_both_hold(daemons: list[Running], **behaviour: float) -> None:
    """Use the model until there are two copies: that takes one look of the scaler."""
    daemons[0].dummies("m", **behaviour)
    until(lambda: daemons[0].infer("m") and holders(*daemons) == 2, 60.0)


def test_a_busy_model_gets_more_copies(fleet: Any) -> None:
    # At 10 calls a minute a handful of calls is busy; at the default it is not.
    ask_until_both_hold([fleet(name, scaleup_rpm=10, bandwidth_pct=200) for name in "ab"])


def test_a_crowded_model_gets_more_copies(fleet: Any) -> None:
    # Each call takes 200 ms, one after the other: the copy is busy all the time.
    daemons = [fleet(name, bandwidth_pct=50, scaleup_rpm=1_000_000) for name in "ab"]
    ask_until_both_hold(daemons, predict_s=0.2)
