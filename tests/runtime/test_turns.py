"""Turns of one external model: bounded, in order, and whatever ends at once ends without depth."""

from modelmesh.errors import Code
from modelmesh.runtime.limiter import UNLIMITED
from modelmesh.runtime.turns import ModelTurns
from modelmesh.wire.replies import OpenReply


class Held(OpenReply):
    """A reply that nobody writes to."""

    slow = False

    def answer(self, body: object, metadata: object = ()) -> None: ...

    def send(self, message: object) -> None: ...

    def finish(self, failure: object = None, metadata: object = ()) -> None: ...

    def when_writable(self, callback: object) -> None: ...


def test_at_most_so_many_run_and_the_others_keep_their_order() -> None:
    turns, begun = ModelTurns(2, UNLIMITED), list[int]()
    for number in range(4):
        assert turns.take(Held(), lambda number=number: begun.append(number)) is None  # type: ignore[misc]
    assert begun == [0, 1]
    turns.give_back()
    turns.give_back()
    assert begun == [0, 1, 2, 3]


def test_without_a_limit_all_run() -> None:
    turns, begun = ModelTurns(0, UNLIMITED), list[int]()
    for _ in range(100):
        assert turns.take(Held(), lambda: begun.append(1)) is None
    assert len(begun) == 100


def test_beyond_the_in_flight_limit_a_call_is_refused_until_one_ends() -> None:
    turns = ModelTurns(1, 2)
    assert turns.take(Held(), lambda: None) is None
    assert turns.take(Held(), lambda: None) is None
    refusal = turns.take(Held(), lambda: None)
    assert refusal is not None
    assert refusal.code is Code.RESOURCE_EXHAUSTED
    assert refusal.retry_after_s is not None
    turns.give_back()
    assert turns.take(Held(), lambda: None) is None


def test_who_left_while_waiting_is_passed_over() -> None:
    turns, begun = ModelTurns(1, UNLIMITED), list[str]()
    left = Held()
    turns.take(Held(), lambda: begun.append("first"))
    turns.take(left, lambda: begun.append("left"))
    turns.take(Held(), lambda: begun.append("last"))
    left.leave()
    turns.give_back()
    assert begun == ["first", "last"]


def test_thousands_that_end_at_once_end_without_depth() -> None:
    """A server that hung comes back, and every call that waited is too late by then."""
    turns, ended = ModelTurns(1, UNLIMITED), list[int]()

    def begin() -> None:
        ended.append(1)
        turns.give_back()

    turns.take(Held(), lambda: None)
    for _ in range(5000):
        turns.take(Held(), begin)
    turns.give_back()
    assert len(ended) == 5000
    assert turns.take(Held(), begin) is None, "the turn is free"
    assert len(ended) == 5001
