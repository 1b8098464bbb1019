"""What only gRPC promises: statuses that any client reads, limits, a stop without loss."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from modelmesh.errors import Code, Failure, Fault, MeshError, Reason
from modelmesh.wire.awaiting import FutureReply, ask
from modelmesh.wire.grpc_status import failure_of, trailers_of
from modelmesh.wire.grpcio import GrpcLimits, GrpcServer
from modelmesh.wire.grpcio_caller import GrpcCaller
from modelmesh.wire.listening import connections
from modelmesh.wire.transport import Call, Handler
from tests.wire.harnesses import Pulse, until

KIND = "/test.Service/Call"
STREAM = "/test.Service/Stream"
NO_LIMITS = GrpcLimits()


def each(act: Callable[[Call], None]) -> Handler:
    def handler(calls: list[Call]) -> None:
        for call in calls:
            act(call)

    return handler


echo = each(lambda call: call.reply.answer(call.body))


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    servers: list[GrpcServer] = []

    async def start(handler: Handler, limits: GrpcLimits = NO_LIMITS) -> GrpcServer:
        server = GrpcServer(handler, frozenset([STREAM]), limits)
        servers.append(server)
        await server.start()
        return server

    yield start
    for server in servers:
        await server.drain(0)


async def rejected(server: GrpcServer, body: bytes = b"", **options: Any) -> grpc.aio.AioRpcError:
    """The error that an ordinary grpcio client gets."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(KIND)(body, **options)
    return caught.value


async def refused(caller: GrpcCaller, **options: Any) -> Failure:
    with pytest.raises(MeshError) as caught:
        await asyncio.wait_for(ask(caller, KIND, b"", **options), 30)
    return caught.value.failure


async def test_any_client_reads_the_status(serve: Callable[..., Any]) -> None:
    failure = Failure(
        Code.UNAVAILABLE, "later", Fault.CAPACITY, Reason.DRAINING, 1.5, executed=True
    )
    error = await rejected(await serve(each(lambda call: call.reply.finish(failure))))
    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "later")
    assert (status.code, status.message) == (14, "later")
    assert (info.reason, info.domain) == ("DRAINING", "modelmesh")
    assert retry.retry_delay.ToMilliseconds() == 1500
    assert (trailers["grpc-retry-pushback-ms"], trailers["x-mm-executed"]) == ("1500", "maybe")


async def test_a_long_message_does_not_hide_the_status(serve: Callable[..., Any]) -> None:
    failure = Failure(Code.INTERNAL, "\N{PILE OF POO}" * 10_000, reason=Reason.MODEL_ERROR)
    error = await rejected(await serve(each(lambda call: call.reply.finish(failure))))
    assert error.code() == grpc.StatusCode.INTERNAL
    assert error.details().startswith("\N{PILE OF POO}")


async def test_the_transports_own_headers_are_not_passed_on(serve: Callable[..., Any]) -> None:
    seen: list[Call] = []

    def act(call: Call) -> None:
        seen.append(call)
        call.reply.answer(b"")

    server = await serve(each(act))
    caller = GrpcCaller(f"127.0.0.1:{server.port}")
    await ask(caller, KIND, b"", (("mm-model-id", "iris"),))
    await caller.close()
    assert seen[0].metadata == (("mm-model-id", "iris"),)


@pytest.mark.parametrize("count", [0, 2])
async def test_a_unary_call_takes_one_message(serve: Callable[..., Any], count: int) -> None:
    def act(call: Call) -> None:
        for _ in range(count):
            call.reply.send(b"x")
        call.reply.finish()

    error = await rejected(await serve(each(act)))
    assert error.code() == grpc.StatusCode.INTERNAL
    assert f"{count} messages" in error.details()


@pytest.mark.parametrize("count", [0, 2])
async def test_any_client_is_told_that_the_method_takes_one_message(
    serve: Callable[..., Any], count: int
) -> None:
    seen: list[list[Call]] = []
    server = await serve(seen.append)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.stream_unary(KIND)()
        for _ in range(count):
            await call.write(b"x")
        if not count:
            await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(call, 10)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert not seen


async def test_nothing_is_begun_before_the_caller_has_ended_its_half(
    serve: Callable[..., Any],
) -> None:
    """A second message may follow: what was begun for the first could not be taken back."""
    seen: list[bytes] = []

    def act(call: Call) -> None:
        seen.append(bytes(call.body))
        call.reply.answer(call.body)

    server = await serve(each(act))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        open_half = channel.stream_unary(KIND)()
        await open_half.write(b"one")
        for _ in range(10):
            await channel.unary_unary(KIND)(b"whole", timeout=10)
        assert set(seen) == {b"whole"}
        await open_half.done_writing()
        assert await asyncio.wait_for(open_half, 10) == b"one"


async def test_messages_and_headers_above_the_limits_are_refused(
    serve: Callable[..., Any],
) -> None:
    server = await serve(echo, GrpcLimits(message_bytes=1000, metadata_bytes=4096))
    codes = [
        (await rejected(server, bytes(1001))).code(),
        (await rejected(server, metadata=(("big", "x" * 5000),))).code(),
    ]
    assert codes == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2


async def test_calls_above_the_limit_are_refused(serve: Callable[..., Any]) -> None:
    calls: list[Call] = []
    server = await serve(each(calls.append), GrpcLimits(concurrent_calls=1))
    caller = GrpcCaller(f"127.0.0.1:{server.port}")
    running = FutureReply()
    caller.start(Call(KIND, b"", running))
    await until(lambda: calls)
    assert (await refused(caller)).code == Code.RESOURCE_EXHAUSTED
    calls[0].reply.answer(b"done")
    assert await running.future == [b"done"]
    await caller.close()


async def test_a_port_that_is_taken_is_an_os_error(serve: Callable[..., Any]) -> None:
    server = await serve(echo)
    second = GrpcServer(echo)
    with pytest.raises(OSError, match="cannot listen"):
        await second.start(port=server.port)


async def test_a_deadline_ends_the_call_at_both_ends(serve: Callable[..., Any]) -> None:
    calls: list[Call] = []
    server = await serve(each(calls.append))
    caller = GrpcCaller(f"127.0.0.1:{server.port}")
    for limit_s in (0.2, 2.0, 20.0):  # longer, where the call had not arrived by then
        reply = FutureReply()
        caller.start(Call(KIND, b"", reply, deadline=time.monotonic() + limit_s))
        with pytest.raises(MeshError) as caught:
            await asyncio.wait_for(reply.future, 2 * limit_s + 30)
        assert caught.value.failure.code == Code.DEADLINE_EXCEEDED
        if calls:
            break
    await until(lambda: calls[0].reply.gone)
    await caller.close()


async def test_a_server_that_is_not_there_never_had_the_call() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    callers = [GrpcCaller(f"127.0.0.1:{port}"), GrpcCaller("unix:/no/such/socket")]
    for caller in callers:
        failure = await refused(caller)
        await caller.close()
        assert (failure.code, failure.executed) == (Code.UNAVAILABLE, False)


async def test_a_connection_that_breaks_may_have_delivered_the_call(
    serve: Callable[..., Any],
) -> None:
    """A relay that is cut after the call has arrived behind it."""
    calls: list[Call] = []
    server = await serve(each(calls.append))
    writers: list[asyncio.StreamWriter] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", server.port)
        writers.extend((writer, forth))
        await asyncio.gather(copy(reader, forth), copy(back, writer))

    front = await asyncio.start_server(relay, "127.0.0.1", 0)
    caller = GrpcCaller(f"127.0.0.1:{front.sockets[0].getsockname()[1]}")
    reply = FutureReply()
    caller.start(Call(KIND, b"", reply))
    await until(lambda: calls)
    front.close()
    for writer in writers:
        writer.transport.abort()
    with pytest.raises(MeshError) as caught:
        await asyncio.wait_for(reply.future, 10)
    await caller.close()
    failure = caught.value.failure
    assert (failure.code, failure.executed) == (Code.UNAVAILABLE, True)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except ConnectionError:
        pass
    finally:
        writer.close()


def test_a_foreign_status_may_have_been_executed() -> None:
    assert failure_of(5, "no", ()) == Failure(Code.NOT_FOUND, "no", Fault.PEER, executed=True)
    assert failure_of(99, "?", (("grpc-status-details-bin", b"\xff\xff"),)).code == Code.UNKNOWN


async def test_a_drain_refuses_connections_and_lets_running_calls_end(
    serve: Callable[..., Any],
) -> None:
    calls: list[Call] = []
    server = await serve(each(calls.append))
    caller = GrpcCaller(f"127.0.0.1:{server.port}")
    reply = FutureReply()
    caller.start(Call(KIND, b"", reply))
    await until(lambda: calls)
    drain = asyncio.ensure_future(server.drain(60))
    await asyncio.sleep(0)
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", server.port))
    assert not drain.done()
    calls[0].reply.answer(b"done")
    assert await reply.future == [b"done"]
    await asyncio.wait_for(drain, 30)
    await caller.close()


async def test_a_drain_is_bounded_and_says_why(serve: Callable[..., Any]) -> None:
    for _ in range(Pulse.TRIES):
        calls: list[Call] = []
        server = await serve(each(calls.append))
        caller = GrpcCaller(f"127.0.0.1:{server.port}")
        asked = asyncio.ensure_future(refused(caller))
        await until(lambda calls=calls: calls)  # type: ignore[misc]
        async with Pulse().taken() as pulse:
            await server.drain(0.1)
            failure = await asked
        await caller.close()
        if pulse.steady:
            break
    assert (failure.code, failure.reason) == (Code.UNAVAILABLE, Reason.DRAINING)
    assert failure.executed
    assert calls[0].reply.gone


async def test_a_drain_by_age_loses_no_call(serve: Callable[..., Any]) -> None:
    """Clients that never pause, until they are refused a new connection."""
    for _ in range(Pulse.TRIES):
        server = await serve(echo, GrpcLimits(max_connection_age_s=0.5))
        clients = [Eager(server.port) for _ in range(4)]
        await until(lambda clients=clients: all(each.answered > 10 for each in clients))  # type: ignore[misc]
        await until(lambda server=server: connections(server.port) >= 4)  # type: ignore[misc]
        async with Pulse().taken() as pulse:
            await server.drain(10)
            last = [await each.end for each in clients]
        for client in clients:
            await client.caller.close()
        if pulse.steady:
            break
    assert {(failure.code, failure.executed) for failure in last} == {(Code.UNAVAILABLE, False)}


class Eager:
    """A client that calls, and calls again, until it is refused."""

    def __init__(self, port: int) -> None:
        self.caller = GrpcCaller(f"127.0.0.1:{port}")
        self.answered = 0
        self.end = asyncio.ensure_future(self.ask_on())

    async def ask_on(self) -> Failure:
        while True:
            try:
                await ask(self.caller, KIND, b"")
            except MeshError as error:
                return error.failure
            self.answered += 1


async def test_a_drain_that_nobody_is_connected_to_ends_at_once(serve: Callable[..., Any]) -> None:
    """The listening socket, shut but still open, is no connection."""
    server = await serve(echo, GrpcLimits(max_connection_age_s=60))
    assert connections(server.port) == 0
    await asyncio.wait_for(server.drain(60), 30)


@pytest.mark.parametrize("executed", [False, True])
@pytest.mark.parametrize("retry_after_s", [None, 0.25])
@pytest.mark.parametrize("reason", Reason)
def test_a_failure_of_ours_comes_back_whole(
    reason: Reason, retry_after_s: float | None, executed: bool
) -> None:
    """Between daemons it decides whether another one is asked."""
    failure = Failure(
        Code.UNAVAILABLE, "no", Fault.CAPACITY, reason, retry_after_s, executed=executed
    )
    assert failure_of(failure.code, failure.message, trailers_of(failure)) == failure


async def test_a_connection_is_given_up_when_its_caller_says() -> None:
    """Somebody accepts, and never says a word: the patient caller still waits."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        patient = GrpcCaller(address, connect_timeout_s=60.0)
        hasty = GrpcCaller(address, connect_timeout_s=0.1)
        waiting = asyncio.ensure_future(refused(patient))
        failure = await refused(hasty)
        assert not waiting.done()
        await patient.close()
        assert (await waiting).executed
        await hasty.close()
    assert (failure.code, failure.executed) == (Code.UNAVAILABLE, False)
