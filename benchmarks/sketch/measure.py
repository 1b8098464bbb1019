"""Runs the modes of hop.py interleaved, and prints medians of CPU us per answered request.

The whole server process tree is pinned to core 0, the load generator to core 1. Only ratios within
one run mean anything.
"""

import asyncio
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc

from benchmarks.sketch import hop, host

ROUNDS, SECONDS, FIRST_PORT = (
    int(os.environ.get("ROUNDS", 3)),
    float(os.environ.get("SECONDS", 2)),
    7200,
)
# connections, streams; REST has one call a connection
LOADS = {"1": (1, 1), "16": (1, 16), "64": (1, 64), "16x1": (16, 1)}
VARIANTS: dict[str, tuple[str, dict[str, str]]] = {  # name -> (mode and options, environment)
    "echo": ("echo", {}),
    "shared": ("shared", {}),
    "inline": ("inline", {}),
    "rest": ("rest", {}),
    "rest-inline": ("rest-inline", {}),
    "shared, host malloc": ("shared", {"PYTHONMALLOC": "malloc"}),
    "rest, host malloc": ("rest", {"PYTHONMALLOC": "malloc"}),
    "echo, asyncio": ("echo asyncio", {}),
    "shared, asyncio": ("shared asyncio", {}),
    "shared, bare future": ("shared bare", {}),
    "shared, transport": ("shared transport", {}),
    "shared, write at once": ("shared now", {}),
    "shared, hold": ("shared hold", {}),
    "rest, hold": ("rest hold", {}),
    "shared, SCHED_BATCH": ("shared batch", {}),
    "echo, cq": ("echo cq", {}),
    "shared, cq": ("shared cq", {}),
    "shared, cq, hold": ("shared cq hold", {}),
    "inline, cq": ("inline cq", {}),
}


@dataclass
class Server:
    name: str
    port: int
    process: subprocess.Popen[str]
    cpu_us: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in LOADS})
    rps: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in LOADS})

    @property
    def rest(self) -> bool:
        return self.name.startswith("rest")


def start(folder: Path, name: str, port: int) -> Server:
    mode, env = VARIANTS[name]
    what, *options = mode.split()
    command = ["taskset", "-c", "0", sys.executable, "-m", "benchmarks.sketch.hop", "serve"]
    command += [what, str(port), *options]
    full = {**os.environ, **hop.THREADS, **env, "SKETCH_DIR": str(folder)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=full)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", name
    return Server(name, port, process)


def tree_cpu_s(root: int) -> float:
    """User and system seconds of a process and all below it."""
    stats: dict[int, tuple[int, int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                after = (entry / "stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            stats[int(entry.name)] = int(after[1]), int(after[11]) + int(after[12])
    family, grown = {root}, True
    while grown:
        grown = bool(
            more := {pid for pid, (parent, _) in stats.items() if parent in family} - family
        )
        family |= more
    return sum(stats[pid][1] for pid in family if pid in stats) / os.sysconf("SC_CLK_TCK")


def load_command(folder: Path, server: Server, shape: str, seconds: float) -> list[str]:
    connections, streams = LOADS[shape]
    command = ["taskset", "-c", "1", "h2load", f"-D{seconds:.0f}", "-t1"]
    if server.rest:
        command += ["--h1", f"-c{connections * streams}", "-m1", "-d", str(folder / "v1.json")]
        return [*command, f"http://127.0.0.1:{server.port}/v1/models/iris:predict"]
    command += [f"-c{connections}", f"-m{streams}", "-d", str(folder / "infer.bin")]
    command += [
        "-H",
        "content-type:application/grpc",
        "-H",
        "te:trailers",
        "-H",
        "mm-model-id:iris",
    ]
    return [*command, f"http://127.0.0.1:{server.port}{hop.METHOD}"]


def load(folder: Path, server: Server, shape: str, seconds: float = SECONDS) -> tuple[float, float]:
    """One burst: (server CPU us per answered request, requests per second)."""
    before = tree_cpu_s(server.process.pid)
    command = load_command(folder, server, shape, seconds)
    text = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=seconds + 20
    ).stdout
    spent = tree_cpu_s(server.process.pid) - before
    found = re.search(r"(\d+) succeeded, (\d+) failed", text)
    assert found, text
    done, bad = found.groups()
    assert (int(done) > 0, int(bad)) == (True, 0), (server.name, text)
    return spent / int(done) * 1e6, int(done) / seconds


def check(folder: Path, server: Server) -> None:
    """Every mode must give the right answer before it is timed."""
    if server.rest:
        url = f"http://127.0.0.1:{server.port}/v1/models/iris:predict"
        command = ["curl", "-sS", "-d", f"@{folder}/v1.json", url]
        assert (
            subprocess.run(command, capture_output=True, check=True).stdout
            == b'{"predictions":[1,1]}'
        ), server.name
        return
    body = (folder / "infer.bin").read_bytes()[5:]
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        answer = channel.unary_unary(hop.METHOD)(
            body, timeout=10, metadata=[("mm-model-id", "iris")]
        )
    if server.name.startswith("echo"):
        assert answer == body
    else:
        assert (
            host.MESSAGES["Response"].FromString(answer).raw[0] == (1).to_bytes(8, "little") * 2
        ), server.name


def compare(folder: Path, servers: list[Server]) -> None:
    for server in servers:
        check(folder, server)
        load(folder, server, "16", 1)
    for _ in range(ROUNDS):
        for shape in LOADS:
            for server in servers:
                cpu_us, rps = load(folder, server, shape)
                server.cpu_us[shape].append(cpu_us)
                server.rps[shape].append(rps)
    report(servers)


def report(servers: list[Server]) -> None:
    """Medians; the ratio of REST is to the echo at 16 streams, as its bounds are."""
    median = statistics.median
    shapes = " / ".join(LOADS)
    print(
        f"| variant | CPU us at {shapes} | requests/s | ratio to echo (REST: at 16) |",
        "|---|---|---|---|",
        sep="\n",
    )
    for server in servers:
        cpu = {shape: median(values) for shape, values in server.cpu_us.items()}
        echo = {shape: median(servers[0].cpu_us["16" if server.rest else shape]) for shape in LOADS}
        cells = [
            " / ".join(f"{value:.0f}" for value in cpu.values()),
            " / ".join(f"{median(values):.0f}" for values in server.rps.values()),
            " / ".join(f"{cpu[shape] / echo[shape]:.2f}" for shape in LOADS),
        ]
        print(f"| {server.name} | {' | '.join(cells)} |", flush=True)


class Probe:
    """A plain blocking end of a link, for the one-off times of birth, load and death."""

    def __init__(self, zygote: hop.Zygote) -> None:
        self.sock, self.pidfd = zygote.host()

    def ask(self, kind: int, body: bytes = b"") -> bytes:
        self.sock.sendall(
            host.HEAD.pack(host.HEAD.size + 5 + len(body), 1, kind) + b"\x04iris" + body
        )
        return self.sock.recv(1 << 16)[host.HEAD.size :]


def timed_ms(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1e3


async def death_ms(probe: Probe) -> tuple[float, float]:
    """How long after SIGKILL the loop hears of it: by pidfd, by end of file."""
    loop = asyncio.get_running_loop()
    heard = [loop.create_future(), loop.create_future()]
    for fd, future in zip((probe.pidfd, probe.sock.fileno()), heard, strict=True):

        def tell(fd: int = fd, future: "asyncio.Future[float]" = future) -> None:
            loop.remove_reader(fd)
            future.set_result(time.perf_counter())

        loop.add_reader(fd, tell)
    await asyncio.sleep(0.01)
    killed = time.perf_counter()
    signal.pidfd_send_signal(probe.pidfd, signal.SIGKILL)
    pidfd, end = await asyncio.wait_for(asyncio.gather(*heard), 5)
    assert probe.sock.recv(1, socket.MSG_DONTWAIT) == b""
    return (pidfd - killed) * 1e3, (end - killed) * 1e3


async def lives(folder: Path, label: str, *options: str, count: int = 30) -> None:
    """Birth, load, first answer and death of hosts, one after another."""
    start = time.perf_counter()
    zygote = hop.Zygote(*options)
    times: dict[str, list[float]] = {"zygote": [(time.perf_counter() - start) * 1e3]}
    body = (folder / "infer.bin").read_bytes()[5:]
    for _ in range(count):
        born = time.perf_counter()
        probe = Probe(zygote)
        probe.ask(host.PING)
        times.setdefault("birth to first frame", []).append((time.perf_counter() - born) * 1e3)
        for which in ("first", "second"):
            load_ms = timed_ms(partial(probe.ask, host.LOAD, f"{folder}/iris.joblib".encode()))
            answer_ms = timed_ms(partial(probe.ask, host.INFER, body))
            times.setdefault(f"{which} load + answer", []).append(load_ms + answer_ms)
        pidfd, end = await death_ms(probe)
        times.setdefault("death heard by pidfd", []).append(pidfd)
        times.setdefault("death heard by end of file", []).append(end)
    for name, values in times.items():
        p50, worst = statistics.median(values), max(values)
        print(f"{label}: {name}: p50 {p50:.2f} max {worst:.2f} ms (n={len(values)})", flush=True)
    zygote.process.kill()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        host.make_fixtures(folder)
        chosen = [
            variant
            for variant in VARIANTS
            if not sys.argv[1:] or variant in (*sys.argv[1:], "echo")
        ]
        servers: list[Server] = []
        try:
            servers.extend(
                start(folder, variant, FIRST_PORT + place) for place, variant in enumerate(chosen)
            )
            compare(folder, servers)
        finally:
            for server in servers:
                server.process.kill()
        os.sched_setaffinity(0, {0})
        for malloc in ("pymalloc", "malloc"):
            os.environ["PYTHONMALLOC"] = malloc
            asyncio.run(lives(folder, malloc))
            asyncio.run(lives(folder, f"{malloc}, warmed at birth", "warm"))
