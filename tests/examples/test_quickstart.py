"""`make run`, as a newcomer meets it: real make, real processes, the printed lines obeyed."""

import contextlib
import http.client
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAST_LINE = "Ctrl-C ends everything."
PORTS = ("grpc", "rest", "metrics")
END_S = 30.0


def free_ports() -> dict[str, int]:
    """Three ports that nobody has at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return dict(zip(PORTS, ports, strict=True))


def make_run(ports: dict[str, int], data_dir: Path) -> tuple[str, ...]:
    """`make run` with what is installed already (`-o`: the environment counts as made)."""
    settings = [f"{name.upper()}_PORT={port}" for name, port in ports.items()]
    programs = f"BIN={Path(sys.executable).parent}"
    return ("make", "-o", ".venv/.run", "run", programs, f"DATA_DIR={data_dir}", *settings)


def quickstart(ports: dict[str, int], data_dir: Path) -> tuple[str, ...]:
    """The program behind it."""
    flags = [f"--{name}-port={port}" for name, port in ports.items()]
    return (sys.executable, "examples/quickstart.py", f"--data-dir={data_dir}", *flags)


class Running:
    """A quickstart in a session of its own, as a terminal would start it."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.printed = ""
        self.family: list[int] = []

    def wait_until_it_answers(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.printed += line
            if LAST_LINE in line:
                break
        else:
            pytest.fail(f"ended: {self.process.communicate()[1]}")
        self.family = descendants(self.process.pid)

    def end(self, send: Callable[[], None]) -> str:
        """Send a signal; what stderr said after the end of every process of the family."""
        send()
        said = self.process.communicate(timeout=60)[1]
        for pidfd in self.family:
            assert select.select([pidfd], [], [], END_S)[0], "a process outlived the quickstart"
            os.close(pidfd)
        assert not living_of_session(self.process.pid)
        return said


def descendants(root: int) -> list[int]:
    """A pidfd of every process below this one, in whatever session: readable when it has ended."""
    children: dict[int, list[int]] = {}
    for pid, _, parent, _ in processes():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    left = [root]
    while left:
        below = children.get(left.pop(), [])
        found += [os.pidfd_open(pid) for pid in below]
        left += below
    return found


def processes() -> list[tuple[int, str, int, int]]:
    """Pid, state, parent and session of every process of this machine."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            state, parent, _, session, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            found.append((int(entry.name), state, int(parent), int(session)))
    return found


def living_of_session(leader: int) -> list[int]:
    return [pid for pid, state, _, session in processes() if session == leader and state != "Z"]


def curl(line: str) -> bytes:
    """What `curl URL -d BODY` would be answered (with the form type that curl sends)."""
    _, url, flag, body = shlex.split(line)
    assert flag == "-d"
    parts = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=30)
    try:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", parts.path, body, form)
        return connection.getresponse().read()
    finally:
        connection.close()


def run_line(line: str) -> str:
    done = subprocess.run(shlex.split(line), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(command: tuple[str, ...]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def test_a_newcomers_two_runs(tmp_path: Path) -> None:
    data_dir, ports = tmp_path / "data", free_ports()
    first = Running(make_run(ports, data_dir))
    try:
        first.wait_until_it_answers()
        the_printed_lines_work(first.printed)
        a_second_daemon_is_refused(data_dir, ports)
        address = f"--address=127.0.0.1:{ports['grpc']}"
        kept = ("models", "register", "kept", "--type", "dummy", address)
        assert subprocess.run((sys.executable, "-m", "modelmesh", *kept)).returncode == 0
    finally:
        said = first.end(lambda: os.killpg(first.process.pid, signal.SIGINT))
    assert "Traceback" not in said
    assert first.process.returncode == -signal.SIGINT  # make's own report of the interrupt
    assert len(first.family) >= 4  # the quickstart, the daemon, a zygote and a host at the least

    second = Running(quickstart(ports, data_dir))
    try:
        second.wait_until_it_answers()
        status = ("models", "status", "kept", address)
        assert subprocess.run((sys.executable, "-m", "modelmesh", *status)).returncode == 0
    finally:
        said = second.end(second.process.terminate)
    assert (second.process.returncode, said) == (0, "")  # the daemon's own status


def the_printed_lines_work(printed: str) -> None:
    v1, v2, grpc_, listing = (
        line.strip() for line in printed.splitlines() if line.startswith("  ")
    )
    assert curl(v1) == b'{"predictions":[1,1]}'
    assert b'"data":[1,1]' in curl(v2)
    assert run_line(grpc_) == "[1, 1]\n"
    assert re.search(r"^sklearn-iris +sklearn +LOADED ", run_line(listing), re.MULTILINE)


def a_second_daemon_is_refused(data_dir: Path, ports: dict[str, int]) -> None:
    in_use = refused(quickstart(free_ports(), data_dir))
    assert in_use.startswith("modelmesh: ")
    assert "in use by another process" in in_use
    assert in_use.count("\n") == 1
    for name in PORTS:
        taken = refused(quickstart({**free_ports(), name: ports[name]}, data_dir))
        assert taken == (
            f"make run: port {ports[name]}: Address already in use;"
            f" choose another: make run {name.upper()}_PORT=...\n"
        )


def test_a_moved_folder_registers_its_model_anew(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    for folder in (before, after):
        running = Running(quickstart(free_ports(), folder))
        try:
            running.wait_until_it_answers()
        finally:
            running.end(lambda: os.killpg(running.process.pid, signal.SIGINT))  # noqa: B023
        assert running.process.returncode == 0
        if folder is before:
            before.rename(after)
