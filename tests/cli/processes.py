"""Real processes: a daemon on free ports, and the command line run against it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DAEMON = (sys.executable, "-m", "modelmesh", "serve", "--metrics", "disabled")
FREE_PORTS = ("--grpc-port", "0", "--rest-port", "0", "--probe-port", "NONE")
QUIET = ("--log-format", "json", "--shared-hosts", "1")


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def modelmesh(*arguments: str, stdin: str = "", environment: Mapping[str, str] = {}) -> Ran:
    """Run the command line once."""
    done = subprocess.run(
        (sys.executable, "-m", "modelmesh", *arguments),
        input=stdin.encode(),
        capture_output=True,
        timeout=60,
        env={**_clean_environment(), **environment},
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


@dataclass(frozen=True)
class Served:
    """A daemon's addresses, and the command line pointed at them."""

    grpc: str
    rest: str

    def run(self, *arguments: str, stdin: str = "") -> Ran:
        environment = {"MM_ADDRESS": self.grpc, "MM_REST_ADDRESS": self.rest}
        return modelmesh(*arguments, stdin=stdin, environment=environment)


@contextmanager
def daemon(data_dir: Path) -> Iterator[Served]:
    """A ready daemon; ended by SIGTERM, and that it ended well is asserted."""
    command = (*DAEMON, *FREE_PORTS, *QUIET, "--data-dir", str(data_dir))
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=_clean_environment()) as process:
        try:
            ready = _ready_event(process)
            yield Served(f"127.0.0.1:{ready['grpc']}", f"127.0.0.1:{ready['rest']}")
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert process.returncode == 0


def _ready_event(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stderr is not None
    said = b""
    for line in process.stderr:
        said += line
        if b'"event":"ready"' in line:
            event: dict[str, Any] = json.loads(line)
            return event
    raise AssertionError(f"the daemon did not get ready: {said.decode()}")


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MM_")}
