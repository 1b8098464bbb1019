"""Hosts and external servers at odd moments: loads given up half-way, and means that run out."""

import asyncio
import json
import os
import resource
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.pb import model_runtime_pb2 as pb
from modelmesh.runtime import client
from modelmesh.runtime.aside import MOST
from modelmesh.runtime.door import LoadedModel, LoadRequest
from modelmesh.runtime.external import ExternalConfig, ExternalRuntime
from modelmesh.runtime.host import Host
from modelmesh.runtime.hosts import HostedRuntime
from modelmesh.runtime.inline import InlineRuntime
from modelmesh.runtime.residents import Resident
from modelmesh.runtime.zygote import ZygoteConfig
from modelmesh.wire import kinds
from modelmesh.wire.awaiting import FutureReply
from modelmesh.wire.transport import Call
from tests.runtime.external_server import ExternalServer, answered_in_time
from tests.runtime.interrupting import interrupted
from tests.runtime.support import HOSTILE, Listener, ask, begin, config, dummy
from tests.runtime.waiting import is_dead, until

SLOW_LOAD = '{"load_s": 30, "hold": true}'


@asynccontextmanager
async def _running(**changes: Any) -> AsyncIterator[HostedRuntime]:
    runtime = HostedRuntime(config(**changes))
    await runtime.start(Listener())
    try:
        yield runtime
    finally:
        await runtime.close(5.0)


def _host_of(runtime: HostedRuntime, model_id: str) -> Host | None:
    living = runtime._pool.living.values()
    return next((host for host in living if model_id in host.models), None)


def _gated(model_id: str, gate: Path) -> LoadRequest:
    """Its calls last until the file is there."""
    return LoadRequest(model_id, "hostile", "", json.dumps({"gate": str(gate)}))


# --- our own hosts


async def test_a_load_that_is_given_up_while_it_is_weighed_leaves_no_host() -> None:
    async with _running(tier="process") as runtime:
        gate = threading.Event()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        asyncio.get_running_loop().run_in_executor(None, gate.wait)  # nothing is weighed now
        load = asyncio.create_task(runtime.load(dummy("m")))
        await until(lambda: _host_of(runtime, "m"))
        host = _host_of(runtime, "m")
        assert host is not None
        await until(lambda: host.link.sent_count and not host.link.unanswered_count)
        load.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await load
        await until(lambda: is_dead(host.pid))


async def test_a_host_that_nobody_can_weigh_in_time_holds_no_load() -> None:
    async with _running(tier="process") as runtime:
        gate = threading.Event()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        asyncio.get_running_loop().run_in_executor(None, gate.wait)  # nothing is weighed now
        load = asyncio.create_task(runtime.load(dummy("m", '{"size_bytes": 12345}')))
        try:
            await asyncio.wait([load], timeout=60)
            assert load.done()
            assert load.result().size_bytes == 12345  # as its host says
        finally:
            gate.set()


async def test_hosts_that_nobody_can_weigh_in_time_hold_no_start() -> None:
    gate = threading.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    asyncio.get_running_loop().run_in_executor(None, gate.wait)
    runtime = HostedRuntime(config())
    try:
        status = await asyncio.wait_for(runtime.start(Listener()), 60)
        assert not gate.is_set()
        assert status.base_bytes == 0, "not known"
    finally:
        gate.set()
        await runtime.close(5.0)


def _of_hosts() -> int:
    """How many descriptors we hold that only hosts and zygotes have (others come and go)."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sum("pidfd" in link or "mm-journal" in link for link in links)


@pytest.mark.parametrize("late", [False, True])
async def test_a_birth_that_is_given_up_at_any_await_leaves_nothing(late: bool) -> None:
    async with _running() as runtime:
        pool = runtime._pool
        await until(lambda: pool._spares)
        living, held = dict(pool.living), _of_hosts()
        children = Path(f"/proc/{runtime.zygote_pid}/task/{runtime.zygote_pid}/children")
        for number in range(10):
            if not await interrupted(pool._born(), number, late):
                break
            assert pool.living == living
            await until(lambda: len(children.read_text().split()) == 2)  # a keeper a host
            await until(lambda: _of_hosts() == held)
        assert 0 < number < 9


async def test_a_worn_host_is_replaced_once() -> None:
    async with _running() as runtime:
        await runtime.load(dummy("m"))
        worn = _host_of(runtime, "m")
        assert worn is not None
        for _ in range(2):
            runtime._renew(worn)
        await until(lambda: worn.dead)
        await until(lambda: runtime._pool._spares)
        assert len(runtime._pool.shared) == 1
        assert b"m" in await ask(runtime, "m")


async def test_a_worn_host_that_could_not_be_replaced_is_replaced_later() -> None:
    async with _running() as runtime:
        await until(lambda: runtime._pool._spares)
        await runtime.load(dummy("m"))
        worn = _host_of(runtime, "m")
        assert worn is not None
        await runtime._pool.process_host()  # the spare is gone
        with _no_descriptors(), capture_logs() as logs:
            runtime._renew(worn)
            await until(lambda: [line for line in logs if "worn" in line["event"]])
        runtime._renew(worn)
        await until(lambda: worn.dead)
        assert b"m" in await ask(runtime, "m")


async def test_a_load_that_was_given_up_is_not_held_against_its_model() -> None:
    async with _running(tier="process") as runtime:
        request = dummy("m", SLOW_LOAD)
        first = asyncio.create_task(runtime.load(request))
        await until(lambda: (host := _host_of(runtime, "m")) and host.running().call_ids)
        host = _host_of(runtime, "m")
        assert host is not None
        with capture_logs() as logs:
            first.cancel()
            again = asyncio.create_task(runtime.load(request))
            await until(lambda: host.dead)
            await until(host._process.status.done)  # the verdict waits for the keeper's word
            await asyncio.sleep(0.1)
        assert runtime._conduct.offence(request) == ""
        assert not [entry for entry in logs if entry["event"] == "a model cost its host"]
        again.cancel()
        with suppress(asyncio.CancelledError):
            await again


async def test_a_crash_of_a_load_in_a_host_of_its_own_breaks_no_task() -> None:
    async with _running(tier="process") as runtime:
        with capture_logs() as logs:
            with pytest.raises(MeshError, match="crashed"):
                await runtime.load(dummy("m", '{"crash_on_load": true}'))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert not [entry for entry in logs if entry["event"] == "task failed"]


@contextmanager
def _no_descriptors() -> Iterator[None]:
    """No further file can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_without_descriptors_there_is_no_host_for_now() -> None:
    async with _running(tier="process") as runtime:
        await until(lambda: runtime._pool._spares)
        with _no_descriptors():
            await runtime.load(dummy("spare"))
            with pytest.raises(MeshError) as caught:
                await runtime.load(dummy("m"))
        assert caught.value.failure.code is Code.UNAVAILABLE
        assert caught.value.failure.fault is Fault.CAPACITY
        assert not caught.value.failure.executed
        await runtime.load(dummy("m"))


async def test_a_zygote_that_never_gets_ready_ends_the_start_and_is_ended() -> None:
    hanging = ZygoteConfig(runtimes="tests.runtime.hanging_import:Never", start_s=0.5)
    runtime = HostedRuntime(config(zygote=hanging))
    start = asyncio.create_task(runtime.start(Listener()))
    await until(lambda: runtime.zygote_pid)
    pid = runtime.zygote_pid
    with pytest.raises(MeshError, match="not ready"):
        await start
    assert is_dead(pid)


async def test_a_zygote_that_was_begun_is_the_one_that_is_started() -> None:
    runtime = HostedRuntime(config())
    runtime.begin()
    pid = runtime.zygote_pid
    try:
        assert pid
        await runtime.start(Listener())
        assert runtime.zygote_pid == pid
        await runtime.load(dummy("m"))
    finally:
        await runtime.close(5.0)
    assert is_dead(pid)


async def test_a_zygote_that_was_begun_and_never_started_is_ended() -> None:
    runtime = HostedRuntime(config())
    runtime.begin()
    pid = runtime.zygote_pid
    assert not is_dead(pid)
    await runtime.close(0.0)
    assert is_dead(pid)


async def test_a_zygote_that_was_begun_and_cannot_start_says_why_at_the_start() -> None:
    runtime = HostedRuntime(config(zygote=ZygoteConfig(runtimes="tests.runtime.nowhere:Never")))
    runtime.begin()
    first = runtime.zygote_pid
    await until(lambda: is_dead(first))
    with pytest.raises(MeshError, match="nowhere"):
        await runtime.start(Listener())


async def test_a_zygote_that_hangs_is_replaced() -> None:
    async with _running(zygote=ZygoteConfig(runtimes=HOSTILE, spawn_s=2.0)) as runtime:
        await runtime.load(dummy("m"))
        await until(lambda: runtime._pool._spares)
        hung = runtime.zygote_pid
        os.kill(hung, signal.SIGSTOP)
        for _ in range(2):  # the shared host, then the spare that takes its place
            os.kill(runtime.pids()["m"], signal.SIGKILL)
            await until(lambda: "m" not in runtime.pids())
            answer = ask(runtime, "m")
            await asyncio.wait_for(answer, 60)
        assert is_dead(hung)


async def test_a_host_cannot_say_that_a_load_took_longer_than_it_did() -> None:
    class Liar:
        def __init__(self, said: str) -> None:
            self.said = said

        def start(self, call: Call) -> None:
            body = pb.LoadModelResponse(sizeInBytes=1).SerializeToString()
            call.reply.answer(body, ((client.LOAD_MS, self.said),))

        async def close(self) -> None: ...

    for said in ("nan", "inf", "-1", "x"):
        assert (await client.load(Liar(said), dummy("m"))).load_s is None
    assert (await client.load(Liar("2"), dummy("m"))).load_s == 0.002


async def test_a_call_that_waits_for_a_home_is_let_go_when_its_caller_leaves() -> None:
    resident = Resident(dummy("m"), LoadedModel(1, 0.0, "shared"), None)
    stays, leaves = FutureReply(), FutureReply()
    for reply in (stays, leaves):
        resident.wait(Call(kinds.V1_PREDICT, b"x", reply))
    leaves.leave()
    assert [call.reply for call in resident.waiting] == [stays]


async def test_an_inline_runtime_that_never_started_closes() -> None:
    await InlineRuntime(config()).close(1.0)


# --- a server of its own


@asynccontextmanager
async def _attached(server: ExternalServer, **changes: Any) -> AsyncIterator[ExternalRuntime]:
    runtime = ExternalRuntime(ExternalConfig(server.port, **changes))
    try:
        await runtime.start(Listener())
        yield runtime
        await runtime.close(5.0)
    finally:
        await asyncio.to_thread(server.stop)


class Gated(ExternalServer):
    """Says nothing of a size, and unloads nothing, before it may."""

    def __init__(self) -> None:
        self.size_asked, self.size_gate = threading.Event(), threading.Event()
        self.unload_asked, self.unload_gate = threading.Event(), threading.Event()
        self.did: list[str] = []
        super().__init__()

    def loadModel(self, request: Any, context: Any) -> Any:
        self.did.append("load")
        return super().loadModel(request, context)

    def modelSize(self, request: Any, context: Any) -> Any:
        self.size_asked.set()
        self.size_gate.wait(60)
        return super().modelSize(request, context)

    def unloadModel(self, request: Any, context: Any) -> Any:
        self.unload_asked.set()
        self.unload_gate.wait(60)
        self.did.append("unload")
        return super().unloadModel(request, context)


async def test_a_load_that_is_given_up_while_its_size_is_asked_is_unloaded() -> None:
    server = Gated()
    server.unload_gate.set()
    async with _attached(server) as runtime:
        load = asyncio.create_task(runtime.load(dummy("m")))
        await until(server.size_asked.is_set)
        load.cancel()
        server.size_gate.set()
        with pytest.raises(asyncio.CancelledError):
            await load
        await until(lambda: not server.models)


async def test_a_load_waits_for_the_unload_after_a_failed_one_whoever_waited_before() -> None:
    server = Gated()
    server.size_gate.set()
    async with _attached(server) as runtime:
        with pytest.raises(MeshError):
            await runtime.load(dummy("m", '{"load_error": "no"}'))
        await until(server.unload_asked.is_set)
        second = asyncio.create_task(runtime.load(dummy("m")))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        third = asyncio.create_task(runtime.load(dummy("m")))
        await asyncio.wait([third], timeout=0.2)
        assert server.did == ["load"], "the unload would follow it"
        server.unload_gate.set()
        await third
        assert server.did == ["load", "unload", "load"]
        assert "m" in server.models


@pytest.mark.parametrize("size", [1 << 10, 1 << 18])
async def test_what_a_server_answers_that_cannot_be_written_as_json_ends_the_call(
    size: int,
) -> None:
    class Nonsense(ExternalServer):
        def ModelInfer(self, request: Any, context: Any) -> Any:
            answer = super().ModelInfer(request, context)
            answer.outputs[0].datatype = "FP64"
            answer.outputs[0].shape[:] = [1 << 62, -7]
            answer.outputs[0].ClearField("contents")
            answer.raw_output_contents.append(b"x" * size)
            answer.raw_output_contents.append(b"x" * size)
            return answer

    async with _attached(Nonsense()) as runtime:
        await runtime.load(dummy("m", '{"size_bytes": 1}'))
        reply = FutureReply()
        runtime.infer("m", Call(kinds.V1_PREDICT, b'{"instances": [1.0]}', reply))
        with pytest.raises(MeshError):
            await asyncio.wait_for(reply.future, 30)


async def test_large_bodies_beyond_what_can_be_translated_are_refused_or_end_in_time() -> None:
    large = json.dumps({"instances": [1.0] * 30_000}).encode()
    async with _attached(ExternalServer(), predict_timeout_s=0.5) as runtime:
        await runtime.load(dummy("m", '{"size_bytes": 1}'))
        gate = threading.Event()
        busy = [asyncio.create_task(runtime._aside.run(gate.wait, 60)) for _ in range(MOST - 1)]
        await asyncio.sleep(0)
        try:
            replies = [_begun(runtime, large) for _ in range(2)]
            failures = [await _failure_of(reply) for reply in replies]
        finally:
            gate.set()
        codes = {failure.code for failure in failures}
        assert codes == {Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED}
        assert not any(failure.executed for failure in failures)
        await asyncio.gather(*busy)
        assert await answered_in_time(lambda: _begun(runtime, large))


def _begun(runtime: ExternalRuntime, body: bytes) -> FutureReply:
    reply = FutureReply()
    runtime.infer("m", Call(kinds.V1_PREDICT, body, reply))
    return reply


async def _failure_of(reply: FutureReply) -> Failure:
    with pytest.raises(MeshError) as caught:
        await asyncio.wait_for(reply.future, 30)
    return caught.value.failure


@pytest.mark.parametrize("depth", [1 << 10, 1 << 18])
@pytest.mark.parametrize("kind", [kinds.V1_PREDICT, kinds.V2_INFER])
async def test_json_of_any_depth_ends_the_call(kind: str, depth: int) -> None:
    async with _attached(ExternalServer()) as runtime:
        await runtime.load(dummy("m", '{"size_bytes": 1}'))
        reply = FutureReply()
        body = b'{"instances": ' + b"[" * depth + b"]" * depth + b"}"
        runtime.infer("m", Call(kind, body, reply))
        with pytest.raises(MeshError):
            await asyncio.wait_for(reply.future, 30)


async def test_a_host_that_does_not_let_go_of_a_model_is_replaced_and_nobody_notices(
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    async with _running(set_aside_s=60.0, load_timeout_s=3.0, predict_timeout_s=60.0) as runtime:
        await runtime.load(dummy("m"))
        await runtime.load(_gated("busy", gate))
        home = _host_of(runtime, "m")
        assert home is not None
        reply = begin(runtime, "busy")
        await until(lambda: bool(home.running().call_ids))
        with pytest.raises(MeshError):  # it waits behind the call
            await runtime.unload("m")
        expelled = asyncio.create_task(runtime.expel("m"))
        await until(lambda: runtime.pids()["busy"] != home.pid)
        assert not reply.future.done()
        assert not home.dead
        gate.touch()
        assert await expelled
        assert home.dead
        assert await reply.future, "the call that was running has ended well"


async def test_host_after_host_may_die_and_nothing_is_left_of_them() -> None:
    async with _running() as runtime:
        await runtime.load(dummy("m"))
        await until(lambda: runtime._pool._spares)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            os.kill(runtime.pids()["m"], signal.SIGKILL)
            await until(lambda: "m" not in runtime.pids())
            await ask(runtime, "m")
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before)
        await until(lambda: len(runtime._pool.living) == 2)
        children = f"/proc/{runtime.zygote_pid}/task/{runtime.zygote_pid}/children"
        await until(lambda: len(Path(children).read_text().split()) == 2)  # a keeper a host


async def test_many_that_find_no_shared_host_wait_for_the_same_birth() -> None:
    async with _running() as runtime:
        names = [f"m{number}" for number in range(12)]
        await runtime.load(dummy(names[0]))
        await until(lambda: runtime._pool._spares)
        lost = {host.number for host in runtime._pool.living.values()}
        for host in list(runtime._pool.living.values()):
            os.kill(host.pid, signal.SIGKILL)
        await until(lambda: not runtime._pool.shared)
        await asyncio.gather(*(runtime.load(dummy(name)) for name in names[1:]))
        await until(lambda: runtime._pool._spares)
        born = set(runtime._pool.living) - lost
        assert len(born) == 2, "a shared host and a spare"
        assert max(born) - max(lost) == 2, "no host was born for nothing"
