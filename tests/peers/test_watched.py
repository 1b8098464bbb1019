"""What the keeper of a peer makes of the failures that a wire brings, one by one."""

import asyncio

import pytest

from modelmesh.domain.instances import InstanceRecord
from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.peers.headers import HEALTH, QUEUE
from modelmesh.peers.members import Members
from modelmesh.simulation import clock
from modelmesh.wire.kinds import MODEL_INFER
from modelmesh.wire.transport import NO_METADATA, Call, Metadata
from tests.peers.worlds import HIT, Answer, elapse

REPORT: Metadata = ((QUEUE, "5"),)


class Wire:
    """Ends every call as it is told, and answers questions but for the next `lost` and `silent`."""

    def __init__(self, failure: Failure, metadata: Metadata = NO_METADATA) -> None:
        self.failure = failure
        self.metadata = metadata
        self.asked = 0
        self.lost = self.silent = 0

    def start(self, call: Call) -> None:
        if call.kind == HEALTH:
            self.asked += 1
            if self.lost:
                self.lost -= 1
                call.reply.finish(unavailable(True))
            elif self.silent:
                self.silent -= 1
            else:
                call.reply.answer(b"b")
        else:
            call.reply.finish(self.failure, self.metadata)

    async def close(self) -> None:
        """Nothing is open."""


def unavailable(executed: bool) -> Failure:
    return Failure(Code.UNAVAILABLE, "no", Fault.PEER, executed=executed)


CANCELLED = Failure(Code.CANCELLED, "CANCELLED", Fault.PEER, executed=True)
TABLE = [
    # what the wire says, with a report; what the caller hears; whether the peer is asked; answers
    (unavailable(False), NO_METADATA, (Code.UNAVAILABLE, Reason.NOT_HERE, False), False, False),
    (unavailable(False), REPORT, (Code.UNAVAILABLE, Reason.NONE, False), False, True),
    (unavailable(True), NO_METADATA, (Code.UNAVAILABLE, Reason.NONE, True), True, True),
    (unavailable(True), REPORT, (Code.UNAVAILABLE, Reason.NONE, True), False, True),
    (CANCELLED, NO_METADATA, (Code.UNAVAILABLE, Reason.NONE, True), True, True),
    (CANCELLED, REPORT, (Code.CANCELLED, Reason.NONE, True), False, True),
    (Failure(Code.DEADLINE_EXCEEDED, "late"), NO_METADATA,
     (Code.DEADLINE_EXCEEDED, Reason.NONE, False), False, True),
    (Failure(Code.RESOURCE_EXHAUSTED, "large"), NO_METADATA,
     (Code.RESOURCE_EXHAUSTED, Reason.NONE, False), False, True),
]  # fmt: skip


@pytest.mark.parametrize(("failure", "metadata", "heard", "asked", "answers"), TABLE)
def test_what_a_failure_says_of_the_peer(
    failure: Failure,
    metadata: Metadata,
    heard: tuple[Code, Reason, bool],
    asked: bool,
    answers: bool,
) -> None:
    async def main() -> None:
        wire = Wire(failure, metadata)
        members = Members("a", lambda _address: wire, asyncio.get_running_loop().time)
        members.update({"b": InstanceRecord(start_ms=1, address="b:1")})
        before, answer, peer = wire.asked, Answer(), members.get("b")
        members.call("b", HIT, "m", Call(MODEL_INFER, b"", answer))
        said = await answer.failure()
        assert (said.code, said.reason, said.executed) == heard
        assert answer.metadata == ()
        assert (wire.asked > before) == asked
        assert peer is not None
        assert peer.answers == answers
        assert peer.in_flight == 0
        assert peer.queue_depth == (5 if metadata else 0)
        await members.close(0)

    clock.run(main())


@pytest.mark.parametrize(
    ("lost", "silent", "asked", "answers", "took_s"),
    [
        (0, 0, 1, True, 0.0),
        (1, 0, 2, True, 0.02),
        (0, 1, 2, True, 0.2),
        (2, 0, 2, False, 0.02),
        (0, 2, 2, False, 0.4),
        (1, 1, 2, False, 0.22),
    ],
)
def test_whether_a_peer_answers_is_not_left_open(
    lost: int, silent: int, asked: int, answers: bool, took_s: float
) -> None:
    """False is said only of who is known not to answer: two who ask must not differ about it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        wire = Wire(unavailable(True))
        members = Members("a", lambda _address: wire, loop.time)
        members.update({"b": InstanceRecord(start_ms=1, address="b:1")})
        before, began, peer = wire.asked, loop.time(), members.get("b")
        wire.lost, wire.silent = lost, silent
        assert await members.ask_health("b") == answers
        assert peer is not None
        assert peer.answers == answers
        assert wire.asked - before == asked
        assert round(loop.time() - began, 3) == took_s
        await members.close(0)

    clock.run(main())


def test_an_answered_call_settles_no_question_about_new_connections() -> None:
    """It takes the doubt away; who waits for an answer to a question gets one all the same."""

    async def main() -> None:
        wire = Wire(Failure(Code.NOT_FOUND, "none"), REPORT)
        members = Members("a", lambda _address: wire, asyncio.get_running_loop().time)
        members.update({"b": InstanceRecord(start_ms=1, address="b:1")})
        wire.lost = 1
        asking = asyncio.ensure_future(members.ask_health("b"))
        await elapse(0.01)
        assert wire.lost == 0
        before = wire.asked
        members.call("b", HIT, "m", Call(MODEL_INFER, b"", Answer()))
        assert await asking
        assert wire.asked == before + 1
        await members.close(0)

    clock.run(main())
