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
from tests.peers.worlds import HIT, Answer

REPORT: Metadata = ((QUEUE, "5"),)


class Wire:
    """Ends every call as it is told, and answers questions."""

    def __init__(self, failure: Failure, metadata: Metadata) -> None:
        self.failure = failure
        self.metadata = metadata
        self.asked = 0

    def start(self, call: Call) -> None:
        if call.kind == HEALTH:
            self.asked += 1
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
