"""A daemon as its operator knows it: how it starts, refuses to, is asked to go, and dies."""

import json
import signal
import time
from pathlib import Path
from typing import Final

import grpc
import pytest

from modelmesh.settings import NO_EFFECT
from tests.app.client import Client, answer_of, until
from tests.app.daemon import FREE_PORTS, Child, Process, child, process, running
from tests.app.sockets import free_port
from tests.app.traffic import traffic

INLINE: Final = {"MM_TIER": "inline"}  # where models run does not matter: it starts faster
# How calls end that a daemon never began: nobody listens any more, or the connection was closed
# while it was idle for the daemon. That none of them began is what the daemon's own tally shows.
NOT_BEGUN: Final = {
    "UNAVAILABLE",
    "ConnectionRefusedError",
    "ConnectionResetError",
    "RemoteDisconnected",
    "BrokenPipeError",
}


def refused_start(started: Process) -> str:
    """Why it does not start: one sentence on stderr, status 1, and nothing is left."""
    assert started.wait() == 1
    assert started.family() == {}
    *_, last = started.lines
    assert last.startswith("modelmesh: "), started.lines
    assert not any("Traceback" in line for line in started.lines)
    return last.removeprefix("modelmesh: ")


# --- starting


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with child(tmp_path, **INLINE) as first:
        with process(**FREE_PORTS, **INLINE, MM_DATA_DIR=str(tmp_path)) as second:
            assert str(tmp_path) in refused_start(second)
        first.dummies("m")
        assert first.infer("m")["model"] == "m"


def test_a_port_in_use_is_refused() -> None:
    with child(**INLINE) as first:
        taken = str(first.ports["grpc"])
        chosen = {**FREE_PORTS, **INLINE, "KV_STORE": "memory", "MM_SVC_GRPC_PORT": taken}
        with process(**chosen) as second:
            assert taken in refused_start(second)


def test_a_zygote_that_cannot_start_stops_the_start() -> None:
    chosen = {**FREE_PORTS, "KV_STORE": "memory", "MM_RUNTIMES": "nonsense:Class"}
    with process(**chosen) as started:
        assert "nonsense:Class" in refused_start(started)


def test_a_capacity_without_room_for_a_model_stops_the_start() -> None:
    chosen = {**FREE_PORTS, "KV_STORE": "memory", "MM_CAPACITY_BYTES": "1000"}
    with process(**chosen) as started:
        assert refused_start(started).startswith(
            "MM_CAPACITY_BYTES gives 1000 bytes to models, too few"
        )


def test_a_variable_of_the_java_machine_is_told_once_and_stops_nothing() -> None:
    with process(**FREE_PORTS, **INLINE, KV_STORE="memory", HEAP_SIZE_MB="640") as started:
        started.event("ready")
        (told,) = started.events("a variable has no effect")
        assert (told["level"], told["variable"]) == ("warning", "HEAP_SIZE_MB")
        assert told["why"] == NO_EFFECT["HEAP_SIZE_MB"]


def test_it_is_not_ready_before_its_static_models_are() -> None:
    port = free_port()
    slow = {"modelId": "slow", "modelInfo": {"type": "dummy", "key": '{"load_s": 1.0}'}}
    models = json.dumps([{**slow, "ensureLoaded": True}])
    chosen = {**FREE_PORTS, "KV_STORE": "memory", **INLINE, "MM_PROBE_PORT": str(port)}
    with process(**chosen, MM_AUTO_REGISTER_MODELS=models) as started:
        probe = Client({"probe": port, "grpc": port})
        until(lambda: answers(probe, "/live") == 200)
        assert answers(probe, "/ready") == 503
        assert started.events("ready") == []
        daemon = Child(started)
        assert daemon.loaded() == {"slow"}
        assert answers(probe, "/ready") == 200
        daemon.close()
        probe.close()


def answers(daemon: Client, path: str) -> int:
    """The status of a probe; 0 if nobody listens yet."""
    try:
        return daemon.rest("GET", path, on="probe").status
    except ConnectionError:
        return 0


# --- going


@pytest.mark.parametrize("tier", ["auto", "inline"])
def test_a_call_whose_caller_leaves_is_over(tier: str) -> None:
    """It no longer counts, and its model may be unloaded."""
    with running(tier=tier) as daemon:
        daemon.dummies("slow", predict_s=1.0)
        daemon.load("slow")
        assert daemon.refused("slow", timeout_s=0.3).code == "DEADLINE_EXCEEDED"
        until(lambda: daemon.app.instance.open_calls == 0)
        assert daemon.models()["slow"].in_use == 0
        daemon.unload("slow")
        assert daemon.loaded() == set()


@pytest.mark.parametrize("tier", ["shared", "inline"])
def test_a_drain_under_traffic_fails_no_call_that_began(tier: str) -> None:
    """Connections age here within a second, so that the drain can let each of them go."""
    chosen = {"MM_TIER": tier, "SHUTDOWN_TIMEOUT_MS": "4000", "MM_LOG_EACH_INVOKE": "true"}
    with child(MM_SVC_GRPC_MAX_CONNECTION_AGE_SECS="1", **chosen) as daemon:
        daemon.dummies("m", predict_s=0.01)
        daemon.load("m")
        with traffic(daemon, "m", callers=4) as seen:
            until(lambda: seen.answered > 200)
            started = time.monotonic()
            daemon.process.signal(signal.SIGTERM)
            assert daemon.process.wait() == 0
            assert time.monotonic() - started < 4.0 + 2.0
        invoked = daemon.process.events("model invoked")
        assert {event["code"] for event in invoked} == {"OK"}
        assert len(invoked) == seen.answered
        assert set(seen.ends) <= NOT_BEGUN


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_runs_end(number: int) -> None:
    """A running call, one that waits for a load, and a second signal in between."""
    with child() as daemon:
        daemon.dummies("slow", predict_s=1.0)
        daemon.dummies("cold", load_s=1.0)
        daemon.load("slow")
        calls = {name: daemon.begin(name) for name in ("slow", "cold")}
        until(lambda: daemon.models()["slow"].in_use == 1 and daemon.state("cold") == "LOADING")
        daemon.process.signal(number)
        until(lambda: answers(daemon, "/ready") == 503)
        assert daemon.rest("GET", "/ready", on="probe").body == b"shutting down\n"
        daemon.process.signal(number)
        for name, call in calls.items():
            assert answer_of(call.result())["model"] == name
        assert daemon.process.wait() == 0


def test_a_load_that_nobody_waits_for_delays_no_stop() -> None:
    with child() as daemon:
        daemon.dummies("slow", load_s=60.0)
        daemon.load("slow", sync=False)
        until(lambda: daemon.state("slow") == "LOADING")
        daemon.process.signal(signal.SIGTERM)
        assert daemon.process.wait(15) == 0


def test_a_start_is_given_up_by_a_signal() -> None:
    slow = {"modelId": "slow", "modelInfo": {"type": "dummy", "key": '{"load_s": 60.0}'}}
    models = json.dumps([{**slow, "ensureLoaded": True}])
    with process(**FREE_PORTS, KV_STORE="memory", MM_AUTO_REGISTER_MODELS=models) as started:
        started.event("zygote ready")
        until(lambda: "mm-host-1" in started.family().values())
        started.signal(signal.SIGTERM)
        assert started.wait(15) == 0
        assert started.family() == {}
        assert started.events("ready") == []


def test_a_daemon_that_is_killed_leaves_nothing_and_starts_again(tmp_path: Path) -> None:
    with process(**FREE_PORTS, MM_DATA_DIR=str(tmp_path)) as killed:
        daemon = Child(killed)
        daemon.dummies("m")
        daemon.dummies("slow", predict_s=60.0)
        daemon.load("m")
        call = daemon.begin("slow")
        until(lambda: daemon.models()["slow"].in_use == 1)
        names = set(killed.family().values())
        assert {"mm-zygote", "mm-keeper-1", "mm-host-1"} <= names
        killed.signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        assert call.exception().code() is grpc.StatusCode.UNAVAILABLE
        until(lambda: not killed.family())
        daemon.close()
    with child(tmp_path) as again:
        assert set(again.models()) == {"m", "slow"}
        assert again.infer("m")["model"] == "m"


# --- at rest


def test_an_idle_daemon_is_small_and_holds_no_numeric_library() -> None:
    """Asked of the process that an operator starts, once it has served."""
    with child() as daemon:
        daemon.dummies("m")
        daemon.infer("m")
        assert daemon.predict("m").status == 200
        process_of = Path(f"/proc/{daemon.pid}")
        maps = (process_of / "maps").read_text()
        assert not [name for name in ("numpy", "sklearn", "pandas") if f"/{name}/" in maps]
        lines = (process_of / "status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        assert int(status["VmRSS"].split()[0]) * 1024 < 80_000_000
