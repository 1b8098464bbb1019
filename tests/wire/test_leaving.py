"""Idle connections go at once when a gRPC port drains; no call on its way is lost by it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import grpc
import pytest

from modelmesh.errors import Code, Failure, MeshError
from modelmesh.wire.awaiting import FutureReply, ask
from modelmesh.wire.grpcio import GrpcLimits, GrpcServer
from modelmesh.wire.grpcio_caller import GrpcCaller
from modelmesh.wire.leaving import GOAWAY, LEAVE_S, QUIET_S, Leaving, Step
from modelmesh.wire.listening import connections
from modelmesh.wire.transport import Call, Handler
from tests.wire.harnesses import Pulse, until

KIND: Final = "/test.Service/Call"
AGE_S: Final = 300.0  # nothing here waits for it
SOON_S: Final = 30.0  # for what should take LEAVE_S at most, on a busy machine


def echo(calls: list[Call]) -> None:
    for call in calls:
        call.reply.answer(call.body)


@asynccontextmanager
async def serving(handler: Handler = echo, age_s: float = AGE_S) -> AsyncIterator[GrpcServer]:
    server = GrpcServer(handler, limits=GrpcLimits(max_connection_age_s=age_s))
    await server.start()
    yield server
    await server.drain(0)


# --- the decision


LOOKS: Final[dict[str, tuple[list[tuple[float, bool]], list[Step]]]] = {
    "idle, told, deaf": (
        [(0, True), (QUIET_S, True), (QUIET_S + LEAVE_S / 2, True), (QUIET_S + LEAVE_S, True)],
        [Step.WAIT, Step.TELL, Step.WAIT, Step.CUT],
    ),
    "never idle": ([(n, False) for n in range(9)], [Step.WAIT] * 9),
    "idle at single looks only": ([(n, n % 2 == 0) for n in range(9)], [Step.WAIT] * 9),
    "two looks in one moment are one": ([(0, True), (QUIET_S / 2, True)], [Step.WAIT] * 2),
    "a call that crossed has its time anew": (
        [(0, True), (1, True), (9, False), (10, True), (10 + LEAVE_S / 2, True), (99, True)],
        [Step.WAIT, Step.TELL, Step.WAIT, Step.WAIT, Step.WAIT, Step.CUT],
    ),
}


@pytest.mark.parametrize(("looks", "steps"), LOOKS.values(), ids=LOOKS.keys())
def test_steps(looks: list[tuple[float, bool]], steps: list[Step]) -> None:
    connection = Leaving()
    assert [connection.look(idle, now) for now, idle in looks] == steps


def test_the_frame() -> None:
    """RFC 9113, 6.8: 8 bytes, type 7, stream 0; the greatest stream there is, no error."""
    length, kind, flags = int.from_bytes(GOAWAY[:3]), GOAWAY[3], GOAWAY[4]
    numbers = [int.from_bytes(GOAWAY[at : at + 4]) for at in (5, 9, 13)]
    assert (length, kind, flags, numbers) == (8, 7, 0, [0, 2**31 - 1, 0])
    assert len(GOAWAY) == 17


# --- real connections


@pytest.mark.parametrize("age_s", [AGE_S, 0.0])
async def test_idle_clients_are_no_reason_to_wait(age_s: float) -> None:
    async with serving(age_s=age_s) as server:
        callers = [GrpcCaller(f"127.0.0.1:{server.port}") for _ in range(5)]
        for caller in callers:
            assert await ask(caller, KIND, b"x") == b"x"
        assert connections(server.port) == 5
        await asyncio.wait_for(server.drain(AGE_S), SOON_S)
        for caller in callers:
            with pytest.raises(MeshError) as caught:
                await asyncio.wait_for(ask(caller, KIND, b"late"), SOON_S)
            assert caught.value.failure.code == Code.UNAVAILABLE
            assert not caught.value.failure.executed
            await caller.close()


async def test_a_client_is_told_and_leaves_by_itself() -> None:
    async with serving() as server, grpc.aio.insecure_channel(f"[::1]:{server.port}") as nobody:
        assert nobody.get_state() is grpc.ChannelConnectivity.IDLE
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
        assert await channel.unary_unary(KIND)(b"x") == b"x"
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        drain = asyncio.ensure_future(server.drain(AGE_S))
        await until(lambda: channel.get_state() is not grpc.ChannelConnectivity.READY)
        await asyncio.wait_for(drain, SOON_S)
        await channel.close()


class Pausing:
    """A client that calls, pauses, and calls again until it is refused."""

    def __init__(self, port: int, body: bytes, pause_s: float) -> None:
        self.caller = GrpcCaller(f"127.0.0.1:{port}")
        self.answered = 0
        self.end = asyncio.ensure_future(self.ask_on(body, pause_s))

    async def ask_on(self, body: bytes, pause_s: float) -> Failure:
        while True:
            try:
                assert await asyncio.wait_for(ask(self.caller, KIND, body), 30) == body
            except MeshError as error:
                return error.failure
            self.answered += 1
            paused = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(pause_s, paused.set_result, None)
            await paused


@pytest.mark.parametrize(("size_bytes", "pause_s"), [(1, 0.01), (1 << 20, 0.3)])
async def test_clients_that_pause_lose_no_call(size_bytes: int, pause_s: float) -> None:
    """Calls cross the goodbye on their way, and no answer is broken by it."""
    steady = 0
    for _ in range(Pulse.TRIES):
        async with serving() as server:
            clients = [
                Pausing(server.port, bytes(size_bytes), pause_s * (1 + n / 8)) for n in range(8)
            ]
            await until(lambda clients=clients: all(each.answered > 1 for each in clients))  # type: ignore[misc]
            async with Pulse().taken() as pulse:
                await asyncio.wait_for(server.drain(AGE_S), SOON_S)
                last = [await asyncio.wait_for(each.end, 30) for each in clients]
            for each in clients:
                await each.caller.close()
        ends = {(failure.code, failure.executed) for failure in last}
        assert ends == {(Code.UNAVAILABLE, False)} or not pulse.steady
        steady += pulse.steady
        if steady == 3:
            return
    pytest.fail("the machine stood still too often")


async def test_a_running_call_keeps_its_connection_and_no_other() -> None:
    calls: list[Call] = []

    def handler(arrived: list[Call]) -> None:
        calls.extend(arrived)

    async with serving(handler) as server:
        caller, idle = (GrpcCaller(f"127.0.0.1:{server.port}") for _ in range(2))
        warm = asyncio.ensure_future(ask(idle, KIND, b"warm"))
        await until(lambda: calls)
        calls.pop().reply.answer(b"")
        await warm
        reply = FutureReply()
        caller.start(Call(KIND, b"", reply))
        await until(lambda: calls)
        drain = asyncio.ensure_future(server.drain(AGE_S))
        await until(lambda: connections(server.port) == 1, SOON_S)
        held_s = 2 * LEAVE_S
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(drain), held_s)
        calls[0].reply.answer(b"done")
        assert await asyncio.wait_for(reply.future, 10) == [b"done"]
        await asyncio.wait_for(drain, SOON_S)
        await caller.close()
        await idle.close()


@pytest.mark.parametrize(
    "said", [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4" + bytes(5)]
)
async def test_a_client_that_does_not_listen_is_cut(said: bytes) -> None:
    """It connected, said nothing or only hello, and takes no notice of the goodbye."""
    async with serving() as server:
        with socket.create_connection(("127.0.0.1", server.port)) as deaf:
            deaf.sendall(said)
            await until(lambda: connections(server.port) == 1)
            await asyncio.wait_for(server.drain(AGE_S), SOON_S)
            deaf.settimeout(10)
            heard = b""
            while chunk := deaf.recv(65536):
                heard += chunk
            assert GOAWAY in heard


async def test_a_call_whose_half_stays_open_has_the_time_of_a_running_one() -> None:
    target = "127.0.0.1:{}"
    async with (
        serving() as server,
        grpc.aio.insecure_channel(target.format(server.port)) as channel,
    ):
        call = channel.stream_unary(KIND)()
        await call.write(b"x")
        assert await channel.unary_unary(KIND)(b"whole") == b"whole"
        drain = asyncio.ensure_future(server.drain(AGE_S))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(drain), 2 * LEAVE_S)
        await call.done_writing()
        assert await asyncio.wait_for(call, 10) == b"x"
        await asyncio.wait_for(drain, SOON_S)
