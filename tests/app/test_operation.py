"""A daemon as its operator knows it: how it starts, refuses to, is asked to go, and dies."""

import json
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import grpc
import pytest

from modelmesh.settings import NO_EFFECT
from tests.app.client import Client, answer_of, ever_longer, until
from tests.app.daemon import FREE_PORTS, Child, Process, child, process, running
from tests.app.runtimes import closed
from tests.app.sockets import free_port
from tests.app.traffic import traffic

INLINE: Final = {"MM_TIER": "inline"}  # where models run does not matter: it starts faster
GATED: Final = {"MM_RUNTIMES": "tests.app.runtimes:Gated"}
DRAIN_S: Final = 60.0
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
    until(lambda: not started.family())
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


def test_it_is_not_ready_before_its_static_models_are(tmp_path: Path) -> None:
    port, gate = free_port(), tmp_path / "gate"
    slow = {"modelId": "slow", "modelInfo": {"type": "gated", "key": str(gate)}}
    models = json.dumps([{**slow, "ensureLoaded": True}])
    chosen = {**FREE_PORTS, "KV_STORE": "memory", **INLINE, **GATED, "MM_PROBE_PORT": str(port)}
    with ExitStack() as stack, ExitStack() as loading:
        loading.enter_context(closed(gate))
        started = stack.enter_context(process(**chosen, MM_AUTO_REGISTER_MODELS=models))
        probe = Client({"probe": port, "grpc": port})
        until(lambda: answers(probe, "/live") == 200)
        assert answers(probe, "/ready") == 503
        assert started.events("ready") == []
        loading.close()
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
        daemon.dummies("slow", predict_s=300.0)
        daemon.load("slow")
        assert daemon.refused("slow", timeout_s=0.3).code == "DEADLINE_EXCEEDED"
        until(lambda: daemon.app.instance.open_calls == 0)
        assert daemon.models()["slow"].in_use == 0
        daemon.unload("slow")
        assert daemon.loaded() == set()


@pytest.mark.parametrize("tier", ["shared", "inline"])
def test_a_drain_under_traffic_fails_no_call_that_began(tier: str) -> None:
    """Connections age here within a second, so that the drain can let each of them go."""
    chosen = {
        "MM_TIER": tier, "SHUTDOWN_TIMEOUT_MS": f"{DRAIN_S * 1000:.0f}",
        "MM_LOG_EACH_INVOKE": "true",
    }  # fmt: skip
    with child(MM_SVC_GRPC_MAX_CONNECTION_AGE_SECS="1", **chosen) as daemon:
        daemon.dummies("m", predict_s=0.01)
        daemon.load("m")
        with traffic(daemon, "m", callers=4) as seen:
            until(lambda: seen.answered > 200)
            started = time.monotonic()
            daemon.process.signal(signal.SIGTERM)
            assert daemon.process.wait(DRAIN_S) == 0
            assert time.monotonic() - started < DRAIN_S, "it was cut off at the bound"
        invoked = daemon.process.events("model invoked")
        assert {event["code"] for event in invoked} == {"OK"}
        assert len(invoked) == seen.answered
        assert set(seen.ends) <= NOT_BEGUN


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_runs_end(number: int, tmp_path: Path) -> None:
    """A running call, one that waits for a load, and a second signal in between."""
    gate, patient = tmp_path / "gate", {"SHUTDOWN_TIMEOUT_MS": f"{DRAIN_S * 1000:.0f}"}
    for predict_s in ever_longer(1.0):
        with child(**GATED, **patient) as daemon:
            daemon.dummies("slow", predict_s=predict_s)
            daemon.gated(gate, "cold")
            daemon.load("slow")
            with closed(gate):
                cold, slow = daemon.begin("cold"), daemon.begin("slow", timeout_s=2 * DRAIN_S)
                until(lambda: daemon.state("cold") == "LOADING")
                until(lambda: slow.done() or daemon.models()["slow"].in_use == 1)  # noqa: B023
                if slow.done():
                    continue
                daemon.process.signal(number)
                until(lambda: answers(daemon, "/ready") == 503)
                assert daemon.rest("GET", "/ready", on="probe").body == b"shutting down\n"
                daemon.process.signal(number)
            for name, call in (("slow", slow), ("cold", cold)):
                assert answer_of(call.result())["model"] == name
            assert daemon.process.wait() == 0
            return


def test_a_load_that_nobody_waits_for_delays_no_stop() -> None:
    with child(SHUTDOWN_TIMEOUT_MS="300000") as daemon:
        daemon.dummies("slow", load_s=300.0)
        daemon.load("slow", sync=False)
        until(lambda: daemon.state("slow") == "LOADING")
        daemon.process.signal(signal.SIGTERM)
        assert daemon.process.wait(60) == 0


def test_a_start_is_given_up_by_a_signal() -> None:
    slow = {"modelId": "slow", "modelInfo": {"type": "dummy", "key": '{"load_s": 300.0}'}}
    models = json.dumps([{**slow, "ensureLoaded": True}])
    with process(**FREE_PORTS, KV_STORE="memory", MM_AUTO_REGISTER_MODELS=models) as started:
        started.event("zygote ready")
        until(lambda: "mm-host-1" in started.family().values())
        started.signal(signal.SIGTERM)
        assert started.wait(60) == 0
        until(lambda: not started.family())
        assert started.events("ready") == []


def test_a_daemon_that_is_killed_leaves_nothing_and_starts_again(tmp_path: Path) -> None:
    with process(**FREE_PORTS, MM_DATA_DIR=str(tmp_path)) as killed:
        daemon = Child(killed)
        daemon.dummies("m")
        daemon.dummies("slow", predict_s=300.0)
        daemon.load("m")
        call = daemon.begin("slow", timeout_s=300.0)
        until(lambda: daemon.models()["slow"].in_use == 1)
        names = {"mm-zygote", "mm-keeper-1", "mm-host-1"}
        until(lambda: names <= set(killed.family().values()))
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
