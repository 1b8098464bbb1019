"""What a forward costs: CPU of whatever stands between a caller and the daemon that has the model.

One model that only daemon b may hold. Asked at daemon a, which forwards over its peer port; at an
nginx with `grpc_pass` to b; at a grpc.aio handler that calls a grpc.aio stub and does nothing else
(what any forwarder in Python pays before anything of ours runs); and at b itself. Forwarders share
one core; b and the load have the other. What b spends on each call stands beside it.
"""

import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc

from benchmarks import load, trees
from benchmarks.daemons import Daemon
from benchmarks.etcd import etcd, member, only_at
from benchmarks.fleet import Section
from benchmarks.load import Shape
from benchmarks.sections import ROUNDS, SECONDS, bodies, iris
from modelmesh.wire.kinds import MODEL_INFER
from tests.registry.etcd_server import free_ports

SHAPES = (Shape(1, 1), Shape(1, 16), Shape(1, 64))

_NGINX_CONF = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 100000000; http2_max_concurrent_streams 256;
    upstream b {{ server 127.0.0.1:{target}; keepalive 256; keepalive_requests 100000000; }}
    server {{ listen 127.0.0.1:{port} http2; location / {{ grpc_pass grpc://b; }} }}
}}
"""


def find_nginx() -> str | None:
    """Debian puts it where only root's PATH looks."""
    return shutil.which("nginx") or shutil.which("/usr/sbin/nginx")


@contextmanager
def _nginx(program: str, folder: Path, target: int) -> Iterator[tuple[int, int]]:
    """(pid, port) of one that forwards to `target`."""
    folder.mkdir()
    (port,) = free_ports(1)
    conf = folder / "nginx.conf"
    conf.write_text(_NGINX_CONF.format(folder=folder, port=port, target=target))
    command = [program, "-p", str(folder), "-c", str(conf), "-e", str(folder / "error.log")]
    process = subprocess.Popen(command, preexec_fn=load.pin(0))
    try:
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def _plain(target: int) -> Iterator[tuple[int, int]]:
    """(pid, port) of the grpc.aio forwarder."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.hop", "plain", str(target)],
        stdout=subprocess.PIPE,
        preexec_fn=load.pin(0),
    )
    assert process.stdout is not None
    try:
        yield process.pid, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _ask(port: int, body: bytes) -> bytes:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        grpc.channel_ready_future(channel).result(30)
        answer = channel.unary_unary(MODEL_INFER)(
            body, metadata=(("mm-model-id", "iris"),), timeout=30
        )
        return bytes(answer)


def _forwarders(
    stack: ExitStack, folder: Path, a: Daemon, b: Daemon
) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """(pid, port) by name, and what is missing."""
    found = {"daemon a": (a.pid, a.grpc_port)}
    notes = []
    if (program := find_nginx()) is not None:
        found["nginx grpc_pass"] = stack.enter_context(
            _nginx(program, folder / "nginx", b.grpc_port)
        )
    else:
        notes = ["", "**nginx is missing: install it to compare (apt-get install nginx)**"]
    found["grpc.aio alone"] = stack.enter_context(_plain(b.peer_port))
    found["b, asked directly"] = (b.pid, b.grpc_port)
    return found, notes


Spent = dict[str, dict[str, list[tuple[float, float]]]]


def forwarding(folder: Path) -> list[str]:
    """CPU of the forwarder for each forwarded request."""
    model, body = iris(folder), bodies(folder)["grpc"]
    common = {"MM_TIER": "inline", "MM_TYPE_CONSTRAINTS": only_at("b")}
    common["MM_SVC_GRPC_MAX_CONNECTION_AGE_SECS"] = "-1"
    spent: Spent = {}
    with ExitStack() as stack:
        server = stack.enter_context(etcd(folder))
        a = stack.enter_context(member(folder, server, "a", 0, **common))
        b = stack.enter_context(member(folder, server, "b", 1, MM_LABELS="b", **common))
        b.register("iris", "sklearn", str(model))
        found, notes = _forwarders(stack, folder, a, b)
        answers = {name: _ask(port, body.read_bytes()) for name, (_, port) in found.items()}
        assert len(set(answers.values())) == 1, answers
        for round_number in range(ROUNDS + 1):
            for shape in SHAPES:
                for name, (pid, port) in found.items():
                    seconds = SECONDS if round_number else 1.0  # the first round warms up
                    own, at_b = _burst(pid, b.pid, port, shape, seconds, body)
                    if round_number:
                        row = spent.setdefault(name, {})
                        row.setdefault(str(shape), []).append((own, at_b))
    return [*_table(spent), *notes]


def _burst(
    pid: int, b: int, port: int, shape: Shape, seconds: float, body: Path
) -> tuple[float, float]:
    """CPU microseconds a call, of the forwarder and of b."""
    before = trees.cpu_s(b)
    own, done = load.counted(pid, "grpc", port, shape, seconds, body)
    return own, (trees.cpu_s(b) - before) / done * 1e6


def _table(spent: Spent) -> list[str]:
    def median(name: str, shape: Shape, which: int) -> float:
        return statistics.median(each[which] for each in spent[name][str(shape)])

    lines = [
        "CPU microseconds of the forwarder a request (connections x streams), in brackets the"
        " multiple of nginx; then what b spent",
        "",
        "| | " + " | ".join(f"{shape} | b" for shape in SHAPES) + " |",
        "|---" * (2 * len(SHAPES) + 1) + "|",
    ]
    for name in spent:
        cells = []
        for shape in SHAPES:
            own = median(name, shape, 0)
            base = median("nginx grpc_pass", shape, 0) if "nginx grpc_pass" in spent else 0.0
            ratio = f" ({own / base:.2f})" if base else ""
            cells.append(f"{own:.0f}{ratio} | {median(name, shape, 1):.0f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


SECTIONS: dict[str, Section] = {"forwarding": forwarding}
