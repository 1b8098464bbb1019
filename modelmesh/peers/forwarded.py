"""The reply handles of what goes to a peer: a forwarded call, and a question about its health.

Both stand between the wire and whoever waits, tell `Sender` how it went before the waiting side is
told, and let nothing through after the end. One `Forwarded` is made for every forwarded request:
keep it lean.
"""

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from modelmesh.errors import Code, Failure
from modelmesh.peers.headers import report_of
from modelmesh.peers.links import Lane
from modelmesh.wire.replies import OpenReply
from modelmesh.wire.transport import NO_METADATA, Body, Metadata, Reply


class Finding(Enum):
    """What the end of a call or question says about the peer."""

    ANSWERED = "answered"
    REFUSED = "refused"  # no connection: it provably never had it
    LOST = "lost"  # the connection broke
    NOTHING = "nothing"


def finding(failure: Failure, queue_depth: int | None) -> Finding:
    """A peer's own word carries its queue depth; a failure without one is the link's.

    A server that shuts down cancels what it did not get to: nobody here has cancelled it, for who
    leaves hears nothing more.
    """
    if queue_depth is not None:
        return Finding.ANSWERED
    if failure.code is Code.CANCELLED:
        return Finding.LOST
    if failure.code is not Code.UNAVAILABLE:
        return Finding.NOTHING
    return Finding.LOST if failure.executed else Finding.REFUSED


class Sender(Protocol):
    """Who sent it, and keeps account."""

    def answered(self, sent: "Forwarded", queue_depth: int | None) -> None:
        """The peer answered the call."""

    def failed(self, sent: "Forwarded", queue_depth: int | None, failure: Failure) -> Failure:
        """The call ended with a failure; returns what to say of it."""

    def left(self, sent: "Forwarded") -> None:
        """The caller has left."""


class Forwarded(OpenReply):
    """The reply of one call that a peer has. `started`: monotonic seconds."""

    __slots__ = ("_reply", "_sender", "lane", "on_suspect", "started", "timed")

    def __init__(
        self,
        reply: Reply,
        sender: Sender,
        lane: Lane,
        started: float,
        on_suspect: Callable[[], None] | None,
        timed: bool,
    ) -> None:
        self.gone = self._left = False  # without super(): this is made for every call
        self._callbacks = None
        self._reply = reply
        self._sender = sender
        self.lane = lane
        self.started = started
        self.on_suspect = on_suspect
        self.timed = timed

    @property
    def slow(self) -> bool:
        return not self.gone and self._reply.slow

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        if not self.gone:
            self.end()
            queue_depth, metadata = report_of(metadata)
            self._sender.answered(self, queue_depth)
            self._reply.answer(body, metadata)

    def send(self, message: Body) -> None:
        if not self.gone:
            self._reply.send(message)

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        if self.gone:
            return
        self.end()
        queue_depth, metadata = report_of(metadata)
        if failure is None:
            self._sender.answered(self, queue_depth)
        else:
            failure = self._sender.failed(self, queue_depth, failure)
        self._reply.finish(failure, metadata)

    def when_writable(self, callback: Callable[[], None]) -> None:
        self._reply.when_writable(callback)

    def leave(self) -> None:
        if not self.gone:
            super().leave()
            self._sender.left(self)


class Question(OpenReply):
    """The reply of a health question: tells once what was found, and who answered."""

    __slots__ = ("_found",)

    def __init__(self, found: Callable[[Finding, str], None]) -> None:
        super().__init__()
        self._found = found

    @property
    def slow(self) -> bool:
        return False

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        if not self.gone:
            self.end()
            self._found(Finding.ANSWERED, bytes(body).decode("utf-8", "replace"))

    def send(self, message: Body) -> None:
        """Health is one message."""

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        if self.gone:
            return
        self.end()
        if failure is None or failure.code is Code.UNIMPLEMENTED:
            self._found(Finding.ANSWERED, "")  # somebody is there, if of another version
        else:
            self._found(finding(failure, None), "")

    def when_writable(self, callback: Callable[[], None]) -> None:
        callback()
