"""The peer port's handler: what it says of the queue, and how often."""

from modelmesh.domain.fleet import Hops
from modelmesh.errors import Code, Failure
from modelmesh.peers.headers import HEALTH, QUEUE, SENDER
from modelmesh.peers.port import REPORT_EVERY_S, PeerPort
from modelmesh.wire.kinds import MODEL_INFER
from modelmesh.wire.transport import Call, Metadata
from tests.peers.worlds import Answer


class Scene:
    def __init__(self) -> None:
        self.now = 100.0
        self.failure: Failure | None = None
        self.port = PeerPort("b", self._serve, lambda: 3, lambda: self.now)

    def _serve(self, _model_id: str, _hops: Hops, call: Call) -> None:
        if self.failure is not None:
            call.reply.finish(self.failure)
        else:
            call.reply.answer(call.body)

    def ask(self, sender: str = "a", kind: str = MODEL_INFER) -> Answer:
        answer = Answer()
        self.port([Call(kind, b"x", answer, ((SENDER, sender),) if sender else ())])
        return answer


REPORT: Metadata = ((QUEUE, "3"),)


def test_a_sender_is_told_of_the_queue_only_so_often() -> None:
    scene = Scene()
    assert [scene.ask().metadata, scene.ask().metadata] == [REPORT, ()]
    assert scene.ask("c").metadata == REPORT  # another one knows nothing yet
    scene.now += 2 * REPORT_EVERY_S
    assert scene.ask().metadata == REPORT


def test_a_failure_always_tells() -> None:
    scene = Scene()
    scene.failure = Failure(Code.UNAVAILABLE, "no")
    assert [scene.ask().metadata, scene.ask().metadata] == [REPORT, REPORT]


def test_health_is_the_daemons_name_and_no_call() -> None:
    scene = Scene()
    assert scene.ask("", HEALTH).bodies == [b"b"]


def test_what_comes_from_no_daemon_is_refused() -> None:
    """And the next call of the list is served all the same."""
    scene = Scene()
    stranger, peer = Answer(), Answer()
    scene.port(
        [
            Call(MODEL_INFER, b"x", stranger),
            Call(MODEL_INFER, b"y", peer, ((SENDER, "a"),)),
        ]
    )
    [failure] = stranger.ends
    assert failure is not None
    assert failure.code is Code.INVALID_ARGUMENT
    assert peer.bodies == [b"y"]
