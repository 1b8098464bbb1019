"""The dispatcher's guard, and the tasks of calls that wait."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
from structlog.testing import capture_logs

from modelmesh.api.asking import Answer, Tasks
from modelmesh.api.dispatch import Dispatch
from modelmesh.api.grpc_port import GrpcPort
from modelmesh.errors import Code, Failure, MeshError, Reason, invalid
from modelmesh.pb import admin_pb2, inference_pb2
from modelmesh.pb import model_mesh_pb2 as pb
from modelmesh.wire.awaiting import FutureReply
from modelmesh.wire.kinds import MODEL_INFER
from modelmesh.wire.transport import Call
from tests.api.fakes import Rooms, call, grpc_port, rooms, until

BROKEN = (Code.INTERNAL, "internal error")


def infer(model_id: str) -> Call:
    body = inference_pb2.ModelInferRequest(model_name=model_id).SerializeToString()
    return Call(MODEL_INFER, body, FutureReply())


async def outcome(asked: Call) -> bytes | Failure:
    assert isinstance(asked.reply, FutureReply)
    try:
        async with asyncio.timeout(30):
            (message,) = await asked.reply.future
    except MeshError as error:
        return error.failure
    return bytes(message)


# --- one call's fault is its own


async def test_what_breaks_one_call_leaves_the_others_of_its_list_alone() -> None:
    daemon = rooms("good", "broken")
    calls = [infer("good"), infer("broken"), infer(""), infer("good")]
    with capture_logs() as logs:
        grpc_port(daemon).handler(calls)
    first, second, third, fourth = [await outcome(each) for each in calls]
    assert (first, fourth) == (b"answer", b"answer")
    assert isinstance(second, Failure)
    assert isinstance(third, Failure)
    assert (second.code, second.message, second.executed) == (*BROKEN, True)
    assert third.code is Code.INVALID_ARGUMENT
    assert [entry["event"] for entry in logs] == ["a call broke its method"]  # only the unforeseen


async def test_kinds_without_a_method_go_to_the_other_one() -> None:
    def answer(mine: Call) -> None:
        mine.reply.answer(b"method")

    def other(mine: Call) -> None:
        raise invalid(f"no {mine.kind}")

    handler = Dispatch({"/a": answer}, other)
    assert await call(handler, "/a") == b"method"
    assert await call(handler, "/b") == invalid("no /b").failure


# --- calls that wait

ENSURE = "/mmesh.ModelMesh/ensureLoaded"
BODY = pb.EnsureLoadedRequest(modelId="m", sync=True).SerializeToString()


@pytest.fixture
async def waiting() -> AsyncIterator[tuple[Rooms, GrpcPort]]:
    """A daemon whose loads wait at a gate."""
    daemon = rooms("m")
    daemon.gate = asyncio.Event()
    port = grpc_port(daemon)
    yield daemon, port
    await port.close()


async def test_a_caller_that_leaves_takes_its_task_along(waiting: tuple[Rooms, GrpcPort]) -> None:
    daemon, port = waiting
    reply = FutureReply()
    port.handler([Call(ENSURE, BODY, reply)])
    await until(lambda: daemon.ensured)
    reply.leave()
    await until(lambda: daemon.cancelled == 1)


async def test_a_caller_that_leaves_at_once_leaves_nothing(waiting: tuple[Rooms, GrpcPort]) -> None:
    daemon, port = waiting
    reply = FutureReply()
    port.handler([Call(ENSURE, BODY, reply)])
    reply.leave()
    await until(lambda: not len(port._tasks))
    assert not daemon.ensured


async def test_a_deadline_ends_the_wait(waiting: tuple[Rooms, GrpcPort]) -> None:
    daemon, port = waiting
    for wait_s in (0.02, 1.0, 10.0):
        ends_at = asyncio.get_running_loop().time() + wait_s
        mine = Call(ENSURE, BODY, FutureReply(), deadline=ends_at)
        port.handler([mine])
        late = await outcome(mine)
        assert isinstance(late, Failure)
        assert (late.code, late.reason) == (Code.DEADLINE_EXCEEDED, Reason.DEADLINE)
        if daemon.ensured:
            break  # else the time was up before the wait had begun
    assert daemon.cancelled == 1


async def test_no_call_waits_longer_than_the_bound() -> None:
    async def never() -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    tasks = Tasks(longest_s=0.02)
    handler = Dispatch({"/a": lambda mine: tasks.answer(mine, never)}, lambda _: None)
    late = await call(handler, "/a")
    assert isinstance(late, Failure)
    assert late.code is Code.DEADLINE_EXCEEDED


async def test_a_timeout_of_the_work_itself_is_no_deadline_of_the_caller() -> None:
    async def work() -> Answer:
        raise TimeoutError

    tasks = Tasks()
    handler = Dispatch({"/a": lambda mine: tasks.answer(mine, work)}, lambda _: None)
    with capture_logs():
        failure = await call(handler, "/a")
    assert isinstance(failure, Failure)
    assert (failure.code, failure.message) == BROKEN


async def test_who_comes_first_may_refuse() -> None:
    worked: list[str] = []

    async def no_longer_here() -> None:
        raise MeshError(Failure(Code.UNAVAILABLE, "this daemon ends", retry_after_s=1.0))

    async def work() -> Answer:
        worked.append("a")
        return b"", ()

    tasks = Tasks(first=no_longer_here)
    handler = Dispatch({"/a": lambda mine: tasks.answer(mine, work)}, lambda _: None)
    failure = await call(handler, "/a")
    assert isinstance(failure, Failure)
    assert (failure.code, failure.message) == (Code.UNAVAILABLE, "this daemon ends")
    assert not worked


async def test_waiting_calls_are_bounded(waiting: tuple[Rooms, GrpcPort]) -> None:
    daemon, _ = waiting
    assert daemon.gate is not None
    tasks = Tasks(most=2)

    async def work() -> Answer:
        await daemon.load("m")
        return b"loaded", ()

    handler = Dispatch({"/a": lambda mine: tasks.answer(mine, work)}, lambda _: None)
    calls = [Call("/a", b"", FutureReply()) for _ in range(3)]
    handler(calls)
    refused = await outcome(calls[2])
    assert isinstance(refused, Failure)
    assert (refused.code, refused.reason) == (Code.RESOURCE_EXHAUSTED, Reason.OVERLOADED)
    assert refused.retry_after_s
    daemon.gate.set()
    assert [await outcome(each) for each in calls[:2]] == [b"loaded", b"loaded"]
    assert await call(handler, "/a") == b"loaded"


async def test_closing_gives_up_what_waits(waiting: tuple[Rooms, GrpcPort]) -> None:
    daemon, port = waiting
    port.handler([Call(ENSURE, BODY, FutureReply())])
    await until(lambda: daemon.ensured)
    await port.close()
    assert daemon.cancelled == 1


LISTING = "/inference.GRPCInferenceService/RepositoryIndex"
PAGE = "/modelmesh.admin.v1.Admin/ListModels"
BULK = "/modelmesh.admin.v1.Admin/RegisterModels"
BULK_BODY = admin_pb2.RegisterModelsRequest(
    models=[
        admin_pb2.RegisterModelsRequest.Item(model_id=f"n{n}", type="dummy") for n in range(900)
    ]
).SerializeToString()


def note(ended: list[Call], mine: Call, _future: object) -> None:
    ended.append(mine)


@pytest.mark.parametrize(("kind", "body"), [(LISTING, b""), (PAGE, b""), (BULK, BULK_BODY)])
async def test_long_work_lets_other_calls_run_between(kind: str, body: bytes) -> None:
    daemon = rooms(*(f"m{n:04}" for n in range(1200)))
    long, short = Call(kind, body, FutureReply()), infer("m0000")
    ended: list[Call] = []
    for each in (long, short):
        assert isinstance(each.reply, FutureReply)
        each.reply.future.add_done_callback(partial(note, ended, each))
    handler = grpc_port(daemon).handler
    handler([long])
    asyncio.get_running_loop().call_soon(lambda: handler([short]))  # runs after the first chunk
    assert isinstance(await outcome(long), bytes)
    assert ended == [short, long]
