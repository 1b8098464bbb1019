"""Bursts of load from another core: h2load where it is installed, our own clients elsewhere."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import trees
from modelmesh.wire.kinds import MODEL_INFER

H2LOAD = shutil.which("h2load")


@dataclass(frozen=True)
class Shape:
    """How many connections, and calls open on each."""

    connections: int
    streams: int

    def __str__(self) -> str:
        return f"{self.connections}x{self.streams}"


def pin(core: int) -> Callable[[], None] | None:
    """For Popen's preexec_fn: run on this core if there are two."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return None
    chosen = {cores[core]}
    return lambda: os.sched_setaffinity(0, chosen)


def burst(root: int, what: str, port: int, shape: Shape, seconds: float, body: Path) -> float:
    """CPU microseconds of the server's tree per answered call, over one burst."""
    spent, _ = counted(root, what, port, shape, seconds, body)
    return spent


def counted(
    root: int, what: str, port: int, shape: Shape, seconds: float, body: Path
) -> tuple[float, int]:
    """As `burst`, and how many calls were answered."""
    before = trees.cpu_s(root)
    done = (_h2load if H2LOAD else _clients)(what, port, shape, seconds, body)
    return (trees.cpu_s(root) - before) / done * 1e6, done


def generator() -> str:
    """What makes the load, for the report."""
    return "h2load" if H2LOAD else "benchmarks/clients.py (install h2load for steadier figures)"


def _h2load(what: str, port: int, shape: Shape, seconds: float, body: Path) -> int:
    command = [str(H2LOAD), f"-D{seconds:.0f}", "-t1"]
    if what == "grpc":
        framed = body.with_suffix(".grpc")
        message = body.read_bytes()
        framed.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        command += [f"-c{shape.connections}", f"-m{shape.streams}", "-d", str(framed)]
        headers = ("content-type:application/grpc", "te:trailers", "mm-model-id:iris")
        command += [part for header in headers for part in ("-H", header)]
        command.append(f"http://127.0.0.1:{port}{MODEL_INFER}")
    else:
        command += ["--h1", f"-c{shape.connections * shape.streams}", "-m1", "-d", str(body)]
        command.append(f"http://127.0.0.1:{port}/v1/models/iris:predict")
    found = re.search(r"(\d+) succeeded, (\d+) failed", _run(command, seconds))
    if found is None or found.group(2) != "0" or found.group(1) == "0":
        raise SystemExit(f"the load did not succeed: {' '.join(command)}")
    return int(found.group(1))


def _clients(what: str, port: int, shape: Shape, seconds: float, body: Path) -> int:
    command = [sys.executable, "-m", "benchmarks.clients", what, f"127.0.0.1:{port}"]
    command += [str(shape.connections), str(shape.streams), str(seconds), str(body)]
    return int(_run(command, seconds))


def _run(command: list[str], seconds: float) -> str:
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=seconds + 30,
        preexec_fn=pin(1),
    ).stdout  # fmt: skip
