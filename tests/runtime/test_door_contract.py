"""The `Runtime` door: one suite over every implementation, with real processes and sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from tempfile import TemporaryDirectory
from time import monotonic

import pytest

from modelmesh.errors import Code, MeshError, Reason
from modelmesh.runtime import client
from modelmesh.runtime.door import Runtime
from modelmesh.runtime.external import ExternalConfig, ExternalRuntime
from modelmesh.runtime.hosts import HostedRuntime
from modelmesh.runtime.inline import InlineRuntime
from modelmesh.wire.transport import Caller
from tests.runtime.external_server import ExternalServer
from tests.runtime.fake import FakeRuntime
from tests.runtime.interrupting import interrupted
from tests.runtime.support import Listener, ask, begin, config, dummy
from tests.runtime.waiting import until

MOST_AWAITS = 40
Start = Callable[[], AbstractAsyncContextManager[Runtime]]


class AttachedRuntime(ExternalRuntime):
    """With its server at hand."""

    def __init__(self, where: ExternalConfig, server: ExternalServer) -> None:
        super().__init__(where)
        self.server = server


@asynccontextmanager
async def _running(runtime: Runtime) -> AsyncIterator[Runtime]:
    await runtime.start(Listener())
    try:
        yield runtime
    finally:
        await runtime.close(5.0)


@asynccontextmanager
async def _external(path: str = "") -> AsyncIterator[Runtime]:
    server = ExternalServer(path=path)
    where = ExternalConfig(runtime_socket=path) if path else ExternalConfig(server.port)
    try:
        async with _running(AttachedRuntime(where, server)) as runtime:
            yield runtime
    finally:
        await asyncio.to_thread(server.stop)


@asynccontextmanager
async def _external_on_a_socket() -> AsyncIterator[Runtime]:
    with TemporaryDirectory() as folder:
        async with _external(f"{folder}/grpc.sock") as runtime:
            yield runtime


STARTS: dict[str, Start] = {
    "shared": lambda: _running(HostedRuntime(config(tier="shared"))),
    "process": lambda: _running(HostedRuntime(config(tier="process"))),
    "inline": lambda: _running(InlineRuntime(config(tier="inline"))),
    "external": _external,
    "external-socket": _external_on_a_socket,
    "fake": lambda: _running(FakeRuntime()),
}


@pytest.fixture(params=STARTS)
async def runtime(request: pytest.FixtureRequest) -> AsyncIterator[Runtime]:
    async with STARTS[request.param]() as running:
        yield running


async def _failure(work: Awaitable[object]) -> MeshError:
    with pytest.raises(MeshError) as caught:
        await work
    return caught.value


async def test_a_loaded_model_answers_as_itself(runtime: Runtime) -> None:
    loaded = await runtime.load(dummy("model-a", '{"size_bytes": 12345}'))
    assert loaded.size_bytes >= 12345
    assert loaded.tier
    assert loaded.load_s >= 0
    assert b"model-a" in await ask(runtime, "model-a")
    assert runtime.describe("model-a") == loaded


async def test_models_are_not_confused(runtime: Runtime) -> None:
    names = [f"model-{number}" for number in range(5)]
    await asyncio.gather(*(runtime.load(dummy(name)) for name in names))
    answers = await asyncio.gather(*(ask(runtime, name) for name in names * 10))
    assert all(name.encode() in answer for name, answer in zip(names * 10, answers, strict=True))


async def test_a_model_that_is_not_held_is_not_found_and_never_ran(runtime: Runtime) -> None:
    failure = (await _failure(ask(runtime, "nobody"))).failure
    assert (failure.code, failure.executed) == (Code.NOT_FOUND, False)
    assert runtime.describe("nobody") is None


async def test_a_load_that_fails_says_why_and_leaves_nothing(runtime: Runtime) -> None:
    broken = dummy("broken", json.dumps({"load_error": "bad weights"}))
    failure = (await _failure(runtime.load(broken))).failure
    assert (failure.code, failure.reason) == (Code.FAILED_PRECONDITION, Reason.LOAD_FAILED)
    assert "bad weights" in failure.message
    assert (await _failure(ask(runtime, "broken"))).failure.code is Code.NOT_FOUND
    await runtime.load(dummy("broken"))
    assert b"broken" in await ask(runtime, "broken")


async def test_an_unloaded_model_is_gone_and_may_be_unloaded_again(runtime: Runtime) -> None:
    await runtime.load(dummy("model-a"))
    await runtime.unload("model-a")
    await runtime.unload("model-a")
    assert runtime.describe("model-a") is None
    assert (await _failure(ask(runtime, "model-a"))).failure.code is Code.NOT_FOUND


async def test_what_is_not_loaded_needs_no_force(runtime: Runtime) -> None:
    """Only a runtime that owns its processes has any; either way, nothing else is touched."""
    await runtime.load(dummy("model-a"))
    await runtime.load(dummy("model-b"))
    await runtime.unload("model-a")
    owns = isinstance(runtime, HostedRuntime | FakeRuntime)
    assert await runtime.expel("model-a") is owns
    assert b"model-b" in await ask(runtime, "model-b")


async def test_a_model_may_be_loaded_again(runtime: Runtime) -> None:
    for _ in range(3):
        await runtime.load(dummy("model-a"))
        assert b"model-a" in await ask(runtime, "model-a")
        await runtime.unload("model-a")


async def test_a_cancelled_load_can_be_followed_by_another(runtime: Runtime) -> None:
    task = asyncio.ensure_future(runtime.load(dummy("model-a", '{"load_s": 0.2}')))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await runtime.load(dummy("model-a"))
    assert b"model-a" in await ask(runtime, "model-a")


@pytest.mark.parametrize("late", [False, True])
async def test_a_load_that_is_cancelled_at_any_await_leaves_nothing(
    runtime: Runtime, late: bool
) -> None:
    """`late`: in the moment that what it awaited is there."""
    request = dummy("m", '{"load_s": 0.01, "size_bytes": 1000}')
    for number in range(MOST_AWAITS):
        if not await interrupted(runtime.load(request), number, late):
            break
        assert runtime.describe("m") is None
        assert (await _failure(ask(runtime, "m"))).failure.code is Code.NOT_FOUND
        await _until_nothing_is_left(runtime)
        await interrupted(runtime.load(request), number, late)
        await runtime.load(request)  # while the one before is still being given up
        assert b"m" in await ask(runtime, "m")
        await _until_all_is_said(runtime)
        assert b"m" in await ask(runtime, "m")
        await runtime.unload("m")
        await _until_nothing_is_left(runtime)
    assert 0 < number < MOST_AWAITS - 1
    assert b"m" in await ask(runtime, "m")


async def _until_all_is_said(runtime: Runtime) -> None:
    """Nothing is under way to where models live."""
    if isinstance(runtime, HostedRuntime):
        living = runtime._pool.living
        await until(lambda: not any(host.link.unanswered_count for host in living.values()))
    elif isinstance(runtime, ExternalRuntime):
        await until(lambda: not runtime._parting)


async def _until_nothing_is_left(runtime: Runtime) -> None:
    """No trace of a model, in our books or where models live."""
    await _until_all_is_said(runtime)
    if isinstance(runtime, HostedRuntime):
        assert not runtime.pids()
        assert not runtime._loading
        living = runtime._pool.living
        await until(lambda: not any(host.models or host.sole for host in living.values()))
        await until(lambda: len(living) == 2)  # the shared one and the spare
        for host in list(living.values()):
            assert not await _holds(host.link)
    elif isinstance(runtime, InlineRuntime):
        assert not await _holds(runtime._caller)
    elif isinstance(runtime, AttachedRuntime):
        assert not runtime.server.models
    elif isinstance(runtime, FakeRuntime):
        assert not runtime.held


async def _holds(caller: Caller) -> bool:
    try:
        await client.model_size(caller, "m", monotonic() + 30)
    except MeshError as error:
        if error.failure.code is Code.NOT_FOUND:
            return False
        raise
    return True


async def test_callers_that_leave_disturb_nobody(runtime: Runtime) -> None:
    await runtime.load(dummy("model-a"))
    for _ in range(10):
        begin(runtime, "model-a").leave()
    assert b"model-a" in await ask(runtime, "model-a")


async def test_an_estimate_is_there_before_the_load(runtime: Runtime) -> None:
    assert runtime.predict_size(dummy("model-a")) >= 1


async def test_a_type_that_nobody_runs_is_refused_by_name(runtime: Runtime) -> None:
    runtime.check("dummy")
    if isinstance(runtime, ExternalRuntime):
        return  # only the server knows what it runs
    with pytest.raises(MeshError, match="dummy") as caught:
        runtime.check("no-such-type")
    assert caught.value.failure.code is Code.INVALID_ARGUMENT
