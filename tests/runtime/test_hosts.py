"""Our own hosts beyond the door's contract: moves, blame, quarantine, deaths, and costs."""

import asyncio
import json
import os
import signal
import statistics
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from modelmesh.errors import Code, MeshError, Reason
from modelmesh.runtime.door import LoadRequest, Part
from modelmesh.runtime.hosts import HostedRuntime
from tests.runtime.support import QUICK_S, Listener, ask, begin, config, dummy
from tests.runtime.waiting import is_dead, is_under_way, until

MIB = 1 << 20
LISTENERS: WeakKeyDictionary[HostedRuntime, Listener] = WeakKeyDictionary()


@asynccontextmanager
async def _running(**changes: Any) -> AsyncIterator[HostedRuntime]:
    runtime, listener = HostedRuntime(config(**changes)), Listener()
    LISTENERS[runtime] = listener
    await runtime.start(listener)
    try:
        yield runtime
    finally:
        await runtime.close(5.0)


@pytest.fixture
async def runtime() -> AsyncIterator[HostedRuntime]:
    async with _running() as running:
        yield running


@pytest.fixture
async def watchful() -> AsyncIterator[HostedRuntime]:
    """Sets a host aside after a quarter of a second."""
    async with _running(set_aside_s=QUICK_S) as running:
        yield running


def _hostile(model_id: str, path: str = "", file_bytes: int = 0, **key: Any) -> LoadRequest:
    return LoadRequest(model_id, "hostile", path, json.dumps(key), file_bytes)


def _large_file(folder: Path) -> tuple[str, int]:
    path = folder / "model.bin"
    path.write_bytes(os.urandom(2 * MIB))
    return str(path), 2 * MIB


def _listener(runtime: HostedRuntime) -> Listener:
    return LISTENERS[runtime]


def _tier(runtime: HostedRuntime, model_id: str) -> str:
    described = runtime.describe(model_id)
    return described.tier if described else ""


async def _failure(runtime: HostedRuntime, model_id: str) -> MeshError:
    with pytest.raises(MeshError) as caught:
        await ask(runtime, model_id)
    return caught.value


# --- tiers


async def test_a_large_unknown_file_starts_alone_and_settles(
    runtime: HostedRuntime, tmp_path: Path
) -> None:
    shared = await runtime.load(dummy("other"))
    for _ in range(5):  # on a machine that stood still meanwhile it seemed slow
        model = _hostile("large", *_large_file(tmp_path))
        loaded = await runtime.load(model)
        alone = runtime.pids()["large"]
        assert (shared.tier, loaded.tier) == ("shared", "process")
        assert alone != runtime.pids()["other"]
        await _tried(runtime, "large")
        if _tier(runtime, "large") == "shared":
            break
        await runtime.unload("large")
    assert runtime.pids()["large"] == runtime.pids()["other"]
    await until(lambda: is_dead(alone))
    await ask(runtime, "large")
    await runtime.unload("large")
    again = await runtime.load(model)
    assert (again.tier, again.reason) == ("shared", "proved small and quick")


async def _tried(runtime: HostedRuntime, model_id: str) -> None:
    """Ask it until its trial is over, and while it settles."""
    while runtime._residents[model_id].trial or is_under_way(f"settle {model_id}"):
        await ask(runtime, model_id)


async def test_a_large_slow_model_stays_alone(runtime: HostedRuntime, tmp_path: Path) -> None:
    await runtime.load(_hostile("slow", *_large_file(tmp_path), predict_s=0.03))
    for _ in range(6):
        await ask(runtime, "slow")
    assert _tier(runtime, "slow") == "process"
    await runtime.unload("slow")
    again = await runtime.load(_hostile("slow", *_large_file(tmp_path), predict_s=0.03))
    assert again.tier == "process"


async def test_a_process_host_weighs_all_that_is_its_own(tmp_path: Path) -> None:
    async with _running(tier="process") as runtime:
        loaded = await runtime.load(_hostile("heavy", bytes=64 * MIB))
        assert 64 * MIB < loaded.size_bytes < 80 * MIB


# --- set aside


async def test_a_slow_entry_keeps_its_host_and_the_others_get_another(
    watchful: HostedRuntime, tmp_path: Path
) -> None:
    runtime, gate = watchful, tmp_path / "gate"
    await runtime.load(_hostile("slow", gate=str(gate)))
    await runtime.load(dummy("quick"))
    old = runtime.pids()["slow"]
    assert runtime.pids()["quick"] == old
    slow = begin(runtime, "slow")
    quick = [begin(runtime, "quick") for _ in range(20)]
    await asyncio.gather(*(reply.future for reply in quick))
    assert not slow.future.done()
    assert runtime.pids()["quick"] != old
    gate.touch()
    await slow.future
    assert (runtime.pids()["slow"], _tier(runtime, "slow")) == (old, "process")
    await runtime.unload("slow")
    again = await runtime.load(_hostile("slow", gate=str(gate)))
    assert again.tier == "process"
    assert "held a shared host" in again.reason


async def test_what_was_held_while_nobody_looked_has_one_look_more_to_end(
    watchful: HostedRuntime, tmp_path: Path
) -> None:
    """What kept the daemon from looking, a machine that stood still, may have kept its hosts."""
    runtime, watch = watchful, watchful._watch
    await runtime.load(_hostile("slow", gate=str(tmp_path / "gate")))
    await watch.close()  # it looks when it is told to
    await watch._look_at_all()
    slow = begin(runtime, "slow")
    (home,) = runtime._pool.shared
    await until(lambda: home.running().call_ids)
    held = monotonic() + 2 * QUICK_S
    await until(lambda: monotonic() > held)
    await watch._look_at_all()
    assert _tier(runtime, "slow") == "shared"
    await watch._look_at_all()
    assert _tier(runtime, "slow") == "process"
    (tmp_path / "gate").touch()
    await slow.future


async def test_no_call_runs_twice_when_a_host_is_set_aside(
    watchful: HostedRuntime, tmp_path: Path
) -> None:
    runtime, log = watchful, tmp_path / "log"
    await runtime.load(_hostile("slow", predict_s=0.4))
    await runtime.load(_hostile("logged", log=str(log)))
    numbers = iter(range(100_000))
    for _ in range(3):
        replies = [begin(runtime, "slow")]
        replies += [begin(runtime, "logged", next(numbers)) for _ in range(200)]
        await asyncio.gather(*(reply.future for reply in replies))
        await runtime.unload("slow")
        await runtime.load(_hostile("slow", predict_s=0.4, round=next(numbers)))
    ran = log.read_text().split()
    assert len(ran) == 600
    assert len(set(ran)) == 600


async def test_calls_that_go_on_elsewhere_are_told_once(
    watchful: HostedRuntime, tmp_path: Path
) -> None:
    """Decoded together, run one by one: those behind the slow one are decoded again."""
    runtime, gate = watchful, tmp_path / "gate"
    await runtime.load(_hostile("slow", gate=str(gate)))
    await runtime.load(dummy("quick"))
    old = runtime.pids()["quick"]
    replies = [begin(runtime, "slow") for _ in range(3)]
    await begin(runtime, "quick").future
    assert runtime.pids()["quick"] != old, "the host was set aside"
    gate.touch()
    await asyncio.gather(*(reply.future for reply in replies))
    await _told_of(runtime, "slow", 3, 3)
    await _told_of(runtime, "quick", 1, 1)


async def test_a_call_whose_caller_leaves_is_told_once(runtime: HostedRuntime) -> None:
    await runtime.load(dummy("other"))
    for wait_s in (0.3, 3.0, 10.0):  # longer, where the machine stood still and they were answered
        waits = f"waits-{wait_s}"
        await runtime.load(dummy(waits, json.dumps({"predict_s": wait_s})))
        if await _leave_within(runtime, waits, wait_s):
            break
    await until(lambda: _parts(runtime, waits).count(Part.PREPROCESS) == 3)
    await begin(runtime, waits).future  # what else there is to say has been said
    await _told_of(runtime, waits, 4, 1)


async def _leave_within(runtime: HostedRuntime, model_id: str, wait_s: float) -> bool:
    """Three callers leave while their calls wait; whether that was in time."""
    due = monotonic() + wait_s
    left = [begin(runtime, model_id) for _ in range(3)]
    await ask(runtime, "other")  # behind them: they are decoded by now
    for reply in left:
        reply.leave()
    await asyncio.sleep(0)  # it is written with this turn of the loop
    return monotonic() < due


def _parts(runtime: HostedRuntime, model_id: str) -> list[Part]:
    return [part for part, about in _listener(runtime).times if about == model_id]


async def _told_of(runtime: HostedRuntime, model_id: str, decoded: int, encoded: int) -> None:
    parts = _parts(runtime, model_id)
    assert parts.count(Part.PREPROCESS) == decoded
    assert parts.count(Part.POSTPROCESS) == encoded


async def test_where_memory_allows_no_second_host_the_stuck_one_is_ended() -> None:
    async with _running(capacity_bytes=96 * MIB, set_aside_s=1.0) as runtime:
        await runtime.load(_hostile("neighbour", bytes=60 * MIB))
        await runtime.load(_hostile("stuck", on="predict", do="hang"))
        old = runtime.pids()["stuck"]
        failure = (await _failure(runtime, "stuck")).failure
        assert failure.reason is Reason.WORKER_CRASHED
        assert "no memory" in failure.message
        await until(lambda: is_dead(old))
        await ask(runtime, "neighbour")


# --- weight


async def test_a_worn_host_is_replaced_and_nobody_notices() -> None:
    async with _running(weigh_s=0.2) as runtime:
        await runtime.load(_hostile("leaky", leak=8 * MIB))
        await runtime.load(dummy("other"))
        old = runtime.pids()["leaky"]
        for _ in range(10):
            await ask(runtime, "leaky")
        await until(lambda: old not in runtime.pids().values())
        await until(lambda: is_dead(old))
        await asyncio.gather(ask(runtime, "leaky"), ask(runtime, "other"))
        assert _listener(runtime).lost == {}
        assert max(_listener(runtime).overheads) > 63 * MIB, "less than a MiB more is not told"


async def test_a_model_that_grows_in_its_own_host_grows_in_the_books() -> None:
    async with _running(tier="process", weigh_s=0.2) as runtime:
        loaded = await runtime.load(_hostile("leaky", leak=8 * MIB))
        for _ in range(8):  # the last tenth of it may not be worth telling
            await ask(runtime, "leaky")
        most = loaded.size_bytes + 30 * MIB
        await until(lambda: _listener(runtime).resized.get("leaky", 0) > most)


async def test_what_a_call_that_is_weighed_in_its_midst_grows_by_later_is_weighed_too() -> None:
    async with _running(tier="process", weigh_s=0.1) as runtime:
        loaded = await runtime.load(_hostile("late", on="predict", do="grow_late"))
        await ask(runtime, "late")
        most = loaded.size_bytes + 30 * MIB
        await until(lambda: _listener(runtime).resized.get("late", 0) > most)


async def test_a_host_that_could_not_be_weighed_in_time_is_weighed_later() -> None:
    async with _running(tier="process", weigh_s=60.0) as runtime:
        loaded = await runtime.load(_hostile("leaky", leak=8 * MIB))
        for _ in range(8):
            await ask(runtime, "leaky")
        gate = threading.Event()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        asyncio.get_running_loop().run_in_executor(None, gate.wait)
        try:
            await runtime._weights.weigh_all()
            assert not _listener(runtime).resized
        finally:
            gate.set()
        await runtime._weights.weigh_all()
        assert _listener(runtime).resized["leaky"] > loaded.size_bytes + 30 * MIB


async def test_a_listener_that_breaks_stops_no_weighing() -> None:
    class Broken(Listener):
        def model_resized(self, model_id: str, size_bytes: int) -> None:
            super().model_resized(model_id, size_bytes)
            raise ValueError("boom")

    runtime, listener = HostedRuntime(config(tier="process", weigh_s=0.1)), Broken()
    await runtime.start(listener)
    try:
        loaded = await runtime.load(_hostile("leaky", leak=8 * MIB))
        for grown in (30 * MIB, 90 * MIB):
            for _ in range(8):
                await ask(runtime, "leaky")
            most = loaded.size_bytes + grown
            await until(lambda most=most: listener.resized.get("leaky", 0) > most)  # type: ignore[misc]
    finally:
        await runtime.close(5.0)


# --- blame


async def test_a_host_that_is_killed_takes_only_what_it_ran(
    runtime: HostedRuntime, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    for number in range(10):
        await runtime.load(_hostile(f"m{number}", log=str(log), predict_s=0.001))
    replies = [begin(runtime, f"m{number % 10}", number) for number in range(500)]
    await until(lambda: log.exists() and log.stat().st_size > 50)
    os.kill(runtime.pids()["m0"], signal.SIGKILL)
    results = await asyncio.gather(*(reply.future for reply in replies), return_exceptions=True)
    failed = [result for result in results if isinstance(result, MeshError)]
    culprits = [error for error in failed if error.failure.reason is Reason.WORKER_CRASHED]
    assert len(culprits) <= 1  # one entry, of one call: these models are not joined
    for error in failed:  # the culprit's other calls never ran, and say so
        assert error.failure.executed == (error in culprits)
    ran = log.read_text().split()
    assert len(ran) == len(set(ran))


async def test_a_keeper_that_is_slow_to_say_how_its_host_died_is_waited_for(
    runtime: HostedRuntime,
) -> None:
    await runtime.load(dummy("villain", '{"crash_on_predict": true}'))
    home = runtime.pids()["villain"]
    keeper = _parent(home)
    os.kill(keeper, signal.SIGSTOP)
    asked = begin(runtime, "villain").future
    await until(lambda: is_dead(home))
    await asyncio.wait([asked], timeout=0.5)
    os.kill(keeper, signal.SIGCONT)
    with pytest.raises(MeshError, match="signal 11"):
        await asked


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_an_idle_host_that_is_killed_costs_nobody(runtime: HostedRuntime) -> None:
    for number in range(3):
        await runtime.load(dummy(f"m{number}"))
    old = runtime.pids()["m0"]
    os.kill(old, signal.SIGKILL)
    await until(lambda: is_dead(old))
    for number in range(3):
        await ask(runtime, f"m{number}")
    assert old not in runtime.pids().values()


async def test_a_model_that_takes_hosts_down_again_and_again_is_quarantined(
    runtime: HostedRuntime,
) -> None:
    villain = dummy("villain", '{"crash_on_predict": true}')
    tiers = []
    for _ in range(3):
        tiers.append((await runtime.load(villain)).tier)
        await _failure(runtime, "villain")
    assert tiers == ["shared", "process", "process"]
    with pytest.raises(MeshError) as caught:
        await runtime.load(villain)
    failure = caught.value.failure
    assert (failure.code, failure.reason) == (Code.FAILED_PRECONDITION, Reason.QUARANTINED)
    assert "signal 11" in failure.message
    await runtime.load(dummy("villain"))  # another model under this id starts clean
    await ask(runtime, "villain")


async def test_a_quarantine_ends() -> None:
    villain = dummy("villain", '{"crash_on_predict": true}')
    for expiry_s in (0.5, 5.0, 20.0):  # longer, where it was over before it was seen
        async with _running(quarantine_crashes=1, load_failure_expiry_s=expiry_s) as runtime:
            await runtime.load(villain)
            over = monotonic() + expiry_s
            await _failure(runtime, "villain")
            refused = await _is_quarantined(runtime, villain)
            assert refused or monotonic() > over
            over = monotonic() + expiry_s
            await until(lambda over=over: monotonic() > over)  # type: ignore[misc]
            assert not await _is_quarantined(runtime, villain)
        if refused:
            return
    pytest.fail("it was over each time")


async def _is_quarantined(runtime: HostedRuntime, request: LoadRequest) -> bool:
    try:
        await runtime.load(request)
    except MeshError as error:
        return "quarantined" in error.failure.message
    return False


async def test_a_file_that_is_gone_when_its_model_must_come_back(
    runtime: HostedRuntime, tmp_path: Path
) -> None:
    path, size = _large_file(tmp_path)
    await runtime.load(LoadRequest("other", "dummy", "", "{}"))
    await runtime.load(_hostile("vanished", path, size, needs_file=True))
    old = runtime.pids()["vanished"]
    os.unlink(path)
    os.kill(old, signal.SIGKILL)
    await until(lambda: is_dead(old))
    error = await _failure(runtime, "vanished")
    assert error.failure.code in (Code.NOT_FOUND, Code.UNAVAILABLE, Code.FAILED_PRECONDITION)
    assert not error.failure.executed
    await ask(runtime, "other")


# --- zygote and daemon


async def test_the_zygotes_death_costs_no_host_and_the_next_host_is_born_all_the_same(
    runtime: HostedRuntime,
) -> None:
    await runtime.load(dummy("m"))
    before = runtime.pids()["m"]
    zygote = runtime.zygote_pid
    os.kill(zygote, signal.SIGKILL)
    await until(lambda: runtime.zygote_pid != zygote)
    await ask(runtime, "m")
    assert runtime.pids()["m"] == before
    for _ in range(2):
        old = runtime.pids()["m"]
        os.kill(old, signal.SIGKILL)
        await until(partial(is_dead, old))
        await ask(runtime, "m")
    assert runtime.zygote_pid not in (0, zygote)


async def test_close_leaves_no_process_behind(tmp_path: Path) -> None:
    async with _running(predict_timeout_s=60.0) as runtime:
        await runtime.load(dummy("m"))
        await runtime.load(_hostile("hangs", on="predict", do="hang"))
        begin(runtime, "hangs")
        home = next(iter(runtime._pool.shared))
        await until(lambda: home.running().call_ids)
        pids = {*runtime.pids().values(), runtime.zygote_pid}
    assert all(is_dead(pid) for pid in pids)


# --- what it costs (printed, never asserted)


async def test_respawn_and_cold_loads_are_told(
    runtime: HostedRuntime, capsys: pytest.CaptureFixture[str]
) -> None:
    respawns, cold = [], []
    await runtime.load(dummy("m"))
    for number in range(10):
        started = monotonic()
        await runtime.load(dummy(f"cold-{number}"))
        await ask(runtime, f"cold-{number}")
        cold.append(monotonic() - started)
    for _ in range(5):
        old = runtime.pids()["m"]
        await ask(runtime, "m")
        os.kill(old, signal.SIGKILL)
        started = monotonic()
        await until(partial(is_dead, old))
        await ask(runtime, "m")
        respawns.append(monotonic() - started)
    with capsys.disabled():
        print(
            f"\n  cold load + answer, shared: p50 {statistics.median(cold) * 1e3:.1f} ms;"
            f" from kill -9 to the next answer: p50 {statistics.median(respawns) * 1e3:.1f} ms"
        )
