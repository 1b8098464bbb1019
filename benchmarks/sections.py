"""What is measured, a function a table. Each prints as it goes and returns Markdown lines."""

import os
import signal
import statistics
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks import load, trees
from benchmarks.daemons import V1_BODY, Daemon, daemon, echo
from benchmarks.load import Shape
from modelmesh.pb import inference_pb2, model_mesh_pb2, model_mesh_pb2_grpc

ROUNDS = int(os.environ.get("ROUNDS", "3"))
SECONDS = float(os.environ.get("SECONDS", "2"))
SHAPES = (Shape(1, 1), Shape(1, 16), Shape(1, 64), Shape(16, 1))
# As long as those of the figure that is to be beaten: 45 characters.
PATH = "/models/a-folder/of-some-team/model-00001.job"
TIERS = ("inline", "shared", "process")
# The bounds, as multiples of the echo at 1, 16 and 64 streams on one connection.
GRPC_BOUNDS = {"shared": (3.4, 2.5, 2.6), "inline": (None, 2.4, 2.2)}
REST_BOUNDS = {"shared": 0.9, "inline": 0.75}


def iris(folder: Path) -> Path:
    """The quickstart's model file, trained here and now."""
    import joblib
    from sklearn import datasets, svm

    path = folder / "iris.joblib"
    points, labels = datasets.load_iris(return_X_y=True)
    joblib.dump(svm.SVC(gamma="scale").fit(points, labels), path)
    return path


def cpu(folder: Path) -> list[str]:
    """CPU per request of the whole process tree, beside a grpc.aio echo of the same run."""
    model = iris(folder)
    requests = bodies(folder)
    figures: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        echo_pid, echo_port = stack.enter_context(echo())
        servers = {"echo": (echo_pid, echo_port, 0)}
        for tier in TIERS:
            served = stack.enter_context(daemon(folder / tier, MM_TIER=tier))
            served.register("iris", "sklearn", str(model))
            assert served.predict("iris") == b'{"predictions":[1,1]}', tier
            servers[tier] = (served.pid, served.grpc_port, served.rest_port)
        for round_number in range(ROUNDS + 1):
            for shape in SHAPES:
                for name, (pid, grpc_port, rest_port) in servers.items():
                    seconds = SECONDS if round_number else 1.0  # the first round warms up
                    runs = [("grpc", grpc_port)] + ([("rest", rest_port)] if rest_port else [])
                    for what, port in runs:
                        spent = load.burst(pid, what, port, shape, seconds, requests[what])
                        if round_number:
                            row = figures.setdefault(f"{name} {what}", {})
                            row.setdefault(str(shape), []).append(spent)
    return _cpu_table(figures)


def bodies(folder: Path) -> dict[str, Path]:
    """Files with one request for the iris model, by kind of port."""
    grpc_body, rest_body = folder / "infer.bin", folder / "v1.json"
    request = inference_pb2.ModelInferRequest(model_name="iris")
    request.inputs.add(name="input-0", datatype="FP64", shape=[2, 4])
    request.raw_input_contents.append(struct.pack("<8d", 6.8, 2.8, 4.8, 1.4, 6.0, 3.4, 4.5, 1.6))
    grpc_body.write_bytes(request.SerializeToString())
    rest_body.write_bytes(V1_BODY)
    return {"grpc": grpc_body, "rest": rest_body}


def _cpu_table(figures: dict[str, dict[str, list[float]]]) -> list[str]:
    median = statistics.median
    base = {shape: median(values) for shape, values in figures["echo grpc"].items()}
    lines = [
        "CPU microseconds per request, all processes (connections x streams); in brackets the"
        " multiple of the echo (REST: of the echo at 1x16), and its bound where there is one",
        "",
        "| | " + " | ".join(str(shape) for shape in SHAPES) + " |",
        "|---" * (len(SHAPES) + 1) + "|",
    ]
    for name, row in figures.items():
        tier, what = name.split()
        cells = []
        for column, shape in enumerate(str(shape) for shape in SHAPES):
            spent = median(row[shape])
            ratio = spent / base["1x16" if what == "rest" else shape]
            cells.append(f"{spent:.0f} ({ratio:.2f}{_bound(tier, what, column)})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _bound(tier: str, what: str, column: int) -> str:
    bound: float | None = None
    if what == "grpc" and column < 3:
        bound = GRPC_BOUNDS.get(tier, (None, None, None))[column]
    elif what == "rest" and column == 3:
        bound = REST_BOUNDS.get(tier)
    return f" of {bound}" if bound else ""


def cold(folder: Path) -> list[str]:
    """Load of a registered iris model and its first answer, one at a time, over REST."""
    lines = ["| cold load + first answer | p50 ms | p90 ms | bound p50 |", "|---|---|---|---|"]
    model = iris(folder)
    for tier, bound in (("shared", 5), ("process", 25)):
        with daemon(folder / tier, None, MM_TIER=tier) as served:
            count = 200 if tier == "shared" else 40
            ids = [f"m{n}" for n in range(count)]
            served.register_many([(i, "sklearn", str(model), "") for i in ids])
            took = sorted(_timed_ms(served.predict, i) for i in ids)
            p50, p90 = statistics.median(took), took[len(took) * 9 // 10]
            lines.append(f"| {tier} | {p50:.2f} | {p90:.2f} | {bound} |")
            if tier == "shared":
                lines.append(f"| host killed, next answer | {_respawn_ms(served):.1f} | | 50 |")
    return lines


def _timed_ms(work: Callable[[str], bytes], model_id: str) -> float:
    started = time.perf_counter()
    answer = work(model_id)
    assert answer == b'{"predictions":[1,1]}', answer
    return (time.perf_counter() - started) * 1000


def _respawn_ms(served: Daemon) -> float:
    """From SIGKILL of the host to the next answer of a model that lived in it: new host, reload."""
    took = []
    for _ in range(11):
        for _ in range(100):
            served.predict("m0")  # so that its host is the one that has worked most
        host = trees.busiest_host(served.pid)
        started = time.perf_counter()
        os.kill(host, signal.SIGKILL)
        served.predict("m0")
        took.append((time.perf_counter() - started) * 1000)
    return statistics.median(took)


def density(folder: Path) -> list[str]:
    """Bytes per registered and per loaded model; memory when idle."""
    registered, loaded = 10_000, 5_000
    model = str(iris(folder))
    with daemon(folder / "density", None, MM_SHARED_HOSTS="1", MM_TIER="shared") as served:
        served.register("first", "sklearn", model)
        served.predict("first")
        idle = trees.resident_bytes(served.pid)
        served.register_many([(f"warm-{n}", "sklearn", PATH, "{}") for n in range(registered)])
        before = trees.private_bytes(served.pid)
        served.register_many([(f"iris-{n:05}", "sklearn", PATH, "{}") for n in range(registered)])
        per_registered = (trees.private_bytes(served.pid) - before) / registered
        ids = [f"load-{n:05}" for n in range(loaded)]
        served.register_many([(i, "sklearn", model, "") for i in ids])
        for _ in range(100):
            served.predict("first")
        host = trees.busiest_host(served.pid)
        in_host, in_daemon = trees.private_bytes(host), trees.private_bytes(served.pid)
        for i in ids:
            served.predict(i)
        per_loaded = (trees.private_bytes(host) - in_host) / loaded
        per_copy = (trees.private_bytes(served.pid) - in_daemon) / loaded
    return [
        "| memory | | bound |",
        "|---|---|---|",
        f"| daemon idle, resident | {idle / 1e6:.0f} MB | 80 MB |",
        f"| per registered model ({registered:,} more) | {per_registered:.0f} B | 560 B |",
        f"| per loaded iris model, in its host ({loaded:,})"
        f" | {per_loaded / 1024:.1f} KiB | 15 KiB |",
        f"| per loaded model, in the daemon | {per_copy / 1024:.1f} KiB | |",
    ]


def registry(folder: Path) -> list[str]:
    """Registrations from 16 callers, and the start with and without many registrations."""
    lines = ["| registry | | the Java original |", "|---|---|---|"]
    with daemon(folder / "registry", None) as served:
        lines.append(f"| start to ready | {served.ready_s:.2f} s | 4.4 s |")
        before = trees.cpu_s(served.pid)
        count, seconds = register_singly(served, callers=16, each=500)
        spent = (trees.cpu_s(served.pid) - before) / count * 1e6
        lines.append(f"| registrations/s, 16 callers | {count / seconds:.0f} | 1,500 |")
        lines.append(f"| CPU per registration | {spent:.0f} us | 736 us |")
        started = time.perf_counter()
        served.register_many([(f"bulk-{n:05}", "dummy", "", "{}") for n in range(20_000)])
        rate = 20_000 / (time.perf_counter() - started)
        lines.append(f"| registrations/s, bulk | {rate:.0f} | |")
    with daemon(folder / "registry", None) as served:
        lines.append(f"| start to ready, 28,000 registered | {served.ready_s:.2f} s | 4.8 s |")
    return lines


def register_singly(
    served: Daemon, callers: int, each: int, prefix: str = "caller"
) -> tuple[int, float]:
    """Register dummies one by one: how many, and in how many seconds."""

    def caller(number: int) -> None:
        with served.channel() as channel:
            stub = model_mesh_pb2_grpc.ModelMeshStub(channel)
            info = model_mesh_pb2.ModelInfo(type="dummy", key="{}")
            for n in range(each):
                stub.registerModel(
                    model_mesh_pb2.RegisterModelRequest(
                        modelId=f"{prefix}-{number}-{n}", modelInfo=info
                    ),
                    timeout=30,
                )

    started = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(caller, range(callers)))
    return callers * each, time.perf_counter() - started


def scaling(folder: Path) -> list[str]:
    """Two models of 5 ms CPU each, kept busy, in one host and in two."""
    lines = ["| two models of 5 ms CPU | requests/s |", "|---|---|"]
    for hosts in ("1", "2"):
        settings = {"MM_RUNTIMES": "benchmarks.burn:BurnRuntime", "MM_SHARED_HOSTS": hosts}
        with daemon(folder / f"hosts{hosts}", None, MM_TIER="shared", **settings) as served:
            for name in ("a", "b"):
                served.register(name, "burn", key='{"burn_s":0.005}')
            lines.append(f"| {hosts} shared host(s) | {_burn_rate(served):.0f} |")
    return lines


def _burn_rate(served: Daemon, seconds: float = 3.0) -> float:
    def caller(name: str) -> int:
        done, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            served.predict(name, b'{"instances":[[1]]}')
            done += 1
        return done

    with ThreadPoolExecutor(4) as pool:
        return sum(pool.map(caller, ["a", "b", "a", "b"])) / seconds


SECTIONS: dict[str, Callable[[Path], list[str]]] = {
    "cpu": cpu,
    "cold": cold,
    "density": density,
    "registry": registry,
    "scaling": scaling,
}
