"""No collateral: whatever one model does, ten others in its host answer every call.

Every test has real processes and the same shape: ten dummies in one shared host are asked 200 times
a second; a model does its deed in that host; the fault is shown to have bitten; no call of the ten
has failed, and all ten answer afterwards.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from modelmesh.errors import Code, Failure, MeshError, Reason
from modelmesh.runtime.door import LoadRequest
from modelmesh.runtime.hosts import HostedRuntime
from tests.runtime import misdeeds
from tests.runtime.support import QUICK_S, Listener, ask, begin, config, dummy
from tests.runtime.waiting import is_dead, until

NEIGHBOURS = [f"neighbour-{number}" for number in range(10)]
EVERY_S = 0.005


class Traffic:
    """Asks the neighbours in turn, steadily, without waiting for answers."""

    def __init__(self, runtime: HostedRuntime) -> None:
        self._runtime = runtime
        self.answered = dict.fromkeys(NEIGHBOURS, 0)
        self.failures: list[Failure] = []
        self._open: set[asyncio.Future] = set()

    async def run(self) -> None:
        for number in range(1_000_000):
            name = NEIGHBOURS[number % len(NEIGHBOURS)]
            future = begin(self._runtime, name).future
            self._open.add(future)
            future.add_done_callback(partial(self._done, name))
            await asyncio.sleep(EVERY_S)

    def _done(self, name: str, future: asyncio.Future) -> None:
        self._open.discard(future)
        error = future.exception()
        if isinstance(error, MeshError):
            self.failures.append(error.failure)
        else:
            assert name.encode() in future.result()[0]
            self.answered[name] += 1

    async def all_answer(self, more: int = 3) -> None:
        """Every neighbour has answered so many more calls; nothing sent so far is open."""
        sent = set(self._open)
        goal = {name: count + more for name, count in self.answered.items()}
        await until(lambda: all(self.answered[name] >= goal[name] for name in NEIGHBOURS), 30)
        await until(lambda: not sent & self._open, 30)


class Scene:
    """A runtime with ten neighbours under traffic in one shared host."""

    def __init__(self, runtime: HostedRuntime, listener: Listener, traffic: Traffic) -> None:
        self.runtime = runtime
        self.listener = listener
        self.traffic = traffic
        self.host_pid = runtime.pids()[NEIGHBOURS[0]]

    async def unharmed(self) -> None:
        """The neighbours have failed no call, and all answer."""
        await self.traffic.all_answer()
        assert self.traffic.failures == []
        assert set(NEIGHBOURS).isdisjoint(self.listener.lost)

    async def moved(self) -> None:
        """The fault has bitten: the neighbours answer from another process."""
        await until(lambda: self._homes().isdisjoint({self.host_pid, None}))
        await self.traffic.all_answer()

    def _homes(self) -> set[int | None]:
        """Where the neighbours live; None: one has no home until it is asked again."""
        pids = self.runtime.pids()
        return {pids.get(name) for name in NEIGHBOURS}

    def is_aside(self) -> bool:
        """Whether the neighbours have been taken out of their first host."""
        return self.host_pid not in self._homes()


@asynccontextmanager
async def _scene(**changes: object) -> AsyncIterator[Scene]:
    runtime, listener = HostedRuntime(config(**changes)), Listener()
    await runtime.start(listener)
    try:
        for name in NEIGHBOURS:
            await runtime.load(dummy(name))
        assert len(set(runtime.pids().values())) == 1
        traffic = Traffic(runtime)
        task = asyncio.ensure_future(traffic.run())
        try:
            await traffic.all_answer(1)
            yield Scene(runtime, listener, traffic)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    finally:
        await runtime.close(5.0)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with _scene() as made:
        yield made


@pytest.fixture
async def watchful() -> AsyncIterator[Scene]:
    """Sets a host aside after a quarter of a second."""
    async with _scene(set_aside_s=QUICK_S) as made:
        yield made


@pytest.fixture
async def hasty() -> AsyncIterator[Scene]:
    """Ends what takes a little longer than a machine ever stands still."""
    limits = {"load_timeout_s": 2.5, "predict_timeout_s": 2.5}
    async with _scene(set_aside_s=1.0, **limits) as made:
        yield made


def _pickle(deed: str, folder: Path) -> LoadRequest:
    path = misdeeds.pickled(deed, folder / "model.pkl")
    return LoadRequest("villain", "sklearn", str(path), "", path.stat().st_size)


def _hostile(deed: str, on: str = "predict", always: bool = False) -> LoadRequest:
    key = {"on": on, "do": deed, "always": always}
    return LoadRequest("villain", "hostile", "", json.dumps(key))


async def _load_failure(scene: Scene, request: LoadRequest) -> Failure:
    with pytest.raises(MeshError) as caught:
        await scene.runtime.load(request)
    return caught.value.failure


async def _predict_failure(scene: Scene, request: LoadRequest) -> Failure:
    await scene.runtime.load(request)
    assert scene.runtime.pids()["villain"] == scene.host_pid
    with pytest.raises(MeshError) as caught:
        await ask(scene.runtime, "villain")
    return caught.value.failure


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


CRASHES = {
    "exit_quietly": "exit status 3",
    "segfault": "signal 11",
    "kill_parent": "killed together with its keeper",
    "close_descriptors": "signal 9",
}


@pytest.mark.parametrize("deed", CRASHES)
async def test_a_pickle_that_takes_its_host_down(scene: Scene, deed: str, tmp_path: Path) -> None:
    failure = await _load_failure(scene, _pickle(deed, tmp_path))
    await until(lambda: is_dead(scene.host_pid))
    await scene.moved()
    assert (failure.code, failure.reason) == (Code.FAILED_PRECONDITION, Reason.LOAD_FAILED)
    assert failure.message == f"crashed its host while loading ({CRASHES[deed]})"
    await scene.unharmed()


@pytest.mark.parametrize("deed", CRASHES)
async def test_a_predict_that_takes_its_host_down(scene: Scene, deed: str) -> None:
    failure = await _predict_failure(scene, _hostile(deed))
    await until(lambda: is_dead(scene.host_pid))
    await scene.moved()
    assert (failure.code, failure.reason) == (Code.INTERNAL, Reason.WORKER_CRASHED)
    assert CRASHES[deed] in failure.message
    assert failure.executed
    assert scene.listener.lost["villain"] == failure
    await scene.unharmed()


HANGS = ["hang", "spin", "hang_in_the_future", "hang_unnoted", "hang_under_many_names"]


@pytest.mark.parametrize("deed", HANGS)
async def test_a_pickle_that_hangs(hasty: Scene, deed: str, tmp_path: Path) -> None:
    failure = await _load_failure(hasty, _pickle(deed, tmp_path))
    await until(lambda: is_dead(hasty.host_pid))
    await hasty.moved()
    assert (failure.code, failure.reason) == (Code.DEADLINE_EXCEEDED, Reason.LOAD_TIMEOUT)
    await hasty.unharmed()


@pytest.mark.parametrize("deed", HANGS)
async def test_a_predict_that_hangs(hasty: Scene, deed: str) -> None:
    failure = await _predict_failure(hasty, _hostile(deed))
    await until(lambda: is_dead(hasty.host_pid))
    await hasty.moved()
    assert (failure.code, failure.reason) == (Code.DEADLINE_EXCEEDED, Reason.PREDICT_TIMEOUT)
    await hasty.unharmed()


async def test_a_hanging_predict_whose_caller_left_is_blamed_all_the_same(hasty: Scene) -> None:
    await hasty.runtime.load(_hostile("hang"))
    reply = begin(hasty.runtime, "villain")
    await hasty.moved()  # set aside: so it runs
    reply.leave()
    await until(lambda: "villain" in hasty.listener.lost)
    assert hasty.listener.lost["villain"].reason is Reason.PREDICT_TIMEOUT
    await hasty.moved()
    await hasty.unharmed()


@pytest.mark.parametrize("deed", ["fork_and_return", "fork_behind_python"])
@pytest.mark.parametrize("on", ["load", "predict"])
async def test_a_model_that_forks_and_returns(scene: Scene, deed: str, on: str) -> None:
    """The copy of the host can neither answer for it nor stay."""
    await scene.runtime.load(_hostile(deed, on))
    for _ in range(5):
        await ask(scene.runtime, "villain")
    home = scene.runtime.pids()["villain"]
    await until(lambda: all(map(is_dead, _children(home))))
    await scene.unharmed()


@pytest.mark.parametrize("on", ["load", "predict"])
async def test_a_thread_that_crashes_late(watchful: Scene, on: str) -> None:
    scene = watchful
    await scene.runtime.load(_hostile("crash_late", on, always=True))
    await ask(scene.runtime, "villain")
    while not scene.is_aside():  # its host waits 2 s to be set aside for the thread, then gives up
        await ask(scene.runtime, "villain")
    misdeeds.crash_now(scene.host_pid)
    await until(lambda: is_dead(scene.host_pid))
    await until(lambda: "villain" in scene.listener.lost)
    assert scene.listener.lost["villain"].reason is Reason.WORKER_CRASHED
    await scene.moved()
    await scene.unharmed()


async def test_a_pickle_that_wants_100_gb(scene: Scene, tmp_path: Path) -> None:
    failure = await _load_failure(scene, _pickle("allocate", tmp_path))
    assert "MemoryError" in failure.message
    assert (failure.code, failure.reason) == (Code.FAILED_PRECONDITION, Reason.TOO_LARGE)
    assert set(scene.runtime.pids().values()) == {scene.host_pid}
    await scene.unharmed()


async def test_a_predict_that_wants_100_gb(scene: Scene) -> None:
    failure = await _predict_failure(scene, _hostile("allocate"))
    assert "MemoryError" in failure.message
    assert failure.reason is Reason.MODEL_ERROR
    await scene.unharmed()


@pytest.mark.parametrize("on", ["load", "predict"])
async def test_a_model_that_prints_200_mb(scene: Scene, on: str) -> None:
    """200 MB stand for the gigabyte of the promise: what is beyond the budget is never copied."""
    with capture_logs() as logs:
        await scene.runtime.load(_hostile("print_much", on))
        if on == "predict":
            await ask(scene.runtime, "villain")
        await scene.unharmed()
        await scene.runtime.close(5.0)
    dropped = sum(line.get("dropped_bytes", 0) for line in logs)
    kept = sum(len(line["text"]) for line in logs if line["event"] == "model output")
    assert dropped > 0.9 * misdeeds.PRINTED_BYTES
    assert 0 < kept < 2 << 20


async def test_children_of_a_dead_host_die_with_it(scene: Scene) -> None:
    await scene.runtime.load(_hostile("leave_children", "load"))
    home = scene.runtime.pids()["villain"]
    child = _children(home)[0]
    await until(lambda: os.getsid(child) == child)  # it may just have been born
    await scene.moved()  # tainted: the others have left
    await scene.runtime.unload("villain")
    await until(lambda: is_dead(child))
    await scene.unharmed()
