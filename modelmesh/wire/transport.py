"""The one interface between everything that calls and everything that is called.

A *wire* (loopback, framed, grpcio, http1, later http2) moves calls; nothing above this module may
know which one it has. The shape follows from what costs time: a task and a future per request cost
more than a small model's arithmetic, and requests that arrive together can be answered together.

* Calls that arrive in one turn of the loop, over all connections, are handed to the `Handler` in
  one list, once the whole request is there (streaming kinds: at their first sign).
* A handler is synchronous. It answers what it can at once through `call.reply`, and starts a named
  task only for what must wait. It never raises for one call's sake: a wire turns an exception of
  the handler into INTERNAL for every call of that list that has no answer yet, and logs it.
* Outgoing calls take the same `Call` with the same kind of reply handle: to forward is to hand the
  call on. `modelmesh.wire.awaiting.ask` makes an awaitable of it where that reads better.

Pure: no asyncio, no sockets, no clock. Deadlines are seconds on the monotonic clock, which all
processes of one machine share.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from modelmesh.errors import Failure

Body = bytes | bytearray | memoryview

# Lower-case keys; the value is bytes exactly for keys that end in "-bin". Keys may repeat.
Metadata = tuple[tuple[str, str | bytes], ...]

NO_METADATA: Metadata = ()
NO_DEADLINE = float("inf")


class Reply(Protocol):
    """Where the answer to one call goes: `answer` once, or `send`* and then `finish` once.

    After the caller has gone, all of these are accepted and dropped. A second end (`answer` or
    `finish`) is dropped as well: two parties may race to end a call (a deadline and an answer).
    """

    @property
    def gone(self) -> bool:
        """The caller has left or the reply has ended: nothing sent from now on arrives."""

    @property
    def slow(self) -> bool:
        """More than the wire's limit waits unsent: stop sending until `when_writable` calls."""

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        """The short way: one message, then OK. `metadata` are response headers."""

    def send(self, message: Body) -> None:
        """One of any number of messages."""

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        """End the reply: OK if `failure` is None. `metadata` are trailers (headers if unsent)."""

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call back once if the caller leaves before the reply has ended (at once if it has left).

        Several callbacks may be registered; they are forgotten when the reply ends.
        """

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Call back once when the reply is no longer slow (soon, if it is not slow now)."""


class Inbound(Protocol):
    """The caller's further messages, for streaming kinds only."""

    def listen(self, message: Callable[[Body], None], end: Callable[[], None]) -> None:
        """Deliver every message in order, those that came already included, then `end` once."""


class Call:
    """One request: a kind, metadata, an unparsed body, a deadline and where the answer goes."""

    __slots__ = ("body", "deadline", "inbound", "kind", "metadata", "reply")

    def __init__(
        self,
        kind: str,
        body: Body,
        reply: Reply,
        metadata: Metadata = NO_METADATA,
        deadline: float = NO_DEADLINE,
        inbound: Inbound | None = None,
    ) -> None:
        self.kind = kind
        self.body = body
        self.reply = reply
        self.metadata = metadata
        self.deadline = deadline
        self.inbound = inbound

    def __repr__(self) -> str:
        return f"<Call {self.kind} {len(self.body)} B>"

    def header(self, key: str) -> str | bytes | None:
        """The first value under this (lower-case) key."""
        for name, value in self.metadata:
            if name == key:
                return value
        return None


Handler = Callable[[list[Call]], None]


class Caller(Protocol):
    """The calling end of a wire: one link to one callee."""

    def start(self, call: Call) -> None:
        """Send the call; its answer arrives at `call.reply`, always, exactly once.

        Never raises and never blocks. Calls started in one turn of the loop leave together. If the
        link is down the reply finishes with UNAVAILABLE, `executed=False` when the callee provably
        never had the call. If the reply's caller leaves, the call is cancelled at the callee.
        """

    async def close(self) -> None:
        """Give the link up; open calls finish with UNAVAILABLE."""


class Server(Protocol):
    """The called end of a wire, started with a `Handler`."""

    @property
    def port(self) -> int:
        """The TCP port bound (0 where there is none)."""

    async def drain(self, grace_s: float) -> None:
        """Take no new connections, let running calls end within the bound, then close."""


StreamingKinds = frozenset[str]


def text(value: str | bytes | None) -> str:
    """A metadata value as text ("" where absent; invalid UTF-8 is replaced)."""
    if value is None:
        return ""
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def failed(calls: Sequence[Call], failure: Failure) -> None:
    """End every one of these calls with the same failure."""
    for call in calls:
        call.reply.finish(failure)
