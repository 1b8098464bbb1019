"""A fleet as a real process, watched from outside: its file, its children, its end."""

import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

HOST: Final = "127.0.0.1"
NO_ETCD: Final = "http://127.0.0.1:1"  # named, so that none is started; fakes never ask it
_FIRST, _LAST = 10_000, 32_700  # below what kernels hand out by themselves
# Test processes run side by side: each worker has blocks of its own.
_WORKERS: Final = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_WORKER: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_BLOCKS: Final = (_LAST - _FIRST) // 100 // _WORKERS * _WORKERS
_blocks = itertools.count(os.getppid() * _WORKERS + _WORKER, _WORKERS)


def until(condition: Callable[[], Any], within_s: float = 60.0) -> Any:
    """Wait for it, and return what it says."""
    ends_at = time.monotonic() + within_s
    while not (said := condition()):
        assert time.monotonic() < ends_at, f"{condition} did not come true"
        time.sleep(0.01)
    return said


def free_base() -> int:
    """The first of a hundred ports that nobody uses."""
    for _ in range(200):
        base = _FIRST + next(_blocks) % _BLOCKS * 100
        if all(is_free(port) for port in range(base, base + 100)):
            return base
    raise AssertionError("no hundred free ports")


def is_free(port: int) -> bool:
    with suppress(OSError):
        socket.create_server((HOST, port)).close()
        return True
    return False


def alive(pid: int) -> bool:
    """Whether there is such a process (one that only waits to be reaped is none)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass
class Run:
    """One `up` and what it printed."""

    process: subprocess.Popen[str]
    folder: Path
    base: int
    printed: Path

    @property
    def file(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.folder / "fleet.json").read_text())
        return document

    def ready(self) -> dict[str, Any]:
        """Wait for its word, then its file (one that was killed leaves its own behind)."""
        until(lambda: "ready: gRPC" in self.said or self.process.poll() is not None, 100)
        assert "ready: gRPC" in self.said, self.said
        return self.file

    @property
    def said(self) -> str:
        return self.printed.read_text()

    @property
    def pids(self) -> dict[str, int]:
        return {pod["id"]: pod["pid"] for pod in self.file["pods"]}

    def all_pids(self) -> set[int]:
        etcd = self.file["etcd"]["pid"]
        return {*self.pids.values(), *([etcd] if etcd else [])}

    def replaced(self, pod: str, old: int) -> int:
        """Wait until the file has another pid for it; that pid."""
        new = until(lambda: self.pids[pod] != old and self.pids[pod])
        return int(new)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def fleet(
    folder: Path,
    *,
    pods: int = 3,
    base: int = 0,
    etcd: str = NO_ETCD,
    environment: Mapping[str, str] = {},
    command: Sequence[str] = (),
) -> Iterator[Run]:
    """Run one, with fakes unless `command` says what; nothing of it is left behind."""
    base = base or free_base()
    printed = folder.parent / f"{folder.name}-{base}-said"
    fakes = ("tests.cli.up_with_fakes", str(folder), str(base), str(pods), etcd)
    with printed.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *(command or fakes)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            text=True,
            env={**_clean(), **environment},
        )
    try:
        yield Run(process, folder, base, printed)
    finally:
        process.kill()  # its children die with it: what test_kill_9 shows
        process.wait(60)


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MM_")}


def get(port: int, path: str) -> int:
    """The status; 0 if the line broke."""
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
