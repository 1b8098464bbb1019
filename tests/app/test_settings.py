"""Every row of settings.py: another value, and the daemon behaves otherwise.

Here is what does not depend on where models run: they run in the daemon's process, which starts in
milliseconds. What is about hosts and external runtimes is in test_settings_runtime.py.
"""

import json
import socket
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from modelmesh.errors import MeshError
from modelmesh.pb import inference_pb2
from tests.app.client import Client, answer_of, refusal_of, until
from tests.app.daemon import FREE_PORTS, child, process, running
from tests.app.sockets import connected, free_port, is_listening, until_closed

MIB: Final = 1 << 20
FEW_S: Final = 0.3
INLINE: Final[dict[str, Any]] = {"tier": "inline"}


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
    with running(max_connection_age_s=0.2, max_connection_age_grace_s=0.2, **INLINE) as daemon:
        daemon.dummies("long", predict_s=20.0)
        assert daemon.refused("long").code == "UNAVAILABLE"
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
        daemon.dummies("slow", predict_s=1.0)
        daemon.dummies("other")
        daemon.load("slow")
        calls = [daemon.begin("slow") for _ in range(2)]
        until(lambda: daemon.app.instance.open_calls == 2)
        assert daemon.refused("other").why == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert daemon.predict("other").status == 429
        assert [answer_of(call.result())["model"] for call in calls] == ["slow", "slow"]
        assert daemon.infer("other")["model"] == "other"


def test_max_waiting_bytes() -> None:
    with running(max_waiting_bytes=1000, **INLINE) as daemon:
        daemon.dummies("slow", load_s=0.5)
        small = daemon.begin("slow", padding=500)
        until(lambda: daemon.state("slow") == "LOADING")
        assert daemon.refused("slow", padding=500).why == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert answer_of(small.result())["model"] == "slow"
        assert daemon.infer("slow", padding=5000)["model"] == "slow"


def test_max_inflight() -> None:
    with running(max_inflight_per_model=1, **INLINE) as daemon:
        daemon.dummies("slow", "other", predict_s=0.5)
        call = daemon.begin("slow")
        until(lambda: daemon.models()["slow"].in_use == 1)
        assert daemon.refused("slow").why == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert daemon.infer("other")["model"] == "other"
        assert answer_of(call.result())["model"] == "slow"


def test_multi_parallelism() -> None:
    with running(multi_parallelism=2, **INLINE) as daemon:
        daemon.dummies("a", "b", "c", predict_s=0.3)
        named = [("mm-model-id", name) for name in "abc"]
        call = daemon.begin("", metadata=named)
        until(lambda: sum(row.in_use for row in daemon.models().values()) == 2)
        assert daemon.models()["c"].in_use == 0
        merged = inference_pb2.ModelInferResponse.FromString(call.result())
        said = [
            list(each.contents.bytes_contents) for each in merged.outputs if each.name == "model"
        ]
        assert said == [[b"a"], [b"b"], [b"c"]]


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
    with running(http_idle_s=0.2, **INLINE) as daemon, connected(daemon) as sock:
        sock.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert until_closed(sock).startswith(b"HTTP/1.1 200")


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


def test_default_model_size() -> None:
    with running(default_model_size_bytes=777, **INLINE) as daemon:
        daemon.dummies("unknown", load_s=0.5)
        daemon.load("unknown", sync=False)
        until(lambda: daemon.metrics()["modelmesh_instance_used_bytes"] == 777)


def test_eviction_policy() -> None:
    """`dear` takes long to load and was used first; `cheap` was used last."""
    for policy, goes in (("lru", "dear"), ("gdsf", "cheap")):
        with running(eviction_policy=policy, capacity_bytes=2 * MIB, **INLINE) as daemon:
            daemon.dummies("dear", size_bytes=MIB, load_s=0.1)
            daemon.dummies("cheap", "third", size_bytes=MIB)
            daemon.infer("dear")
            daemon.infer("cheap")
            until(lambda daemon=daemon: fates(daemon).count("evict") == 1)  # type: ignore[misc]
            until(lambda daemon=daemon: "too young" not in fates(daemon))  # type: ignore[misc]
            daemon.infer("third")
            assert daemon.loaded() == {"dear", "cheap", "third"} - {goes}


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


def test_load_concurrency() -> None:
    for loads in (1, 2):
        with running(load_concurrency=loads, **INLINE) as daemon:
            daemon.dummies("a", "b", size_bytes=MIB, load_s=0.3)
            calls = [daemon.begin(name) for name in "ab"]
            until(lambda daemon=daemon: all(daemon.state(x) == "LOADING" for x in "ab"))  # type: ignore[misc]
            assert daemon.metrics()["modelmesh_instance_used_bytes"] == loads * MIB
            assert [answer_of(call.result())["model"] for call in calls] == ["a", "b"]


def attempts(daemon: Client) -> float:
    return daemon.metrics()["modelmesh_loadmodel_failure"]


def test_load_failure_expiry() -> None:
    with running(load_failure_expiry_s=0.5, max_load_failures=1, **INLINE) as daemon:
        daemon.dummies("broken", load_error="no")
        for _ in range(2):
            assert daemon.refused("broken").why == ("FAILED_PRECONDITION", "LOAD_FAILED")
        assert attempts(daemon) == 1
        until(lambda: daemon.state("broken") == "NOT_LOADED")
        daemon.refused("broken")
        assert attempts(daemon) == 2


def test_max_load_failures() -> None:
    for most in (1, 2):
        with running(max_load_failures=most, **INLINE) as daemon:
            daemon.dummies("broken", load_error="no")
            for _ in range(4):
                daemon.refused("broken")
            assert attempts(daemon) == most


def test_space_wait() -> None:
    with running(space_wait_s=FEW_S, capacity_bytes=3 * MIB, **INLINE) as daemon:
        daemon.dummies("busy", size_bytes=2 * MIB, predict_s=1.5)
        daemon.dummies("next", size_bytes=2 * MIB)
        call = daemon.begin("busy")
        until(lambda: daemon.models()["busy"].in_use == 1)
        refusal = daemon.refused("next")
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "NO_SPACE")
        assert f"within {FEW_S} s" in refusal.message
        assert answer_of(call.result())["model"] == "busy"
        assert daemon.infer("next")["model"] == "next"


def test_max_queued_loads() -> None:
    with running(max_queued_loads=1, **INLINE) as daemon:
        daemon.dummies("a", "b", load_s=0.5)
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
        daemon.dummies("slow", predict_s=20.0)
        call = daemon.begin("slow")
        until(lambda: daemon.models()["slow"].in_use == 1)
        daemon.stop()
        assert refusal_of(call).code == "UNAVAILABLE"
    with running(**INLINE) as daemon:
        daemon.dummies("slow", predict_s=3 * FEW_S)
        call = daemon.begin("slow")
        until(lambda: daemon.models()["slow"].in_use == 1)
        daemon.stop()
        assert answer_of(call.result())["model"] == "slow"


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
