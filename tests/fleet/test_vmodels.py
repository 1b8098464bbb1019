"""A real fleet moves its vmodels: no call fails, whichever daemon is asked, whoever leads."""

import base64
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from modelmesh.pb import model_mesh_pb2 as pb
from tests.app.client import Client, answer_of, is_about_the_store, patiently
from tests.fleet.conftest import StartFleet
from tests.fleet.fleet import PATIENCE_S, Fleet, Member, comes_true
from tests.registry.etcd_server import EtcdServer

pytestmark = pytest.mark.timeout(900)

ALL = ("a", "b", "c")
VSTATUS = pb.VModelStatusInfo.VModelStatus


def set_vmodel(member: Member, target: str, key: str = "{}", **fields: Any) -> Any:
    request = pb.SetVModelRequest(
        vModelId="v", targetModelId=target, autoDeleteTargetModel=True, **fields
    )
    request.modelInfo.CopyFrom(pb.ModelInfo(type="dummy", key=key))
    return patiently(lambda: member.client.mesh.setVModel(request, timeout=4 * PATIENCE_S))


class Asking:
    """What those who ask were told. (Where a name has moved to is not known anywhere else while
    etcd stands still: that may be told, and they ask again.)"""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.over = threading.Event()

    def ask(self, client: Client, metadata: tuple[tuple[str, str], ...], name: str) -> None:
        while not self.over.is_set():
            try:
                found = client.begin(name, timeout_s=2 * PATIENCE_S, metadata=metadata).result()
                self.answers[str(answer_of(found)["model"])] += 1
            except grpc.RpcError as error:
                if not is_about_the_store(error):
                    self.failures.append(f"{error.code()} {error.details()}")


@contextmanager
def asked_without_a_pause(*members: Member) -> Iterator[Asking]:
    """By name and by header, at each of these."""
    asking = Asking()
    threads = [
        threading.Thread(target=asking.ask, args=(member.client, metadata, name))
        for member in members
        for metadata, name in (((), "v"), ((("mm-vmodel-id", "v"),), ""))
    ]
    for thread in threads:
        thread.start()
    try:
        yield asking
    finally:
        asking.over.set()
        for thread in threads:
            thread.join()


def leader(fleet: Fleet) -> Member:
    """Whose latch was created first."""
    latches = fleet.etcd.ask(
        "kv/range",
        {
            "key": _below(fleet, "leaderLatch/"), "range_end": _below(fleet, "leaderLatch0"),
            "sort_target": "CREATE", "limit": "1",
        },
    )["kvs"]  # fmt: skip
    return fleet[base64.b64decode(latches[0]["value"]).decode()]


def _below(fleet: Fleet, name: str) -> str:
    return base64.b64encode((fleet.root + name).encode()).decode()


def test_a_vmodel_moves_under_requests_at_every_daemon(
    etcd: EtcdServer, start_fleet: StartFleet
) -> None:
    fleet = start_fleet(etcd, *ALL)
    said = set_vmodel(fleet["a"], "m0", sync=True)
    assert (said.status, said.activeModelId) == (VSTATUS.DEFINED, "m0")
    with asked_without_a_pause(*fleet) as asking:
        for n in range(1, 7):
            said = set_vmodel(fleet[ALL[n % 3]], f"m{n}", '{"load_s":0.2}', sync=True)
            assert (said.status, said.activeModelId) == (VSTATUS.DEFINED, f"m{n}")
        comes_true(lambda: asking.answers["m6"] > 100)
    assert not asking.failures
    assert asking.answers["m0"]
    comes_true(lambda: set(fleet.models()) == {"m6"})
    assert fleet.models()["m6"].refs == 1


def test_a_leader_that_dies_leaves_no_transition_behind(
    etcd: EtcdServer, start_fleet: StartFleet
) -> None:
    fleet = start_fleet(etcd, *ALL, MM_LEASE_SECS="3")
    set_vmodel(fleet["a"], "m0", sync=True)
    first = leader(fleet)
    others = [member for member in fleet if member is not first]
    with asked_without_a_pause(*others) as asking:
        said = set_vmodel(others[0], "m1", '{"load_s":5}')
        assert said.status == VSTATUS.TRANSITIONING
        first.kill()
        comes_true(lambda: asking.answers["m1"] > 100)
    assert not asking.failures
    comes_true(lambda: set(fleet.models()) == {"m1"})
    comes_true(lambda: leader(fleet) is not first)
