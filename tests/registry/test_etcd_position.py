"""A watch's position against an etcd of thirty lines that sends as the real one does: the store's
newest revision in every header, catching up in parts, large parts in fragments, and breaking off
anywhere."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmesh.pb.etcd import kv_pb2, rpc_pb2
from modelmesh.registry.etcd.position import Canceled, Position
from modelmesh.registry.store import Compacted


def event(revision: int, key: str = "k") -> kv_pb2.Event:
    return kv_pb2.Event(kv=kv_pb2.KeyValue(key=key.encode(), mod_revision=revision))


def answer(
    newest: int, events: list[kv_pb2.Event] | None = None, **fields: object
) -> rpc_pb2.WatchResponse:
    header = rpc_pb2.ResponseHeader(revision=newest)
    return rpc_pb2.WatchResponse(header=header, events=events or [], **fields)  # type: ignore[arg-type]


class Server:
    """Revisions of one to three events; some of them concern other keys and are not sent."""

    def __init__(self, rng: Random, revisions: int) -> None:
        self.newest = revisions
        self._rng = rng
        self.events = [
            event(revision, f"k{n}")
            for revision in range(1, revisions + 1)
            if rng.random() < 0.7
            for n in range(rng.randint(1, 3))
        ]

    def stream(self, start: int) -> list[rpc_pb2.WatchResponse]:
        """What a watch from there gets before the stream breaks somewhere."""
        rng = self._rng
        answers = [answer(self.newest, created=True)]
        revisions = sorted({e.kv.mod_revision for e in self.events if e.kv.mod_revision >= start})
        while revisions:
            some, revisions = revisions[: (cut := rng.randint(1, 4))], revisions[cut:]
            part = [e for e in self.events if e.kv.mod_revision in some]
            while part:
                piece, part = part[: (cut := rng.randint(1, 3))], part[cut:]
                answers.append(answer(self.newest, piece, fragment=bool(part)))
            if rng.random() < 0.3:  # an answer to a question, ahead of what is still to come
                answers.append(answer(self.newest, watch_id=-1))
        answers.append(answer(self.newest))  # by etcd itself: nothing is missing
        return answers[: rng.randint(0, len(answers))] if rng.random() < 0.8 else answers


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), after=st.integers(0, 20))
def test_every_event_comes_once_whatever_breaks(seed: int, after: int) -> None:
    server = Server(Random(seed), 20)
    position = Position(after)
    seen: list[kv_pb2.Event] = []
    for _ in range(1000):
        position.reopened()
        for each in server.stream(position.next_revision):
            seen += position.take(each)
        if position.next_revision > server.newest:
            break
    assert position.next_revision > server.newest
    assert seen == [e for e in server.events if e.kv.mod_revision > after]


def test_a_header_beside_events_moves_nothing() -> None:
    position = Position(5)
    position.take(answer(1000, created=True))
    assert position.next_revision == 6
    assert [e.kv.mod_revision for e in position.take(answer(1000, [event(7)]))] == [7]
    assert position.next_revision == 8


def test_only_a_notification_for_this_watch_moves_the_position() -> None:
    position = Position(5)
    position.take(answer(50, watch_id=-1))
    assert position.next_revision == 6
    position.take(answer(50))
    assert position.next_revision == 51
    position.take(answer(40))
    assert position.next_revision == 51


def test_half_of_an_answer_is_none() -> None:
    position = Position(0)
    assert position.take(answer(9, [event(1), event(2)], fragment=True)) == ()
    assert position.next_revision == 1
    position.reopened()
    assert list(position.take(answer(9, [event(1)]))) == [event(1)]


def test_a_watch_that_cannot_go_on() -> None:
    with pytest.raises(Compacted):
        Position(5).take(answer(9, canceled=True, compact_revision=8))
    with pytest.raises(Canceled, match="permission denied"):
        Position(5).take(
            answer(9, created=True, canceled=True, cancel_reason="etcdserver: permission denied")
        )
