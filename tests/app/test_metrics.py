"""Every metric of observe/metrics.py is moved by something that happens, and by exactly so much.

What a histogram counts is compared as a whole: a scenario moves what it names and nothing else.
Times are held between what was made to take and what the caller saw.
"""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from modelmesh.observe.metrics import Metrics
from modelmesh.pb import model_runtime_pb2 as spi
from tests.app.client import Client, answer_of, changes, request_of, until
from tests.app.daemon import Running, running
from tests.runtime.external_server import ExternalServer

MIB: Final = 1 << 20
CAPACITY: Final = 4 * MIB
PREDICT: Final = 'request_predict_seconds{model_name=""}'
PREPROCESS: Final = 'request_preprocess_seconds{model_name=""}'
POSTPROCESS: Final = 'request_postprocess_seconds{model_name=""}'
MOVING: Final = ("modelmesh_instance_lru_seconds", "modelmesh_instance_lru_age_seconds")


@pytest.fixture(scope="module")
def one() -> Iterator[Running]:
    with running(capacity_bytes=CAPACITY) as started:
        yield started


@pytest.fixture
def daemon(one: Running) -> Iterator[Running]:
    """A daemon without models; afterwards it is again."""
    yield one
    for model_id in one.models():
        one.unregister(model_id)
    until(lambda: one.metrics()["modelmesh_instance_used_bytes"] == 0)


class Watched:
    """What one scenario has changed: counts and sums of histograms, and gauges."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}
        self.sums: dict[str, float] = {}
        self.gauges: dict[str, float] = {}
        self.took_ms = 0.0

    def fill(self, changed: Mapping[str, float]) -> None:
        for name, by in changed.items():
            family, brace, labels = name.partition("{")
            if family.endswith("_bucket") or family in MOVING:
                continue
            short = family.removeprefix("modelmesh_")
            if family.endswith("_count"):
                self.counts[short.removesuffix("_count") + brace + labels] = by
            elif family.endswith("_sum"):
                self.sums[short.removesuffix("_sum") + brace + labels] = by
            else:
                self.gauges[short] = by


@contextmanager
def watched(daemon: Client) -> Iterator[Watched]:
    seen, before, started = Watched(), daemon.metrics(), time.monotonic()
    yield seen
    seen.took_ms = (time.monotonic() - started) * 1000
    seen.fill(changes(before, daemon.metrics()))


def call(method: str, code: str = "OK") -> str:
    return f'{{code="{code}",method="{method}"}}'


def asked(method: str, code: str = "OK", *, times: int = 1) -> dict[str, float]:
    """What every call counts in, whatever became of it."""
    names = ("api_request_milliseconds", "request_size_bytes", "response_size_bytes")
    return {name + call(method, code): times for name in names}


def invoked(method: str, code: str = "OK", *, times: int = 1) -> dict[str, float]:
    """What a call counts in that its model has had."""
    labels = call(method, code)
    return asked(method, code, times=times) | {f"invoke_model_milliseconds{labels}": times}


def predicted(*, times: int = 1) -> dict[str, float]:
    """What a call counts in that a model of our own has answered."""
    return {PREPROCESS: times, PREDICT: times, POSTPROCESS: times}


LOADED: Final = {
    "loadmodel_milliseconds": 1,
    "loading_queue_delay_milliseconds": 1,
    "loaded_model_size_bytes": 1,
}
HELD: Final = {"instance_models_total": 1, "models_loaded_total": 1}
MISSED: Final = {"cache_miss_milliseconds": 1}
SIZED: Final = {"model_sizing_milliseconds": 1}
UNLOADED: Final = {"unloadmodel_milliseconds": 1}


def basis_points(size_bytes: int) -> float:
    return size_bytes * 10_000 // CAPACITY


# --- calls


def test_a_cold_call(daemon: Running) -> None:
    daemon.dummies("cold", size_bytes=MIB, load_s=0.05, predict_s=0.05)
    with watched(daemon) as seen:
        answer = daemon.infer("cold", 1.0, 2.0)
    one = call("ModelInfer")
    assert seen.counts == invoked("ModelInfer") | LOADED | MISSED | SIZED | predicted()
    assert seen.sums[f"request_size_bytes{one}"] == len(request_of("cold", (1.0, 2.0)))
    assert seen.sums[f"response_size_bytes{one}"] == answer.size_bytes
    assert seen.sums["loaded_model_size_bytes"] == MIB
    invoke_ms = seen.sums[f"invoke_model_milliseconds{one}"]
    api_ms = seen.sums[f"api_request_milliseconds{one}"]
    load_ms, miss_ms = seen.sums["loadmodel_milliseconds"], seen.sums["cache_miss_milliseconds"]
    assert 50 <= load_ms <= miss_ms + 1  # a host's clock ends before the daemon's
    assert 50 <= invoke_ms <= api_ms
    assert 100 <= invoke_ms + miss_ms <= api_ms + 1  # one after the other
    assert api_ms <= seen.took_ms
    assert seen.sums["loading_queue_delay_milliseconds"] <= miss_ms - load_ms + 1
    assert seen.sums[PREDICT] * 1000 == pytest.approx(invoke_ms)
    used = {"instance_used_bytes": MIB, "instance_used_bps": basis_points(MIB)}
    assert seen.gauges == HELD | used


def test_a_cold_calls_time_is_its_load_and_its_run(daemon: Running) -> None:
    daemon.dummies("cold", size_bytes=MIB, load_s=0.05, predict_s=0.05)
    for _ in range(4):  # a machine may stand still between the two
        with watched(daemon) as seen:
            daemon.infer("cold")
        parts = (f"invoke_model_milliseconds{call('ModelInfer')}", "cache_miss_milliseconds")
        api_ms = seen.sums[f"api_request_milliseconds{call('ModelInfer')}"]
        if sum(seen.sums[part] for part in parts) == pytest.approx(api_ms, abs=1):
            return
        daemon.unload("cold")
    pytest.fail("it takes longer each time")


@pytest.fixture
def warm(daemon: Running) -> str:
    """A model that is loaded."""
    daemon.dummies("warm", size_bytes=1000)
    daemon.load("warm")
    return "warm"


def test_a_warm_call(daemon: Running, warm: str) -> None:
    with watched(daemon) as seen:
        for _ in range(3):
            daemon.infer(warm)
    assert seen.counts == invoked("ModelInfer", times=3) | predicted(times=3)
    parts = seen.sums[PREPROCESS], seen.sums[POSTPROCESS]
    assert min(parts) > 0
    assert sum(parts) < seen.sums[PREDICT]
    assert seen.gauges == {}


@pytest.mark.parametrize("tier", ["shared", "process", "inline"])
def test_calls_at_once_count_one_by_one_wherever_their_model_lives(tier: str) -> None:
    with running(tier=tier) as daemon:
        daemon.dummies("m", size_bytes=1000)
        daemon.load("m")
        with watched(daemon) as seen:
            calls = [daemon.begin("m") for _ in range(16)]
            assert [answer_of(each.result())["sum"] for each in calls] == [1.0] * 16
        assert seen.counts == invoked("ModelInfer", times=16) | predicted(times=16)


def test_a_call_that_the_model_fails_has_no_answer_to_encode(daemon: Running) -> None:
    daemon.dummies("bad", size_bytes=1000, predict_error="no")
    daemon.load("bad")
    with watched(daemon) as seen:
        daemon.refused("bad")
    assert seen.counts == invoked("ModelInfer", "INTERNAL") | {PREPROCESS: 1, PREDICT: 1}


def test_a_call_that_cannot_be_decoded(daemon: Running, warm: str) -> None:
    with watched(daemon) as seen:
        body = b'{"instances":[[1.0],[1.0,2.0]]}'
        assert daemon.rest("POST", f"/v1/models/{warm}:predict", body).status == 400
    assert seen.counts == invoked("v1:predict", "INVALID_ARGUMENT") | {PREDICT: 1}


def test_a_call_over_rest(daemon: Running, warm: str) -> None:
    with watched(daemon) as seen:
        response = daemon.predict(warm, 1.0)
    assert seen.counts == invoked("v1:predict") | predicted()
    sent = len(json.dumps({"instances": [[1.0]]}))
    assert seen.sums[f"request_size_bytes{call('v1:predict')}"] == sent
    assert seen.sums[f"response_size_bytes{call('v1:predict')}"] == len(response.body)


def test_an_explanation(daemon: Running, warm: str) -> None:
    """The dummy has none to give; that it was asked counts all the same."""
    with watched(daemon) as seen:
        body = b'{"instances":[[1.0]]}'
        assert daemon.rest("POST", f"/v1/models/{warm}:explain", body).status == 501
    explained = {'request_explain_seconds{model_name=""}': 1}
    assert seen.counts == invoked("v1:explain", "UNIMPLEMENTED") | explained | {PREPROCESS: 1}


def test_a_call_on_an_unknown_model(daemon: Running) -> None:
    with watched(daemon) as seen:
        daemon.refused("nobody")
    assert seen.counts == asked("ModelInfer", "NOT_FOUND")
    labels = call("ModelInfer", "NOT_FOUND")
    assert seen.sums[f"request_size_bytes{labels}"] == len(request_of("nobody"))
    assert f"response_size_bytes{labels}" not in seen.sums, "a refusal has no body"


def test_a_call_whose_caller_leaves(daemon: Running, warm: str) -> None:
    daemon.dummies("long", size_bytes=1000, predict_s=300.0)
    daemon.load("long")
    with watched(daemon) as seen:
        call = daemon.begin("long", timeout_s=300.0)
        until(lambda: daemon.models()["long"].in_use == 1)
        daemon.infer(warm)  # in the same host, which tells with this answer what it has begun
        call.cancel()
        until(lambda: daemon.app.instance.open_calls == 0)
    both = invoked("ModelInfer", "CANCELLED") | invoked("ModelInfer")
    assert seen.counts == both | {PREPROCESS: 2, PREDICT: 2, POSTPROCESS: 1}


# --- the life of models


def test_a_failed_load(daemon: Running) -> None:
    daemon.dummies("broken", load_error="no")
    with watched(daemon) as seen:
        daemon.refused("broken")
        daemon.refused("broken")
    assert seen.counts == asked("ModelInfer", "FAILED_PRECONDITION", times=2)
    assert seen.gauges == {"loadmodel_failure": 2, "models_with_failure_total": 1}
    with watched(daemon) as seen:
        daemon.unregister("broken")
    assert seen.gauges == {"models_with_failure_total": -1, "models_managed_total": -1}


def test_an_eviction(daemon: Running) -> None:
    daemon.dummies("old", "new", size_bytes=3 * MIB)
    used = time.monotonic()
    daemon.infer("old")
    rests = time.monotonic()
    until(lambda: time.monotonic() - rests > 0.2)
    with watched(daemon) as seen:
        daemon.infer("new")
    gone = UNLOADED | {"age_at_eviction_milliseconds": 1}
    assert seen.counts == invoked("ModelInfer") | LOADED | MISSED | SIZED | gone | predicted()
    age_ms = seen.sums["age_at_eviction_milliseconds"]
    assert 150 < age_ms < (time.monotonic() - used) * 1000
    assert seen.gauges == {}


def test_an_unload_on_purpose(daemon: Running) -> None:
    daemon.dummies("m", size_bytes=MIB)
    daemon.load("m")
    with watched(daemon) as seen:
        daemon.unload("m")
    assert seen.counts == UNLOADED
    assert 0 < seen.sums["unloadmodel_milliseconds"] < seen.took_ms
    lost = {name: -by for name, by in HELD.items()}
    used = {"instance_used_bytes": -MIB, "instance_used_bps": -basis_points(MIB)}
    assert seen.gauges == lost | used


def test_registrations(daemon: Running) -> None:
    with watched(daemon) as seen:
        daemon.dummies("a", "b", "c")
        daemon.dummies("a")
        daemon.unregister("b")
    assert seen.counts == {}
    assert seen.gauges == {"models_managed_total": 2}


# --- the daemon as a whole


def test_the_least_recent_use(daemon: Running) -> None:
    empty = daemon.metrics()
    assert [empty[name] for name in MOVING] == [0, 0]
    daemon.dummies("first", "second")
    before = time.time()
    daemon.infer("first")
    after = time.time()
    daemon.infer("second")
    until(lambda: daemon.metrics()["modelmesh_instance_lru_age_seconds"] > 0.2)
    # Two clocks are read, one after the other: now and then something comes between.
    until(lambda: before <= daemon.metrics()["modelmesh_instance_lru_seconds"] <= after + 0.01)
    age = daemon.metrics()["modelmesh_instance_lru_age_seconds"]
    assert 0.2 < age <= time.time() - before
    daemon.infer("first")
    until(lambda: daemon.metrics()["modelmesh_instance_lru_seconds"] > after)


def test_the_capacity(daemon: Running) -> None:
    assert daemon.metrics()["modelmesh_instance_capacity_bytes"] == CAPACITY


# --- with a model server of somebody else's


class Server(ExternalServer):
    """Answers and unloads when it is let, or refuses to unload."""

    def __init__(self, status: Any = None) -> None:
        self.gate, self.answers = threading.Event(), threading.Event()
        self.gate.set()
        self.answers.set()
        self.refusals = 0
        super().__init__(status)

    def work(self, script: dict[str, Any]) -> None:
        self.answers.wait(60)

    def unloadModel(self, request: Any, context: Any) -> Any:
        self.gate.wait(60)
        if self.refusals:
            self.refusals -= 1
            context.abort(grpc.StatusCode.INTERNAL, "not now")
        return super().unloadModel(request, context)


@contextmanager
def external(status: Any = None, **settings: Any) -> Iterator[tuple[Server, Running]]:
    server = Server(status)
    try:
        with running(runtime_port=server.port, **settings) as daemon:
            try:
                yield server, daemon
            finally:
                server.refusals = 0
                server.gate.set()
                server.answers.set()
    finally:
        server.stop()


def test_weighing_a_model_whose_size_the_server_does_not_say() -> None:
    with external() as (_, daemon):
        daemon.dummies("m")
        with watched(daemon) as seen:
            daemon.load("m")
        assert seen.counts == LOADED | SIZED
        assert seen.sums["loaded_model_size_bytes"] == 777
        daemon.dummies("told", size_bytes=1000)
        with watched(daemon) as seen:
            daemon.load("told")
        assert seen.counts == LOADED


def test_rest_for_a_server_that_speaks_grpc() -> None:
    with external() as (_, daemon):
        daemon.dummies("m", size_bytes=1000)
        daemon.load("m")
        with watched(daemon) as seen:
            assert daemon.predict("m", 1.0, 2.0).document == {"predictions": [3.0]}
        translated = {PREPROCESS: 1, POSTPROCESS: 1}
        assert seen.counts == invoked("v1:predict") | translated | {PREDICT: 1}
        parts = sum(seen.sums[name] for name in translated)
        assert 0 < parts < seen.sums[PREDICT]


def test_calls_that_wait_for_each_other() -> None:
    """The server takes one at a time, so the second waits while the first runs."""
    limited = spi.RuntimeStatusResponse(
        status=spi.RuntimeStatusResponse.READY, limitModelConcurrency=True
    )
    with external(limited) as (server, daemon):
        daemon.dummies("m", size_bytes=1000, concurrency=1)
        daemon.load("m")
        with watched(daemon) as seen:
            server.answers.clear()
            calls = [daemon.begin("m") for _ in range(2)]
            until(lambda: daemon.app.instance.open_calls == 2)
            wait = time.monotonic()
            until(lambda: time.monotonic() - wait > 0.2)
            server.answers.set()
            assert [answer_of(each.result())["sum"] for each in calls] == [1.0, 1.0]
        queued = {"req_queue_delay_milliseconds": 2}
        assert seen.counts == invoked("ModelInfer", times=2) | queued | {PREDICT: 2}
        assert 150 < seen.sums["req_queue_delay_milliseconds"] < seen.took_ms


def test_an_unload_that_fails() -> None:
    with external() as (server, daemon):
        daemon.dummies("m", size_bytes=1000)
        daemon.load("m")
        server.refusals = 1
        with watched(daemon) as seen:
            daemon.unload("m")
        assert seen.counts == UNLOADED
        assert seen.gauges["unloadmodel_attempt_failure"] == 1
        assert seen.gauges.get("unloadmodel_failure", 0) == 0


def test_a_model_that_is_never_unloaded() -> None:
    with external() as (server, daemon):
        daemon.dummies("m", size_bytes=1000)
        daemon.load("m")
        server.refusals = 1 << 30
        with watched(daemon) as seen, pytest.raises(grpc.RpcError, match="not now"):
            daemon.unload("m")
        assert seen.counts == UNLOADED
        assert seen.gauges["unloadmodel_attempt_failure"] == 4
        assert seen.gauges["unloadmodel_failure"] == 1
        assert daemon.metrics()["modelmesh_instance_used_bytes"] >= 1000


def test_a_debt() -> None:
    """A model turns out to be larger than the room that is left: until it is gone, that is owed."""
    with external(capacity_bytes=3 * MIB, default_model_size_bytes=1000) as (server, daemon):
        daemon.dummies("busy", size_bytes=2 * MIB)
        daemon.dummies("grown", size_bytes=2 * MIB, like="no other")  # else its size were known
        daemon.load("busy")
        server.answers.clear()
        running_call = daemon.begin("busy")
        until(lambda: daemon.models()["busy"].in_use == 1)
        server.gate.clear()
        daemon.refused("grown")
        owed = {"instance_debt_bytes", "instance_used_bytes"}
        assert {daemon.metrics()[f"modelmesh_{name}"] for name in owed} == {MIB, 4 * MIB}
        server.gate.set()
        until(lambda: daemon.metrics()["modelmesh_instance_debt_bytes"] == 0)
        server.answers.set()
        assert answer_of(running_call.result())["sum"] == 1.0


def test_every_metric_has_its_scenario_here() -> None:
    source = Path(__file__).read_text()
    names = [family.name.removeprefix("modelmesh_") for family in Metrics().registry.collect()]
    assert [name for name in names if name not in source] == []
