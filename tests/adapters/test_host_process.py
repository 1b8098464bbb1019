"""A real host process on a real socket: its journal, scale and timers, and what it survives."""

import asyncio
import json
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn import datasets, svm

from modelmesh.errors import Code, MeshError, Reason
from modelmesh.pb import model_runtime_pb2
from modelmesh.wire import journal, kinds
from modelmesh.wire.awaiting import FutureReply, ask
from modelmesh.wire.framed import FramedLink
from modelmesh.wire.transport import Call, Metadata
from tests.adapters.support import infer_body, inferred, load_body, named, unload_body
from tests.wire.harnesses import until

ENVIRONMENT = {
    "PYTHONMALLOC": "malloc",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
MIB = 1 << 20


class Nursery:
    """The process that hosts are forked from (`host_main`)."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        module = "tests.adapters.host_main"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", module, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env={**os.environ, **ENVIRONMENT},
            )
        self._control.settimeout(60)

    def fork(self, options: dict[str, Any]) -> tuple[int, socket.socket, mmap.mmap]:
        """A host's pid, the daemon's end of its link, and its journal page."""
        ours, theirs = socket.socketpair()
        page_fd = os.memfd_create("page")
        os.ftruncate(page_fd, journal.SIZE_BYTES)
        page = mmap.mmap(page_fd, journal.SIZE_BYTES)
        with theirs:
            message = json.dumps(options).encode()
            socket.send_fds(self._control, [message], [theirs.fileno(), page_fd])
        os.close(page_fd)
        return json.loads(self._control.recv(1 << 16)), ours, page

    def wait(self) -> int:
        """How the last host ended: its exit status, or minus a signal."""
        self._control.send(b"{}")
        return os.waitstatus_to_exitcode(json.loads(self._control.recv(1 << 16)))

    def close(self) -> None:
        self._control.close()
        self._process.wait(60)


class Host:
    """A host process and the daemon's end of its link."""

    def __init__(self, pid: int, sock: socket.socket, page: mmap.mmap) -> None:
        self.pid = pid
        self.link = FramedLink(sock, on_lost=self._lost)
        self.page = memoryview(page)
        self.lost = asyncio.get_running_loop().create_future()
        self.unanswered: dict[int, Call] = {}

    def start(self, kind: str, body: bytes, *metadata: tuple[str, str]) -> FutureReply:
        reply = FutureReply()
        self.link.start(Call(kind, body, reply, metadata))
        return reply

    async def load(self, model_id: str, model_type: str, path: object = "", **key: Any) -> Metadata:
        reply = self.start(kinds.LOAD_MODEL, load_body(model_id, model_type, str(path), **key))
        (body,) = await reply.future
        size = model_runtime_pb2.LoadModelResponse.FromString(bytes(body)).sizeInBytes
        return (("size", str(size)), *reply.metadata)

    async def size_of_load(
        self, model_id: str, model_type: str, path: object = "", **key: Any
    ) -> int:
        return int(dict(await self.load(model_id, model_type, path, **key))["size"])

    async def unload(self, model_id: str) -> None:
        await ask(self.link, kinds.UNLOAD_MODEL, unload_body(model_id))

    def infer(self, model_id: str, rows: list[list[float]], **flags: Any) -> FutureReply:
        return self.start(kinds.MODEL_INFER, infer_body(rows, **flags), *named(model_id))

    async def private_bytes(self) -> int:
        body = await ask(self.link, kinds.MODEL_SIZE, b"")
        return int(model_runtime_pb2.ModelSizeResponse.FromString(bytes(body)).sizeInBytes)

    def running(self) -> tuple[int, ...]:
        return journal.read(self.page).call_ids

    async def idle(self) -> None:
        """The last entry has ended (its answer comes a moment before)."""
        await until(lambda: self.running() == ())

    def _lost(self, link: FramedLink) -> None:
        self.unanswered = link.unanswered()
        self.lost.set_result(None)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


Start = Callable[..., Host]


@pytest.fixture
async def start(nursery: Nursery) -> AsyncIterator[Start]:
    hosts: list[Host] = []

    def fork(**options: Any) -> Host:
        hosts.append(Host(*nursery.fork(options)))
        return hosts[-1]

    yield fork
    for host in hosts:
        await host.link.close()
        host.page.release()


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("iris") / "model.joblib"
    joblib.dump(svm.SVC(gamma="scale").fit(*datasets.load_iris(return_X_y=True)), path)
    return path


ROWS = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]


async def test_a_model_is_loaded_asked_and_unloaded(
    start: Start, nursery: Nursery, iris: Path
) -> None:
    host = start()
    await host.load("m", "sklearn", iris)
    (body,) = await host.infer("m", ROWS).future
    assert inferred(body) == {"output-0": [1, 1]}
    await host.idle()
    await host.unload("m")
    with pytest.raises(MeshError, match="not loaded here"):
        await host.infer("m", ROWS).future
    await host.link.close()
    assert nursery.wait() == 0


async def test_sixteen_requests_written_in_one_go_are_one_predict(start: Start) -> None:
    host = start()
    await host.load("m", "dummy")
    replies = [host.infer("m", [[float(i)]], counters=True) for i in range(16)]
    answers = [inferred((await reply.future)[0]) for reply in replies]
    assert answers == [
        {"model": [b"m"], "sum": [float(i)], "predicts": [1], "joined": [16]} for i in range(16)
    ]


async def test_the_journal_names_the_running_call_and_no_other(
    start: Start, nursery: Nursery
) -> None:
    host = start()
    await host.load("held", "dummy", predict_s=30, hold=True)
    await host.load("quick", "dummy")
    await host.idle()
    host.infer("held", [[1]])
    await until(lambda: host.running() != ())
    (culprit,) = host.running()
    late = [host.infer("quick", [[1]]) for _ in range(3)]
    await asyncio.sleep(0)
    os.kill(host.pid, signal.SIGKILL)
    await host.lost
    assert nursery.wait() == -signal.SIGKILL
    assert host.running() == (culprit,)
    assert len(host.unanswered) == 4
    assert {id(reply) for reply in late} <= {id(call.reply) for call in host.unanswered.values()}


@pytest.mark.parametrize("when", ["load", "predict"])
async def test_a_crash_loses_no_answer_that_was_given_before(
    start: Start, nursery: Nursery, when: str
) -> None:
    host = start()
    await host.load("good", "dummy")
    key: dict[str, Any] = {f"crash_on_{when}": True}
    if when == "predict":
        await host.load("bad", "dummy", **key)
    good = [host.infer("good", [[1]]) for _ in range(5)]
    if when == "predict":
        bad = host.infer("bad", [[1]])
    else:
        bad = host.start(kinds.LOAD_MODEL, load_body("bad", "dummy", **key))
    for reply in good:
        assert inferred((await reply.future)[0])["sum"] == [1.0]
    await host.lost
    assert nursery.wait() == -signal.SIGSEGV
    assert [call.reply for call in host.unanswered.values()] == [bad]
    assert host.running() == tuple(host.unanswered)


async def test_waits_of_different_models_overlap(start: Start) -> None:
    host = start()
    loop = asyncio.get_running_loop()
    begun, each_s = loop.time(), 0.5
    await asyncio.gather(*(host.load(f"m{i}", "dummy", load_s=each_s) for i in range(10)))
    assert each_s <= loop.time() - begun < 10 * each_s


async def test_a_wait_does_not_hold_the_journal(start: Start) -> None:
    host = start()
    await host.load("slow", "dummy", predict_s=60)
    slow = host.infer("slow", [[1]])
    await host.load("quick", "dummy")
    assert inferred((await host.infer("quick", [[1]]).future)[0])["model"] == [b"quick"]
    assert not slow.future.done()
    await host.idle()
    await host.load("soon", "dummy", predict_s=0.1)
    assert inferred((await host.infer("soon", [[1]]).future)[0])["model"] == [b"soon"]


async def test_a_cancelled_call_never_starts(start: Start, tmp_path: Path) -> None:
    host, gate = start(), tmp_path / "gate"
    await host.load("held", "hostile", gate=str(gate))
    await host.load("m", "dummy")
    await host.idle()
    first = host.infer("held", [[1]])
    left = host.infer("m", [[1]], counters=True)
    await until(lambda: host.running() != ())
    left.leave()
    await asyncio.sleep(0)  # the host is told with this turn of the loop
    gate.touch()
    await first.future
    answer = inferred((await host.infer("m", [[1]], counters=True).future)[0])
    assert answer["predicts"] == [1]


@pytest.mark.parametrize("left", ["thread", "child", "grandchild"])
async def test_a_load_that_leaves_something_running_says_so(start: Start, left: str) -> None:
    host = start()
    clean = await host.load("clean", "hostile")
    assert "mm-tainted" not in dict(clean)
    tainted = await host.load("m", "hostile", leave=left)
    assert dict(tainted)["mm-tainted"] == ("thread" if left == "thread" else "child")
    (body,) = await host.infer("m", [[1]]).future
    assert inferred(body) == {"output-0": [host.pid]}
    _end_children(host.pid)


def _end_children(pid: int) -> None:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)


@pytest.mark.parametrize("raised", ["SystemExit", "KeyboardInterrupt"])
async def test_a_pickle_that_exits_is_a_failed_load(
    start: Start, tmp_path: Path, raised: str
) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(f"cbuiltins\nexec\n(Vraise {raised}()\ntR.".encode())
    host = start()
    with pytest.raises(MeshError, match=raised) as failed:
        await host.load("m", "sklearn", path)
    assert failed.value.failure.reason is Reason.LOAD_FAILED
    await host.load("other", "dummy")


# --- weight


class Grows:
    """A pickle of a few bytes that is 64 MiB once loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.ones, (64 * MIB, "u1")


@pytest.mark.parametrize("weigh", ["allocator", "private"])
async def test_a_small_file_that_grows_is_weighed_by_what_it_grew_to(
    start: Start, tmp_path: Path, iris: Path, weigh: str
) -> None:
    estimator = joblib.load(iris)
    estimator.ballast = Grows()
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(estimator))
    assert path.stat().st_size < 8192
    host = start(weigh=weigh)
    size = await host.size_of_load("m", "sklearn", path)
    assert 0.9 * 64 * MIB < size < 1.1 * 64 * MIB
    before = await host.private_bytes()
    await host.unload("m")
    assert before - await host.private_bytes() > 0.9 * 64 * MIB


async def test_a_loaded_iris_model_weighs_little(start: Start, iris: Path) -> None:
    host = start()
    sizes = [await host.size_of_load(f"m{i}", "sklearn", iris) for i in range(50)]
    assert sorted(sizes)[25] <= 15 * 1024


@pytest.mark.timeout(400)  # thousands of turns of two processes, which a busy machine stretches
async def test_memory_comes_back_through_a_thousand_rounds(start: Start, iris: Path) -> None:
    """Whatever is written to what the zygote shares is copied, and would show here as well."""
    host = start()
    weight = await host.size_of_load("m", "sklearn", iris)
    await host.unload("m")
    await _round(host, iris)
    first = await host.private_bytes()
    for _ in range(1000):
        await _round(host, iris)
    grown = await host.private_bytes() - first
    assert grown < 0.1 * first
    assert grown < 0.25 * 1000 * weight


async def _round(host: Host, iris: Path) -> None:
    load = host.start(kinds.LOAD_MODEL, load_body("m", "sklearn", str(iris)))
    await load.future
    await host.infer("m", ROWS).future
    await host.unload("m")


async def test_a_model_in_a_cycle_gives_its_memory_back(start: Start) -> None:
    host = start()
    for _ in range(3):
        before = await host.private_bytes()
        size = await host.size_of_load("m", "hostile", cycle_bytes=32 * MIB)
        assert size >= 31 * MIB
        await host.unload("m")
        assert await host.private_bytes() - before < 4 * MIB


async def test_a_dummy_allocates_only_if_told_to(start: Start) -> None:
    host = start()
    before = await host.private_bytes()
    assert await host.size_of_load("light", "dummy", size_bytes=64 * MIB) == 64 * MIB
    assert await host.private_bytes() - before < 8 * MIB
    await host.load("heavy", "dummy", size_bytes=64 * MIB, allocate=True)
    assert await host.private_bytes() - before > 60 * MIB


async def test_a_leak_is_not_given_back(start: Start) -> None:
    host = start()
    await host.load("m", "dummy", leak_bytes_per_call=MIB)
    before = await host.private_bytes()
    for _ in range(16):
        await host.infer("m", [[1]]).future
    await host.unload("m")
    assert await host.private_bytes() - before > 15 * MIB


async def test_too_long_an_answer_is_the_models_fault(start: Start) -> None:
    host = start(most_answer_bytes=10)
    await host.load("m", "dummy")
    with pytest.raises(MeshError) as failed:
        await host.infer("m", [[1]]).future
    assert failed.value.failure.code is Code.INTERNAL
    assert failed.value.failure.reason is Reason.MODEL_ERROR
