"""What callers and operators ask of a fleet, whichever daemon they ask.

Real daemons in threads of this process, over a real etcd.
"""

import queue
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from modelmesh.pb import admin_pb2, inference_pb2
from tests.app.client import CALL_S, patiently, until
from tests.app.daemon import Running, joined
from tests.registry.etcd_server import PROGRAMS, EtcdServer, shared, stop_shared

MIB = 1 << 20
# Where the machine keeps one daemon still the other one loads a model too, and rightly: then it is
# tried with another model.
ATTEMPTS = ("first", "second", "third")


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    yield shared(next(iter(PROGRAMS)), "asking a fleet")
    stop_shared("asking a fleet")


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
                "data_dir": str(tmp_path / instance_id),
                "peer_port": 0,
                "tier": "inline",
                **settings,
            }
            return joined(stack, **chosen)

        yield start


def policy(daemon: Running, model_id: str, **wishes: Any) -> Any:
    request = admin_pb2.SetModelPolicyRequest(model_id=model_id, **wishes)
    return patiently(lambda: daemon.admin.SetModelPolicy(request, timeout=CALL_S)).model


def instances(daemon: Running) -> dict[str, Any]:
    said = daemon.admin.ListInstances(admin_pb2.ListInstancesRequest(), timeout=CALL_S)
    return {row.instance_id: row for row in said.instances}


class Watch:
    """Follows all models, as admin.proto says: the rows by id."""

    def __init__(self, daemon: Running) -> None:
        self._stream = daemon.admin.WatchModels(admin_pb2.WatchModelsRequest())
        assert next(self._stream).kind == admin_pb2.ModelEvent.WATCHING
        self.rows = daemon.models()
        self._events: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for event in self._stream:
                self._events.put(event)
        except Exception as error:  # it was cancelled
            self._events.put(error)

    def take(self) -> dict[str, Any]:
        """The rows as they are after what has come."""
        while not self._events.empty():
            event = self._events.get()
            if event.kind == admin_pb2.ModelEvent.GONE:
                self.rows.pop(event.model.model_id, None)
            else:
                self.rows[event.model.model_id] = event.model
        return self.rows

    def close(self) -> None:
        self._stream.cancel()
        self._thread.join(10)


def where(row: Any) -> list[str]:
    return list(row.instances)


def test_any_daemon_lists_and_watches_the_whole_fleet(fleet: Any) -> None:
    first, second = fleet("a"), fleet("b")
    first.dummies("old")
    until(lambda: "old" in second.models())
    watch = Watch(second)
    try:
        assert set(watch.rows) == {"old"}
        first.dummies("m")
        first.infer("m", metadata=[("mm-balanced", "true")])
        until(lambda: watch.take().get("m", admin_pb2.Model()).state == "LOADED")
        row = watch.take()["m"]
        assert (where(row), row.tier) == (["a"], ""), "the tier is what runs here"
        assert where(second.models()["m"]) == where(first.models()["m"]) == ["a"]
        assert first.models()["m"].tier == "inline"
        policy(first, "m", priority=3)
        until(lambda: watch.take()["m"].priority == 3)
        first.unload("m")
        until(lambda: watch.take()["m"].state == "NOT_LOADED" and not where(watch.take()["m"]))
        first.unregister("m")
        until(lambda: set(watch.take()) == {"old"})
    finally:
        watch.close()


def test_instances_look_the_same_from_everywhere_but_for_who_is_asked(fleet: Any) -> None:
    first, second = fleet("a", zone="z", labels="gpu"), fleet("b")
    until(lambda: len(instances(first)) == len(instances(second)) == 2)
    until(lambda: instances(second)["a"].health == "answers")
    seen = instances(second)
    assert (seen["b"].health, instances(first)["a"].health) == ("here", "here")
    assert (seen["a"].zone, list(seen["a"].labels)) == ("z", ["gpu"])
    assert seen["a"].address == f"127.0.0.1:{first.ports['peer']}"
    first.dummies("m")
    first.infer("m", metadata=[("mm-balanced", "true")])
    until(lambda: instances(second)["a"].models == 1)
    assert instances(second)["a"].capacity_bytes >= instances(second)["a"].used_bytes > 0


def test_nobody_outside_can_speak_for_a_daemon(fleet: Any) -> None:
    first, second = fleet("a"), fleet("b")
    first.dummies("other")
    first.unload("other")  # nor is it loaded ahead of demand
    forged = [
        ("mm-hop-intent", "hit"), ("mm-hop-sender", "b"), ("mm-hop-tried", "a"),
        ("mm-hop-model-bin", b"other"),
    ]  # fmt: skip
    loads = [("mm-hop-intent", "load"), *forged[1:]]
    for cold in ATTEMPTS:
        first.dummies(cold)
        for daemon in (first, second):  # a hit on a cold model would be refused
            answer = patiently(partial(daemon.infer, cold, metadata=forged))
            assert answer["model"] == cold
        assert first.models()["other"].state == "NOT_LOADED"
        for daemon in (first, second):  # a load would make a copy at each
            assert daemon.infer(cold, metadata=loads)["model"] == cold
        if len(where(first.models()[cold])) == 1:
            return
    pytest.fail("there are several copies each time")


def test_a_call_of_several_models_goes_where_each_of_them_is(fleet: Any) -> None:
    first, second = fleet("a"), fleet("b")
    for each in ATTEMPTS:
        at_a, at_b = f"{each}-at-a", f"{each}-at-b"
        first.dummies(at_a, at_b)
        first.infer(at_a, metadata=[("mm-balanced", "true")])
        until(partial(lists, second, at_b))
        second.infer(at_b, metadata=[("mm-balanced", "true")])
        until(partial(lists, first, at_b, "b"))
        merged = patiently(partial(ask_all, first, at_b, "nobody", at_a))
        outputs = inference_pb2.ModelInferResponse.FromString(merged).outputs
        said = [list(each.contents.bytes_contents) for each in outputs if each.name == "model"]
        assert said == [[at_b.encode()], [at_a.encode()]]
        if where(first.models()[at_b]) == ["b"]:
            return
    pytest.fail("it was loaded elsewhere each time")


def ask_all(daemon: Running, *model_ids: str) -> bytes:
    """What one call is answered that names all of these."""
    named = [("mm-model-id", model_id) for model_id in model_ids]
    return bytes(daemon.begin("", metadata=named).result())


def lists(daemon: Running, model_id: str, *instance_ids: str) -> bool:
    """Whether it knows the model as one that these hold."""
    row = daemon.models().get(model_id)
    return row is not None and where(row) == list(instance_ids)


def test_a_pinned_model_stays_in_a_fleet_that_is_too_small(fleet: Any) -> None:
    first = fleet("a", capacity_bytes=3 * MIB)
    names = [f"m{n}" for n in range(8)]
    first.dummies(*names)
    policy(first, "m0", pinned=True)
    for name in names:
        first.infer(name)
    until(lambda: 0 < len(first.loaded()) <= 3)
    assert "m0" in first.loaded()
    fates = {each.model_id: each.verdict for each in first.explain("m1").eviction_order}
    assert fates["m0"] == "kept"
    policy(first, "m0", pinned=False, priority=-20)
    first.infer(min(set(names) - first.loaded()))
    until(lambda: "m0" not in first.loaded())


def test_the_copies_that_an_operator_wishes_are_made(fleet: Any) -> None:
    first, second = fleet("a"), fleet("b")
    first.dummies("m")
    first.infer("m")
    until(lambda: len(where(second.models()["m"])) == 1)
    policy(second, "m", min_copies=2)
    until(lambda: where(first.models()["m"]) == ["a", "b"], 60.0)
