"""`modelmesh up` as a real process, with fake daemons: it keeps them, and takes them along."""

import json
import os
import signal
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from modelmesh.cli.etcd_process import programs
from modelmesh.cli.up.fleet import AGAIN_S
from tests.cli.fleets import HOST, Run, alive, fleet, free_base, get, until


def gone(pids: set[int]) -> None:
    until(lambda: not any(alive(pid) for pid in pids))


def test_all_are_ready_and_the_file_says_where(tmp_path: Path) -> None:
    with fleet(tmp_path / "d", environment={"MM_LOG_LEVEL": "debug"}) as up:
        document = up.ready()
        assert document["etcd"] == {"url": "http://127.0.0.1:1", "pid": None}
        assert [pod["id"] for pod in document["pods"]] == ["a", "b", "c"]
        for pod in document["pods"]:
            assert set(pod) == {"id", "pid", "grpc", "rest", "metrics"}
            assert get(pod["metrics"], "/ready") == 200
            environment = Path(f"/proc/{pod['pid']}/environ").read_text().split("\0")
            assert f"MM_INSTANCE_ID={pod['id']}" in environment
            assert "MM_LOG_LEVEL=debug" in environment
        for name, face in (("gRPC", "grpc"), ("REST", "rest")):
            ports = " ".join(f"{pod['id']}={pod[face]}" for pod in document["pods"])
            assert f"{name} {ports}, " in up.said
        until(lambda: "a: pid" in up.said)
        assert "runs as" not in up.said, "a child's output is in the table"
        assert "a runs as" in (up.folder / "a.log").read_text()
        assert "\x1b" not in up.said, "plain lines where there is no terminal"


@pytest.mark.parametrize("how", [0, 1, -9], ids=["exit-0", "exit-1", "kill-9"])
def test_one_that_ends_is_started_again_in_the_same_place(tmp_path: Path, how: int) -> None:
    with fleet(tmp_path / "d") as up:
        before = up.ready()["pods"]
        old = before[1]
        if how == -9:
            os.kill(old["pid"], signal.SIGKILL)
        else:
            get(old["rest"], f"/end/{how}")
        new_pid = up.replaced("b", old["pid"])
        assert not alive(old["pid"])
        assert up.file["pods"] == [before[0], {**old, "pid": new_pid}, before[2]]
        until(lambda: get(old["metrics"], "/ready") == 200)
        until(lambda: f"b: pid {new_pid}, ready" in up.said)
        ended = f"was killed by signal {-how}" if how < 0 else f"ended with status {how}"
        assert f"b {ended}; it is started again at once" in up.said


def test_one_that_was_ready_may_end_many_times_and_waits_for_no_pause(tmp_path: Path) -> None:
    with fleet(tmp_path / "d", pods=1) as up:
        pod = up.ready()["pods"][0]
        for _ in range(5):
            until(partial(_is_ready, up, pod["pid"]))
            os.kill(pod["pid"], signal.SIGKILL)
            pod["pid"] = up.replaced("a", pod["pid"])
        assert up.said.count("started again at once") == 5


def _is_ready(up: Run, pid: int) -> bool:
    return f"a: pid {pid}, ready" in up.said


def test_readers_see_a_whole_file_while_it_is_rewritten(tmp_path: Path) -> None:
    with fleet(tmp_path / "d", pods=2) as up:
        up.ready()
        path, seen = up.folder / "fleet.json", set()
        for _ in range(3):
            old = up.pids["a"]
            os.kill(old, signal.SIGKILL)

            def changed(old: int = old) -> bool:
                document = json.loads(path.read_text())  # raises if it is half of one
                seen.add(document["pods"][0]["pid"])
                return bool(document["pods"][0]["pid"] != old)

            until(changed)
        assert len(seen) == 4
        assert not list(up.folder.glob("*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_of_them_well(tmp_path: Path, number: signal.Signals) -> None:
    with fleet(tmp_path / "d") as up:
        up.ready()
        pids = up.all_pids()
        assert all(alive(pid) for pid in pids)
        assert up.stop(number) == 0
        assert not any(alive(pid) for pid in pids), "they ended before it did"
        for pod in "abc":
            assert f"{pod} ends well" in (up.folder / f"{pod}.log").read_text()
        assert not (up.folder / "fleet.json").exists()


def test_a_signal_during_the_start_ends_what_has_started(tmp_path: Path) -> None:
    with fleet(tmp_path / "d", environment={"FAKE_NEVER_READY": "c"}) as up:
        logs = [up.folder / f"{pod}.log" for pod in "abc"]
        until(lambda: all(log.exists() and " runs as " in log.read_text() for log in logs))
        pids = {int(log.read_text().split()[-1]) for log in logs}
        assert all(alive(pid) for pid in pids)
        assert not (up.folder / "fleet.json").exists(), "not all are ready"
        assert up.stop() == 0
        assert not any(alive(pid) for pid in pids)


def test_a_second_ctrl_c_kills(tmp_path: Path) -> None:
    with fleet(tmp_path / "d", environment={"FAKE_DEAF": "b"}) as up:
        up.ready()
        pids = up.pids
        up.process.send_signal(signal.SIGINT)
        until(lambda: "Ctrl-C again kills" in up.said)
        until(lambda: not alive(pids["a"]) and not alive(pids["c"]))
        assert alive(pids["b"]), "it does not hear"
        first = time.monotonic()
        until(lambda: time.monotonic() > first + AGAIN_S)  # sooner, it is taken for the same
        assert up.stop() == 130
        assert not alive(pids["b"])


def test_kill_9_leaves_nothing(tmp_path: Path) -> None:
    with fleet(tmp_path / "d") as up:
        up.ready()
        pids = up.all_pids()
        up.process.kill()
        assert up.process.wait(60) == -signal.SIGKILL
        gone(pids)
    with fleet(tmp_path / "d", base=up.base) as again:
        assert again.ready()["pods"][0]["pid"] not in pids


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with fleet(tmp_path / "d", pods=1) as first:
        first.ready()
        with fleet(tmp_path / "d", pods=1) as second:
            assert second.process.wait(60) == 1
            holder = f"is in use by another `modelmesh up` (process {first.process.pid})"
            assert holder in second.said
            assert "choose another --data-dir" in second.said
        assert alive(first.pids["a"])
        assert first.file["pods"][0]["id"] == "a", "its file is as it was"


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path) -> None:
    base = free_base()
    with socket.create_server((HOST, base + 9)), fleet(tmp_path / "d", base=base) as up:
        assert up.process.wait(60) == 1
        assert f"port {base + 9}, for REST of b, is in use" in up.said
        assert "choose another --base-port" in up.said
        assert not (up.folder / "a.log").exists()


def test_one_that_never_starts_ends_the_fleet_with_its_last_words(tmp_path: Path) -> None:
    with fleet(tmp_path / "d", environment={"FAKE_BROKEN": "b"}) as up:
        assert up.process.wait(60) == 1
        assert "b ended with status 3 (no such thing); it is started again" in up.said
        assert "b does not start: " in up.said
        assert "no such thing" in up.said
        assert f"see {up.folder / 'b.log'}" in up.said
        started = (up.folder / "a.log").read_text()
        assert not alive(int(started.split("runs as ")[1].split()[0]))


def test_settings_that_make_no_sense_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with fleet(tmp_path / "d", environment={"MM_MAX_CONCURRENT_CALLS": "many"}) as up:
        assert up.process.wait(60) == 2
        assert "MM_MAX_CONCURRENT_CALLS must be calls, not 'many'" in up.said
        assert not up.folder.exists()


@pytest.fixture
def own_etcd() -> Any:
    found = programs()
    if not found:
        pytest.skip("there is no etcd on this machine")
    return found[0]


def test_an_etcd_of_its_own_comes_first_and_goes_last(tmp_path: Path, own_etcd: Any) -> None:
    with fleet(tmp_path / "d", pods=2, etcd="") as up:
        document = up.ready()
        etcd = document["etcd"]
        assert etcd["url"] == f"http://127.0.0.1:{up.base}"
        assert get(up.base, "/health") == 200
        assert alive(etcd["pid"])
        os.kill(etcd["pid"], signal.SIGKILL)
        until(lambda: up.file["etcd"]["pid"] != etcd["pid"])
        until(lambda: get(up.base, "/health") == 200)
        pids = up.all_pids()
        assert len(pids) == 3
        assert up.stop() == 0
        assert not any(alive(pid) for pid in pids)
    with fleet(tmp_path / "d", pods=1, etcd="") as elsewhere:  # the same data at other ports
        elsewhere.ready()
        pids = elsewhere.all_pids()
        elsewhere.process.kill()
        gone(pids)
