"""Every row of settings.py: another value, and the daemon behaves otherwise.

Here is what does not depend on where models run: they run in the daemon's process, which starts in
milliseconds. What is about hosts and external runtimes is in test_settings_runtime.py.
"""

import json
import socket
import time
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from modelmesh.errors import MeshError
from modelmesh.pb import inference_pb2
from tests.app.client import Client, answer_of, ever_longer, refusal_of, until
from tests.app.daemon import FREE_PORTS, child, process, running
from tests.app.runtimes import closed
from tests.app.sockets import connected, free_port, is_listening, said_of_liveness, until_closed

MIB: Final = 1 << 20
FEW_S: Final = 0.3
LONG_S: Final = 300.0  # until its caller leaves
LOADS_MS: Final = "modelmesh_loadmodel_milliseconds_sum"
INLINE: Final[dict[str, Any]] = {"tier": "inline"}
GATED: Final[dict[str, Any]] = {**INLINE, "runtimes": "tests.app.runtimes:Gated"}


# --- where it listens


def test_host() -> None:
    with running(host="127.0.0.2", **INLINE) as daemon:
        assert all(is_listening("127.0.0.2", port) for port in daemon.ports.values())
        assert not any(is_listening("127.0.0.1", port) for port in daemon.ports.values())


def test_grpc_port() -> None:
    port = free_port()
    with running(grpc_port=port, **INLINE):
        assert live(port)


def live(port: int) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        return bool(inference_pb2.ServerLiveResponse.FromString(ask(b"", timeout=10)).live)


def test_rest_port() -> None:
    port = free_port()
    with running(rest_port=port, **INLINE) as daemon:
        assert daemon.ports["rest"] == port
        assert daemon.rest("GET", "/v2/health/live").document == {"live": True}


def test_metrics() -> None:
    with running(metrics="disabled", **INLINE) as daemon:
        assert set(daemon.ports) == {"grpc", "rest", "probe"}
    port = free_port()
    options = f"prometheus:port={port};fq_names=true;per_model_metrics=true"
    with running(metrics=options, **INLINE) as daemon:
        daemon.dummies("m")
        daemon.infer("m")
        assert daemon.ports["metrics"] == port
        method = 'method="/inference.GRPCInferenceService/ModelInfer"'
        metrics = daemon.metrics()
        assert metrics[f'modelmesh_api_request_milliseconds_count{{code="OK",{method}}}'] == 1
        assert metrics['request_predict_seconds_count{model_name="m"}'] == 1


def test_probe_port() -> None:
    with running(probe_port="NONE", **INLINE) as daemon:
        assert set(daemon.ports) == {"grpc", "rest", "metrics"}
    port = free_port()
    with running(probe_port=str(port), **INLINE) as daemon:
        assert daemon.ports["probe"] == port
        assert daemon.rest("GET", "/ready", on="probe").status == 200


# --- limits on what callers may send


def test_max_message() -> None:
    with running(max_message_bytes=2000, **INLINE) as daemon:
        daemon.dummies("m")
        assert daemon.infer("m", padding=1000)["model"] == "m"
        assert daemon.refused("m", padding=2000).code == "RESOURCE_EXHAUSTED"
        path = "/v1/models/m:predict"
        assert daemon.rest("POST", path, b'{"instances":[[1.0]]}'.ljust(2000)).status == 200
        assert daemon.rest("POST", path, b'{"instances":[[1.0]]}'.ljust(2001)).status == 413


def test_max_headers() -> None:
    with running(max_headers_bytes=2000, **INLINE) as daemon:
        short, long = {"x-note": "x" * 1000}, {"x-note": "x" * 3000}
        assert daemon.rest("GET", "/v2", headers=short).status == 200
        assert daemon.rest("GET", "/v2", headers=long).status == 431
        ask = daemon.channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert ask(b"", metadata=tuple(short.items()), timeout=10)
        refused = refusal_of(ask.future(b"", metadata=tuple(long.items()), timeout=10))
        assert refused.code == "RESOURCE_EXHAUSTED"


def test_max_connection_age() -> None:
    """Beyond its age a connection is let go, and what runs on it has the grace (0: any)."""
    info = {"type": "dummy", "key": f'{{"predict_s": {LONG_S}}}'}
    model = json.dumps([{"modelId": "long", "modelInfo": info}])
    short = {"max_connection_age_s": 0.2, "max_connection_age_grace_s": 0.2}
    with running(**short, auto_register=model, **INLINE) as daemon:
        assert daemon.refused("long", timeout_s=LONG_S).code == "UNAVAILABLE"
    aging = {"max_connection_age_s": 0.2}, {"max_connection_age_s": 0.0, "shutdown_timeout_s": 0.4}
    for chosen in aging:
        with running(**chosen, **INLINE) as daemon, running(**INLINE) as ageless:
            seen, kept = states(daemon), states(ageless)
            for each in (daemon, ageless):
                each.dummies("long", predict_s=1.0)
                assert each.infer("long")["model"] == "long"
            until(lambda seen=seen: grpc.ChannelConnectivity.IDLE in seen[1:])  # type: ignore[misc]
            assert grpc.ChannelConnectivity.IDLE not in kept[1:]


def states(daemon: Client) -> list[grpc.ChannelConnectivity]:
    """Where the connection stands, as it changes."""
    seen: list[grpc.ChannelConnectivity] = []
    daemon.channel.subscribe(seen.append)
    return seen


def test_max_concurrent_calls() -> None:
    with running(max_concurrent_calls=2, **INLINE) as daemon:
        daemon.dummies("long", predict_s=LONG_S)
        daemon.dummies("other")
        daemon.load("long")
        calls = [daemon.begin("long", timeout_s=LONG_S) for _ in range(2)]
        until(lambda: daemon.app.instance.open_calls == 2)
        assert daemon.refused("other").why == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert daemon.predict("other").status == 429
        assert not any(call.done() for call in calls)
        calls[0].cancel()
        until(lambda: daemon.app.instance.open_calls == 1)
        assert daemon.infer("other")["model"] == "other"
        calls[1].cancel()


def test_max_waiting_bytes(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with running(max_waiting_bytes=1000, **GATED) as daemon:
        with closed(gate):
            daemon.gated(gate, "slow")
            small = daemon.begin("slow", padding=500)
            until(lambda: daemon.state("slow") == "LOADING")
            assert daemon.refused("slow", padding=500).why == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert answer_of(small.result())["model"] == "slow"
        assert daemon.infer("slow", padding=5000)["model"] == "slow"


def test_max_inflight() -> None:
    with running(max_inflight_per_model=1, **INLINE) as daemon:
        daemon.dummies("long", predict_s=LONG_S)
        daemon.dummies("other")
        call = daemon.begin("long", timeout_s=LONG_S)
        until(lambda: daemon.models()["long"].in_use == 1)
        assert daemon.refused("long").why == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert daemon.infer("other")["model"] == "other"
        assert not call.done()
        call.cancel()


def test_multi_parallelism() -> None:
    with running(multi_parallelism=2, **INLINE) as daemon:
        daemon.dummies("a", "b", "c", predict_s=LONG_S)
        call = daemon.begin("", metadata=[("mm-model-id", name) for name in "abc"])
        until(lambda: sum(row.in_use for row in daemon.models().values()) == 2)
        assert daemon.models()["c"].in_use == 0
        call.cancel()
        daemon.dummies("d", "e", "f")
        call = daemon.begin("", metadata=[("mm-model-id", name) for name in "def"])
        merged = inference_pb2.ModelInferResponse.FromString(call.result())
        said = [
            list(each.contents.bytes_contents) for each in merged.outputs if each.name == "model"
        ]
        assert said == [[b"d"], [b"e"], [b"f"]]


OTHER: Final = "/some.Service/Method"
RULES: Final = '{"rpcConfigs": {"inference.GRPCInferenceService/ModelInfer": {}}}'


def passes(daemon: Client) -> bool:
    """Whether a method that only a runtime may know reaches one."""
    call = daemon.channel.unary_unary(OTHER)
    future = call.future(b"", timeout=30, metadata=[("mm-model-id", "m")])
    return "not permitted" not in refusal_of(future).message


def test_dataplane_config() -> None:
    with running(dataplane_config=RULES, **INLINE) as daemon:
        daemon.dummies("m")
        assert daemon.infer("m")["model"] == "m"
        assert not passes(daemon)
    with running(**INLINE) as daemon:
        daemon.dummies("m")
        assert passes(daemon)
    with (
        pytest.raises(MeshError, match=r"MM_DATAPLANE_CONFIG: .*known are"),
        running(dataplane_config='{"rules": {}}', **INLINE),
    ):
        raise AssertionError("it started")


def test_dataplane_config_path(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    with (
        pytest.raises(MeshError, match=r"rules\.json: No such file"),
        running(dataplane_config_path=str(file), **INLINE),
    ):
        raise AssertionError("it started")
    file.write_text(RULES)
    with running(dataplane_config_path=str(file), **INLINE) as daemon:
        daemon.dummies("m")
        assert not passes(daemon)
        file.write_text('{"allowOtherRpcs": true}')
        until(lambda: passes(daemon))


def test_http_idle() -> None:
    with running(http_idle_s=0.2, **INLINE) as daemon:
        until(lambda: said_of_liveness(daemon).startswith(b"HTTP/1.1 200"))


def test_http_header() -> None:
    with running(http_header_s=0.2, **INLINE) as daemon, connected(daemon) as sock:
        sock.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost:")
        assert until_closed(sock).startswith(b"HTTP/1.1 408")


# --- memory


def test_capacity() -> None:
    for capacity, left in ((3 * MIB, {"b"}), (4 * MIB, {"a", "b"})):
        with running(capacity_bytes=capacity, **INLINE) as daemon:
            daemon.dummies("a", "b", size_bytes=2 * MIB)
            daemon.infer("a")
            daemon.infer("b")
            assert daemon.loaded() == left


def test_memory_limit() -> None:
    with running(memory_limit_bytes=100 * MIB, **INLINE) as daemon:
        assert daemon.metrics()["modelmesh_instance_capacity_bytes"] == 70 * MIB


def test_default_model_size(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with running(default_model_size_bytes=777, **GATED) as daemon, closed(gate):
        daemon.gated(gate, "unknown")
        daemon.load("unknown", sync=False)
        until(lambda: daemon.metrics()["modelmesh_instance_used_bytes"] == 777)


@pytest.mark.parametrize(("policy", "goes"), [("lru", "dear"), ("gdsf", "cheap")])
def test_eviction_policy(policy: str, goes: str) -> None:
    """`dear` takes long to load and was used first; `cheap` was used last."""
    for _ in range(3):
        with running(eviction_policy=policy, capacity_bytes=2 * MIB, **INLINE) as daemon:
            daemon.dummies("dear", size_bytes=MIB, load_s=0.1)
            daemon.dummies("cheap", "third", size_bytes=MIB)
            daemon.infer("dear")
            dear_ms = daemon.metrics()[LOADS_MS]
            daemon.infer("cheap")
            if daemon.metrics()[LOADS_MS] > 1.5 * dear_ms:
                continue  # the machine stood still in between: it was dear as well
            until(lambda: fates(daemon).count("evict") == 1)
            until(lambda: "too young" not in fates(daemon))
            daemon.infer("third")
            assert daemon.loaded() == {"dear", "cheap", "third"} - {goes}
            return
    pytest.fail("the machine stood still each time")


def fates(daemon: Client) -> list[str]:
    return [candidate.verdict for candidate in daemon.explain("third").eviction_order]


def test_rate_half_life() -> None:
    with running(rate_half_life_s=0.1, **INLINE) as quick, running(**INLINE) as slow:
        for daemon in (quick, slow):
            daemon.dummies("m")
            daemon.infer("m")
        before = [worth(quick), worth(slow)]
        until(lambda: worth(quick) < before[0] / 16)
        assert worth(slow) > before[1] * 0.9


def worth(daemon: Client) -> float:
    return float(daemon.explain("m").eviction_order[0].worth)


# --- loading


@pytest.mark.parametrize("loads", [1, 2])
def test_load_concurrency(loads: int, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with running(load_concurrency=loads, **GATED) as daemon:
        with closed(gate):
            daemon.gated(gate, "a", "b")
            calls = [daemon.begin(name) for name in "ab"]
            loader = daemon.app.instance._loader
            until(lambda: (loader.under_way, loader.queued) == (2, 2 - loads))
            until(lambda: daemon.metrics()["modelmesh_instance_used_bytes"] == loads * MIB)
            assert [daemon.state(name) for name in "ab"] == ["LOADING", "LOADING"]
        assert [answer_of(call.result())["model"] for call in calls] == ["a", "b"]


def attempts(daemon: Client) -> float:
    return daemon.metrics()["modelmesh_loadmodel_failure"]


def test_load_failure_expiry() -> None:
    for expiry_s in ever_longer(0.5):
        with running(load_failure_expiry_s=expiry_s, max_load_failures=1, **INLINE) as daemon:
            daemon.dummies("broken", load_error="no")
            began = time.monotonic()
            for _ in range(2):
                assert daemon.refused("broken").why == ("FAILED_PRECONDITION", "LOAD_FAILED")
            before = attempts(daemon)
            if time.monotonic() - began > expiry_s:
                continue
            assert before == 1
            until(lambda: daemon.state("broken") == "NOT_LOADED")
            daemon.refused("broken")
            assert attempts(daemon) == 2
            return


def test_max_load_failures() -> None:
    for most in (1, 2):
        with running(max_load_failures=most, **INLINE) as daemon:
            daemon.dummies("broken", load_error="no")
            for _ in range(4):
                daemon.refused("broken")
            assert attempts(daemon) == most


def test_space_wait() -> None:
    with running(space_wait_s=FEW_S, capacity_bytes=3 * MIB, **INLINE) as daemon:
        daemon.dummies("busy", size_bytes=2 * MIB, predict_s=LONG_S)
        daemon.dummies("next", size_bytes=2 * MIB)
        call = daemon.begin("busy", timeout_s=LONG_S)
        until(lambda: daemon.models()["busy"].in_use == 1)
        refusal = daemon.refused("next")
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "NO_SPACE")
        assert f"within {FEW_S} s" in refusal.message
        assert not call.done()
        call.cancel()
        until(lambda: daemon.begin("next").exception() is None)


def test_max_queued_loads(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with running(max_queued_loads=1, **GATED) as daemon:
        with closed(gate):
            daemon.gated(gate, "a", "b")
            call = daemon.begin("a")
            until(lambda: daemon.state("a") == "LOADING")
            assert daemon.refused("b").why == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert answer_of(call.result())["model"] == "a"
        assert daemon.infer("b")["model"] == "b"


# --- registry


def test_kv_store(tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.db"
    for kv_store, found in (("memory", set()), (f"sqlite:{file}", {"kept"})):
        with running(kv_store=kv_store, **INLINE) as daemon:
            daemon.dummies("kept")
        with running(kv_store=kv_store, **INLINE) as daemon:
            assert set(daemon.models()) == found
    assert file.exists()


def test_data_dir(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with running(kv_store="", data_dir=str(tmp_path / name), **INLINE) as daemon:
            assert set(daemon.models()) == set()
            daemon.dummies(f"model-{name}")
    with running(kv_store="", data_dir=str(tmp_path / "one"), **INLINE) as daemon:
        assert set(daemon.models()) == {"model-one"}


STATIC: Final = json.dumps(
    [{"modelId": "static", "modelInfo": {"type": "dummy"}, "ensureLoaded": True}]
)


def test_auto_register() -> None:
    with running(auto_register=STATIC, **INLINE) as daemon:
        assert daemon.loaded() == {"static"}


def test_auto_register_path(tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    file.write_text(STATIC)
    with running(auto_register_path=str(file), **INLINE) as daemon:
        assert daemon.loaded() == {"static"}


# --- operation


def test_instance_id() -> None:
    for chosen, told in (("pod-7", "pod-7"), ("", socket.gethostname()[-12:])):
        assert location(instance_id=chosen) == told


def test_pod_name() -> None:
    assert location(pod_name="serving-0-7d9c5f-abcde") == "7d9c5f-abcde"
    assert location(pod_name="serving-0-7d9c5f-abcde", instance_id="mine") == "mine"


def location(**names: str) -> str:
    """What a daemon with these names says of where a copy is."""
    with running(**names, **INLINE) as daemon:
        daemon.dummies("m")
        daemon.load("m")
        (copy,) = daemon.status("m").modelCopyInfos
        return str(copy.location)


def test_shutdown_timeout() -> None:
    """What still runs at the end of the bound is cut off; what ends within it is answered."""
    with running(shutdown_timeout_s=FEW_S, **INLINE) as daemon:
        daemon.dummies("slow", predict_s=LONG_S)
        call = daemon.begin("slow", timeout_s=LONG_S)
        until(lambda: daemon.models()["slow"].in_use == 1)
        daemon.stop()
        assert refusal_of(call).code == "UNAVAILABLE"
    for predict_s in ever_longer(3 * FEW_S):
        with running(shutdown_timeout_s=LONG_S, **INLINE) as daemon:
            daemon.dummies("slow", predict_s=predict_s)
            call = daemon.begin("slow", timeout_s=LONG_S)
            until(lambda: call.done() or daemon.models()["slow"].in_use == 1)  # noqa: B023
            if call.done():
                continue
            daemon.stop()
            assert answer_of(call.result())["model"] == "slow"
            return


def test_log_level() -> None:
    port = free_port()
    ports = {**FREE_PORTS, "MM_PROBE_PORT": str(port), "KV_STORE": "memory", "MM_TIER": "inline"}
    with process(**ports, MM_LOG_LEVEL="error") as quiet:
        until(lambda: is_listening("127.0.0.1", port))
        quiet.signal(15)
        assert quiet.wait() == 0
        assert quiet.lines == []


def test_log_format() -> None:
    port = free_port()
    ports = {**FREE_PORTS, "MM_PROBE_PORT": str(port), "KV_STORE": "memory", "MM_TIER": "inline"}
    with process(**ports, MM_LOG_FORMAT="text") as started:
        until(lambda: any(" ready " in line for line in started.lines))
        assert not any(line.startswith("{") for line in started.lines)
        started.signal(15)
        assert started.wait() == 0


def test_log_each_invoke() -> None:
    with child(MM_TIER="inline", MM_LOG_EACH_INVOKE="true") as daemon:
        daemon.dummies("m")
        daemon.infer("m")
        until(lambda: daemon.process.events("model invoked"))
        (line,) = daemon.process.events("model invoked")
        assert (line["model"], line["method"], line["code"]) == ("m", "ModelInfer", "OK")
    with child(MM_TIER="inline") as daemon:
        daemon.dummies("m")
        daemon.infer("m")
        assert daemon.process.events("model invoked") == []


def test_status_codes() -> None:
    with running(status_codes="modelmesh", **INLINE) as daemon, running(**INLINE) as ours:
        for each in (daemon, ours):
            each.dummies("broken", load_error="no")
        assert ours.refused("broken").why == ("FAILED_PRECONDITION", "LOAD_FAILED")
        assert daemon.refused("broken").why == ("INTERNAL", "")
        assert daemon.refused("nobody").code == "NOT_FOUND"
        assert ours.predict("broken").status == 422
        assert daemon.predict("broken").status == 500
