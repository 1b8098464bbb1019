"""What every wire promises (modelmesh/wire/transport.py), shown for each of them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest

from modelmesh.errors import Code, Failure, Fault, MeshError, Reason
from modelmesh.wire.awaiting import FutureReply, ask
from modelmesh.wire.kinds import MODEL_INFER
from modelmesh.wire.replies import OpenReply
from modelmesh.wire.transport import (
    NO_DEADLINE,
    NO_METADATA,
    Body,
    Call,
    Handler,
    Metadata,
    Reply,
    StreamingKinds,
)
from tests.wire.harnesses import HARNESSES, Harness, Wire, until

STREAM = "/test.Streams/Both"
MIB = 1 << 20
Start = Callable[..., "asyncio.Future[Wire]"]


class Recorder:
    """A handler that keeps what it gets, and then does as told."""

    def __init__(self, then: Callable[[Call], None] = lambda call: None) -> None:
        self.then = then
        self.lists: list[list[Call]] = []

    def __call__(self, calls: list[Call]) -> None:
        self.lists.append(calls)
        for call in calls:
            self.then(call)

    @property
    def calls(self) -> list[Call]:
        return [call for calls in self.lists for call in calls]


class Recording(OpenReply):
    """A caller's reply that counts its ends and is slow when told so."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[bytes] = []
        self.ends: list[Failure | None] = []
        self.metadata: Metadata = NO_METADATA
        self.slow = False
        self.waiting: list[Callable[[], None]] = []

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        self.send(body)
        self.finish(None, metadata)

    def send(self, message: Body) -> None:
        self.messages.append(bytes(message))

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        self.end()
        self.ends.append(failure)
        self.metadata = metadata

    def when_writable(self, callback: Callable[[], None]) -> None:
        self.waiting.append(callback)

    def quicken(self) -> None:
        self.slow = False
        waiting, self.waiting = self.waiting, []
        for callback in waiting:
            callback()


def echo(call: Call) -> None:
    call.reply.answer(call.body)


@pytest.fixture(params=HARNESSES, ids=lambda harness: harness.name)
def harness(request: pytest.FixtureRequest) -> Harness:
    found: Harness = request.param
    return found


@pytest.fixture
async def start(harness: Harness) -> AsyncIterator[Callable[..., object]]:
    wires: list[Wire] = []

    async def start_one(handler: Handler, streaming: StreamingKinds = frozenset()) -> Wire:
        wires.append(await harness.start(handler, streaming))
        return wires[-1]

    yield start_one
    for wire in wires:
        await wire.close()


def needs(able: bool, harness: Harness, what: str) -> None:
    if not able:
        pytest.skip(f"{harness.name} {what}")


async def outcome(reply: FutureReply) -> Failure | list[Body]:
    try:
        return await asyncio.wait_for(reply.future, 30)
    except MeshError as error:
        return error.failure


async def test_a_call_is_answered_at_once(start: Start) -> None:
    recorder = Recorder(echo)
    wire = await start(recorder)
    assert await ask(wire.caller, MODEL_INFER, b"body") == b"body"
    (call,) = recorder.calls
    assert (call.kind, call.body) == (MODEL_INFER, b"body")


async def test_a_call_is_answered_later(start: Start) -> None:
    recorder = Recorder()
    wire = await start(recorder)
    replies = [FutureReply(), FutureReply()]
    for n, reply in enumerate(replies):
        wire.caller.start(Call(MODEL_INFER, b"%d" % n, reply))
    await until(lambda: len(recorder.calls) == 2)
    first, second = sorted(recorder.calls, key=lambda call: bytes(call.body))
    await wire.at_callee(lambda: second.reply.answer(b"second"))
    await wire.at_callee(lambda: first.reply.answer(b"first"))
    assert [await outcome(reply) for reply in replies] == [[b"first"], [b"second"]]


async def test_an_empty_body_is_a_body(start: Start) -> None:
    wire = await start(Recorder(echo))
    assert await ask(wire.caller, MODEL_INFER, b"") == b""


@pytest.mark.parametrize(
    "failure",
    [
        Failure(Code.NOT_FOUND, "model not found"),
        Failure(Code.INVALID_ARGUMENT, "naïve \N{SNOWMAN} % \n text"),
        Failure(Code.INTERNAL, "died", Fault.MODEL, Reason.WORKER_CRASHED, executed=True),
        Failure(Code.UNAVAILABLE, "wait", Fault.CAPACITY, Reason.DRAINING, retry_after_s=2.5),
        Failure(Code.RESOURCE_EXHAUSTED, "", Fault.CAPACITY, Reason.OVERLOADED, 0.25),
        Failure(Code.FAILED_PRECONDITION, "bad file", Fault.MODEL, Reason.LOAD_FAILED),
    ],
    ids=lambda failure: failure.reason or failure.code.name,
)
async def test_a_failure_arrives_as_it_was_given(start: Start, failure: Failure) -> None:
    wire = await start(Recorder(lambda call: call.reply.finish(failure)))
    reply = FutureReply()
    wire.caller.start(Call(MODEL_INFER, b"", reply))
    assert await outcome(reply) == failure


async def test_metadata_goes_both_ways(start: Start) -> None:
    sent: Metadata = (("mm-model-id", "iris"), ("x", "1"), ("x", "2"), ("raw-bin", b"\0\xff,"))
    recorder = Recorder(lambda call: call.reply.answer(b"", (("back", "ok"), ("b-bin", b"\x80"))))
    wire = await start(recorder)
    reply = FutureReply()
    wire.caller.start(Call(MODEL_INFER, b"", reply, sent))
    await outcome(reply)
    assert recorder.calls[0].metadata == sent
    assert [pair for pair in reply.metadata if pair[0] in ("back", "b-bin")] == [
        ("back", "ok"),
        ("b-bin", b"\x80"),
    ]


async def test_a_deadline_arrives(start: Start) -> None:
    recorder = Recorder(echo)
    wire = await start(recorder)
    sent = time.monotonic()
    deadline = sent + 20
    await ask(wire.caller, MODEL_INFER, b"", deadline=deadline)
    way_s = time.monotonic() - sent  # some wires tell the time that is left
    await ask(wire.caller, MODEL_INFER, b"")
    assert deadline - 0.5 <= recorder.calls[0].deadline <= deadline + way_s + 0.5
    assert recorder.calls[1].deadline == NO_DEADLINE


async def test_a_call_past_its_deadline_never_leaves(start: Start) -> None:
    recorder = Recorder(echo)
    wire = await start(recorder)
    reply = FutureReply()
    wire.caller.start(Call(MODEL_INFER, b"late", reply, deadline=time.monotonic() - 1))
    failure = await outcome(reply)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.executed) == (Code.DEADLINE_EXCEEDED, False)
    await ask(wire.caller, MODEL_INFER, b"next")
    assert [call.body for call in recorder.calls] == [b"next"]


async def test_a_caller_that_leaves_is_noticed(start: Start) -> None:
    told: list[str] = []
    recorder = Recorder(lambda call: call.reply.when_gone(lambda: told.append("first")))
    wire = await start(recorder)
    reply = FutureReply()
    wire.caller.start(Call(MODEL_INFER, b"", reply))
    await until(lambda: recorder.calls)
    call = recorder.calls[0]
    assert not call.reply.gone
    reply.leave()
    await until(lambda: call.reply.gone)
    await wire.at_callee(lambda: call.reply.when_gone(lambda: told.append("second")))
    await wire.at_callee(lambda: call.reply.answer(b"to nobody"))
    assert told == ["first", "second"]
    assert not reply.messages


async def test_an_answered_call_is_not_left(start: Start) -> None:
    told: list[str] = []

    def answer(call: Call) -> None:
        call.reply.when_gone(lambda: told.append("left"))
        echo(call)

    wire = await start(Recorder(answer))
    reply = FutureReply()
    wire.caller.start(Call(MODEL_INFER, b"", reply))
    await outcome(reply)
    reply.leave()
    await ask(wire.caller, MODEL_INFER, b"")
    assert not told


async def test_calls_of_one_turn_are_handed_over_together(start: Start, harness: Harness) -> None:
    needs(harness.together, harness, "does not decide when its calls arrive")
    recorder = Recorder(echo)
    wire = await start(recorder)
    replies = [FutureReply() for _ in range(16)]
    for reply in replies:
        wire.caller.start(Call(MODEL_INFER, b"", reply))
    for reply in replies:
        await outcome(reply)
    assert [len(calls) for calls in recorder.lists] == [16]


async def test_a_handler_that_raises_fails_its_unanswered_calls_only(start: Start) -> None:
    def handler(calls: list[Call]) -> None:
        for call in calls:
            if call.body == b"good":
                echo(call)
        if any(call.body == b"bad" for call in calls):
            raise RuntimeError("on purpose")

    wire = await start(handler)
    replies = {body: FutureReply() for body in (b"good", b"bad")}
    for body, reply in replies.items():
        wire.caller.start(Call(MODEL_INFER, body, reply))
    assert await outcome(replies[b"good"]) == [b"good"]
    failure = await outcome(replies[b"bad"])
    assert isinstance(failure, Failure)
    assert failure.code == Code.INTERNAL
    assert "on purpose" not in failure.message
    assert await ask(wire.caller, MODEL_INFER, b"good") == b"good"


async def test_a_second_end_is_dropped(start: Start) -> None:
    def twice(call: Call) -> None:
        call.reply.answer(b"first")
        call.reply.answer(b"second")
        call.reply.finish(Failure(Code.INTERNAL, "third"))

    wire = await start(Recorder(twice))
    reply = Recording()
    wire.caller.start(Call(MODEL_INFER, b"", reply))
    await until(lambda: reply.ends)
    await ask(wire.caller, MODEL_INFER, b"")
    assert (reply.messages, reply.ends) == ([b"first"], [None])


async def test_large_bodies_pass_both_ways_at_once(start: Start) -> None:
    bodies = [bytes([n]) * (16 * MIB - 64) for n in range(4)]
    wire = await start(Recorder(echo))
    answers = await asyncio.gather(*(ask(wire.caller, MODEL_INFER, body) for body in bodies))
    assert answers == bodies


@pytest.mark.parametrize("count", [0, 2])
async def test_a_unary_kind_takes_one_message(start: Start, harness: Harness, count: int) -> None:
    needs(harness.counts, harness, "has no second message: a call without `inbound` is one body")
    recorder = Recorder(echo)
    wire = await start(recorder)
    inbound, reply = Outgoing(), Recording()
    wire.caller.start(Call(MODEL_INFER, b"", reply, inbound=inbound))
    for _ in range(count):
        inbound.message(b"again")
    if not count:  # a second message is refused without waiting for the end
        inbound.end()
    await until(lambda: reply.ends)
    (failure,) = reply.ends
    assert failure is not None
    assert (failure.code, failure.executed) == (Code.UNIMPLEMENTED, False)
    assert "one message" in failure.message
    assert await ask(wire.caller, MODEL_INFER, b"next") == b"next"
    assert [call.body for call in recorder.calls] == [b"next"]


async def test_streams_flow_both_ways(start: Start, harness: Harness) -> None:
    needs(harness.streams, harness, "carries unary calls only")

    def serve(call: Call) -> None:
        assert call.inbound is not None
        call.inbound.listen(
            lambda message: call.reply.send(b"<" + bytes(message) + b">"), call.reply.finish
        )

    wire = await start(Recorder(serve), frozenset([STREAM]))
    inbound, reply = Outgoing(), Recording()
    wire.caller.start(Call(STREAM, b"", reply, inbound=inbound))
    inbound.message(b"1")
    inbound.message(b"")
    await until(lambda: len(reply.messages) == 2)
    inbound.message(b"3")
    inbound.end()
    await until(lambda: reply.ends)
    assert (reply.messages, reply.ends) == ([b"<1>", b"<>", b"<3>"], [None])


async def test_a_stream_that_nobody_listens_to_yet_is_kept(start: Start, harness: Harness) -> None:
    needs(harness.streams, harness, "carries unary calls only")
    recorder = Recorder()
    wire = await start(recorder, frozenset([STREAM]))
    inbound, reply = Outgoing(), Recording()
    wire.caller.start(Call(STREAM, b"", reply, inbound=inbound))
    for message in (b"1", b"2"):
        inbound.message(message)
    inbound.end()
    await until(lambda: recorder.calls)
    got: list[bytes] = []
    call = recorder.calls[0]
    assert call.inbound is not None
    call.inbound.listen(lambda message: got.append(bytes(message)), call.reply.finish)
    await until(lambda: reply.ends)
    assert got == [b"1", b"2"]


async def test_a_stream_ends_with_its_failure(start: Start, harness: Harness) -> None:
    needs(harness.streams, harness, "carries unary calls only")
    failure = Failure(Code.ABORTED, "half way")

    def serve(call: Call) -> None:
        call.reply.send(b"one")
        call.reply.finish(failure)

    wire = await start(Recorder(serve), frozenset([STREAM]))
    reply = Recording()
    wire.caller.start(Call(STREAM, b"", reply, inbound=Outgoing()))
    await until(lambda: reply.ends)
    assert (reply.messages, reply.ends) == ([b"one"], [failure])


async def stays_slow(reply: Reply) -> bool:
    """Slow now, and not only until the loop has turned a few times."""
    with suppress(AssertionError):
        await until(lambda: not reply.slow, bound_s=0.3)
        return False
    return True


async def test_a_slow_reader_slows_the_writer(start: Start, harness: Harness) -> None:
    needs(harness.streams, harness, "carries unary calls only")
    recorder = Recorder()
    wire = await start(recorder, frozenset([STREAM]))
    reply = Recording()
    wire.caller.start(Call(STREAM, b"", reply, inbound=Outgoing()))
    await until(lambda: recorder.calls)
    reply.slow = True
    callee, sent = recorder.calls[0].reply, 0
    while not await stays_slow(callee):
        assert sent < 1000, "the writer was never held up by the reader"
        for _ in range(20):
            callee.send(bytes(64 * 1024))
            sent += 1
    writable: list[bool] = []
    callee.when_writable(lambda: writable.append(not callee.slow))
    await asyncio.sleep(0)
    assert not writable
    reply.quicken()
    await until(lambda: writable)
    assert writable == [True]
    callee.finish()
    await until(lambda: reply.ends)
    assert len(reply.messages) == sent


async def test_a_lost_link_ends_every_call_once(start: Start, harness: Harness) -> None:
    needs(harness.cuts, harness, "has no link to lose")
    recorder = Recorder()
    wire = await start(recorder)
    replies = [Recording() for _ in range(8)]
    for reply in replies:
        wire.caller.start(Call(MODEL_INFER, b"", reply))
    await until(lambda: len(recorder.calls) == 8)
    await wire.cut()
    await until(lambda: all(reply.ends for reply in replies))
    late = FutureReply()
    wire.caller.start(Call(MODEL_INFER, b"", late))
    failure = await outcome(late)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.executed) == (Code.UNAVAILABLE, False)
    ends = [end for reply in replies for end in reply.ends]
    assert len(ends) == 8
    assert {end and (end.code, end.executed) for end in ends} == {(Code.UNAVAILABLE, True)}


async def test_closing_ends_open_calls_and_leaves_nothing(harness: Harness) -> None:
    tasks = asyncio.all_tasks()
    recorder = Recorder()
    wire = await harness.start(recorder)
    reply = Recording()
    wire.caller.start(Call(MODEL_INFER, b"", reply))
    await until(lambda: recorder.calls)
    await wire.caller.close()
    await until(lambda: recorder.calls[0].reply.gone)
    await wire.close()
    assert [end and end.code for end in reply.ends] == [Code.UNAVAILABLE]
    late = FutureReply()
    wire.caller.start(Call(MODEL_INFER, b"", late))
    failure = await outcome(late)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.executed) == (Code.UNAVAILABLE, False)
    await until(lambda: asyncio.all_tasks() == tasks)


class Outgoing:
    """The caller's further messages, as the test gives them."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.ended = False
        self.to: Callable[[Body], None] = self.kept.append  # type: ignore[assignment]
        self.to_end: Callable[[], None] = self.remember

    def remember(self) -> None:
        self.ended = True

    def listen(self, message: Callable[[Body], None], end: Callable[[], None]) -> None:
        for kept in self.kept:
            message(kept)
        self.to, self.to_end = message, end
        if self.ended:
            end()

    def message(self, message: bytes) -> None:
        self.to(message)

    def end(self) -> None:
        self.to_end()
