"""A reply that passes on: what every wrapper relies on, since each changes one thing only."""

from collections.abc import Callable
from typing import Any, Final

import pytest

from modelmesh.errors import Code, Failure
from modelmesh.wire.replies import Passing
from modelmesh.wire.transport import NO_METADATA, Body, Metadata, Reply

FAILURE: Final = Failure(Code.INTERNAL, "no")
HEADERS: Final = (("key", "value"),)


class Recorded:
    """Remembers what it was told."""

    gone = False
    slow = False

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        self.told.append(("answer", body, metadata))

    def send(self, message: Body) -> None:
        self.told.append(("send", message))

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        self.told.append(("finish", failure, metadata))

    def when_gone(self, callback: Callable[[], None]) -> None:
        self.told.append(("when_gone", callback))

    def when_writable(self, callback: Callable[[], None]) -> None:
        self.told.append(("when_writable", callback))


@pytest.mark.parametrize(
    "said",
    [
        ("answer", b"body", HEADERS),
        ("answer", b"body", NO_METADATA),
        ("send", b"message"),
        ("finish", FAILURE, HEADERS),
        ("finish", None, NO_METADATA),
        ("when_gone", list),
        ("when_writable", list),
    ],
)
def test_what_is_said_is_passed_on(said: tuple[Any, ...]) -> None:
    inner = Recorded()
    reply: Reply = Passing(inner)
    getattr(reply, said[0])(*said[1:])
    assert inner.told == [said]


def test_the_inner_reply_says_how_it_stands() -> None:
    inner = Recorded()
    reply: Reply = Passing(inner)
    assert (reply.gone, reply.slow) == (False, False)
    inner.gone = inner.slow = True
    assert (reply.gone, reply.slow) == (True, True)
