"""Settings about where models run: another value, and models run otherwise.

The other rows of settings.py are in test_settings.py. `hosted` is a daemon as it comes, beside
which each changed one is held.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc
import pytest

from modelmesh.errors import MeshError
from tests.app.client import Client, answer_of, until
from tests.app.daemon import Running, running
from tests.runtime.external_server import ExternalServer

FEW_S: Final = 0.3
LONG_S: Final = 300.0
WITNESS: Final = "tests.app.runtimes:Witness"


@pytest.fixture(scope="module")
def hosted() -> Iterator[Running]:
    """A daemon as it comes, with a runtime that tells where its models run."""
    with running(runtimes=WITNESS) as daemon:
        yield daemon


def test_load_timeout() -> None:
    with running(load_timeout_s=FEW_S) as daemon:
        daemon.dummies("hung", load_s=LONG_S, hold=True)
        assert daemon.refused("hung").why == ("DEADLINE_EXCEEDED", "LOAD_TIMEOUT")
        assert serves_a_quick_one(daemon)


def test_predict_timeout() -> None:
    with running(predict_timeout_s=FEW_S) as daemon:
        daemon.dummies("hung", predict_s=LONG_S, hold=True)
        assert daemon.refused("hung").why == ("DEADLINE_EXCEEDED", "PREDICT_TIMEOUT")
        assert serves_a_quick_one(daemon)


def serves_a_quick_one(daemon: Client) -> bool:
    """One of a few: where the machine stands still any of them is too slow for such a bound."""
    names = [f"quick-{n}" for n in range(5)]
    daemon.dummies(*names)
    return any(daemon.begin(name).exception() is None for name in names)


def test_tier(hosted: Running) -> None:
    with running(tier="inline", runtimes=WITNESS) as daemon:
        assert pids(daemon) == [os.getpid()] * 2
    shared = pids(hosted)
    assert shared[0] == shared[1] != os.getpid()
    with running(tier="process", runtimes=WITNESS) as daemon:
        assert len({*pids(daemon), os.getpid()}) == 3


def pids(daemon: Client, *, count: int = 2) -> list[int]:
    """Where so many small models of this daemon run."""
    names = [f"witness-{number}" for number in range(count)]
    for name in names:
        daemon.register(name, "witness")
    return [daemon.infer(name)["pid"] for name in names]


def test_shared_hosts(hosted: Running) -> None:
    assert len(set(pids(hosted, count=4))) == 1
    with running(shared_hosts=2, runtimes=WITNESS) as daemon:
        assert len(set(pids(daemon, count=4))) == 2


def test_shared_file_bytes(hosted: Running, tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_bytes(bytes(5000))
    with running(shared_file_bytes=4000, runtimes=WITNESS) as small:
        for daemon, tier in ((hosted, "shared"), (small, "process")):
            daemon.register("filed", "witness", str(file))
            daemon.infer("filed")
            assert daemon.models()["filed"].tier == tier


def test_set_aside() -> None:
    """A model that holds its host keeps another from answering until the host is set aside."""
    for set_aside_s, holds_s in ((0.1, LONG_S), (60.0, 1.5)):
        with running(set_aside_s=set_aside_s, shutdown_timeout_s=1.0) as daemon:
            daemon.dummies("holder", predict_s=holds_s, hold=True)
            daemon.dummies("quick")
            daemon.load("holder")
            daemon.infer("quick")
            order: list[str] = []
            calls = {name: daemon.begin(name, timeout_s=LONG_S) for name in ("holder", "quick")}
            for name, call in calls.items():
                call.add_done_callback(lambda _, name=name, order=order: order.append(name))
            assert answer_of(calls["quick"].result())["model"] == "quick"
            until(lambda order=order: "quick" in order)  # type: ignore[misc]
            assert order == (["quick"] if holds_s == LONG_S else ["holder", "quick"])


def test_quarantine_crashes(hosted: Running) -> None:
    with running(quarantine_crashes=1) as strict:
        for daemon, then in (
            (strict, ("FAILED_PRECONDITION", "QUARANTINED")),
            (hosted, ("INTERNAL", "WORKER_CRASHED")),
        ):
            daemon.dummies("crasher", crash_on_predict=True)
            assert daemon.refused("crasher").why == ("INTERNAL", "WORKER_CRASHED")
            assert daemon.refused("crasher").why == then


def test_runtimes(hosted: Running) -> None:
    assert pids(hosted, count=1)
    with running(tier="inline") as daemon, pytest.raises(grpc.RpcError, match="witness"):
        daemon.register("m", "witness")


def test_predict_proba(tmp_path: Path) -> None:
    train(tmp_path / "model.joblib")
    answers = []
    for proba in (False, True):
        with running(predict_proba=proba, tier="inline") as daemon:
            daemon.register("lr", "sklearn", str(tmp_path))
            answers.append(daemon.predict("lr", 1.0).document["predictions"])
    assert answers[0] == [1]
    assert len(answers[1][0]) == 2
    assert sum(answers[1][0]) == pytest.approx(1.0)


def train(path: Path) -> None:
    import joblib
    from sklearn.linear_model import LogisticRegression

    joblib.dump(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), path)


def test_model_threads(hosted: Running) -> None:
    with running(model_threads=3, runtimes=WITNESS) as daemon:
        for each, threads in ((hosted, 1), (daemon, 3)):
            each.register("witness-0", "witness")
            assert each.infer("witness-0")["threads"] == threads


# --- an external runtime


@contextmanager
def server(path: str = "") -> Iterator[ExternalServer]:
    """A model server of somebody else's."""
    started = ExternalServer(path=path)
    try:
        yield started
    finally:
        started.stop()


def has_model_there(daemon: Running, runtime: ExternalServer, serving: ExternalServer) -> None:
    """A model is loaded by the one and answered by the other."""
    serving.models["m"] = {}
    daemon.register("m", "whatever")
    assert daemon.infer("m", 1.0, 2.0)["sum"] == 3.0
    assert set(runtime.models) == {"m"}
    assert [bool(runtime.headers), bool(serving.headers)] == [runtime is serving, True]


def test_runtime_port() -> None:
    with server() as one, running(runtime_port=one.port) as daemon:
        has_model_there(daemon, one, one)


def test_runtime_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "runtime.sock")
    with server(path) as one, running(runtime_socket=path) as daemon:
        has_model_there(daemon, one, one)


def test_serving_port() -> None:
    with (
        server() as one,
        server() as other,
        running(runtime_port=one.port, serving_port=other.port) as daemon,
    ):
        has_model_there(daemon, one, other)


def test_serving_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "serving.sock")
    with (
        server() as one,
        server(path) as other,
        running(runtime_port=one.port, serving_socket=path) as daemon,
    ):
        has_model_there(daemon, one, other)


def test_runtime_start() -> None:
    with pytest.raises(MeshError, match=r"not ready in 0\.001 s"), running(runtime_start_s=0.001):
        pass
