"""One call on its way through this daemon: the reply handle that notices how it ends.

It stands between the caller's reply and whoever answers, counts the call as open until it has
ended, and holds the model in use from the moment it is handed to the runtime. A caller that leaves
ends it, for nobody else will: a runtime that is told of it drops the call without a word, and what
it has begun comes before an unload in any case.
"""

from collections.abc import Callable, Collection
from typing import Protocol

from modelmesh.cache.copy import Copy
from modelmesh.domain.fleet import FROM_CALLER, Hops
from modelmesh.errors import Failure
from modelmesh.serving.flight import Waiter
from modelmesh.wire.replies import Passing
from modelmesh.wire.transport import NO_METADATA, Body, Call, Metadata


class Ended(Protocol):
    """Who is told that a call has ended."""

    def ended(self, served: "Served", code: str, response_bytes: int) -> None: ...


class Asked(Protocol):
    """The call at a peer. `superseded`: its failure counts no more, somebody else was asked."""

    superseded: bool
    give_up: Callable[[], None] | None


class Walk:
    """What a call has behind it that was not answered where it came in.

    `tried`: instances that refused or failed it; `refused`: those of them that only had no copy.
    `attempt`: how often it was handed on or waited for in vain. `resent`: it was sent again after a
    daemon vanished or fell silent with it. `failure`: what the last of them said, if it says
    something of the model or of room. `asked`: at whom it is now; `silent`: at whom it was before,
    and may be still.
    """

    __slots__ = (
        "asked", "asked_store", "attempt", "failure", "refused", "resent", "silent", "tried",
    )  # fmt: skip

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.refused: list[str] = []
        self.attempt = 0
        self.asked_store = False
        self.resent = False
        self.failure: Failure | None = None
        self.asked: Asked | None = None
        self.silent: Asked | None = None

    def vanished(self) -> None:
        """Whom it was with is out of reach. Who left it to him before is asked anew: a claim that
        was lost to him then may be won by now."""
        self.resent = True
        self.tried.clear()

    def let_go(self) -> None:
        """The call has ended: whoever still works on it may stop."""
        for asked in (self.asked, self.silent):
            if asked is not None and asked.give_up is not None:
                asked.give_up()  # nothing, where it was answered
        self.asked = self.silent = None


class Served(Passing):
    """The reply of one inference call, wrapped. Times are monotonic seconds; 0 = not invoked.

    Also what routing knows of the call: `hops` and `balanced` from where it came in, the rest from
    its `walk`, which most calls do not have.
    """

    __slots__ = (
        "_open", "_owner", "_sent_bytes", "_walk", "balanced", "call", "copy", "hops", "invoked",
        "model_id", "started", "waiter", "watched",
    )  # fmt: skip

    def __init__(
        self,
        owner: Ended,
        model_id: str,
        call: Call,
        now: float,
        hops: Hops = FROM_CALLER,
        balanced: bool = False,
    ) -> None:
        self._reply = call.reply  # without super(): this is made for every call
        self._owner = owner
        self._open = True
        self._sent_bytes = 0
        self.call = call
        self.copy: Copy | None = None
        self.model_id = model_id
        self.started = now
        self.invoked = 0.0
        self.hops = hops
        self.balanced = balanced
        self.watched = False  # somebody is told if the caller leaves
        self.waiter: Waiter | None = None
        self._walk: Walk | None = None

    @property
    def walk(self) -> Walk:
        """Its walk, which begins when it is first asked for."""
        if self._walk is None:
            self._walk = Walk()
        return self._walk

    @property
    def has_walked(self) -> bool:
        return self._walk is not None

    @property
    def tried(self) -> Collection[str]:
        return self._walk.tried if self._walk is not None else ()

    @property
    def attempt(self) -> int:
        return self._walk.attempt if self._walk is not None else 0

    @property
    def asked_store(self) -> bool:
        return self._walk is not None and self._walk.asked_store

    @property
    def has_sent(self) -> bool:
        """Whether the caller has a part of the answer."""
        return self._sent_bytes > 0

    @property
    def gone(self) -> bool:
        return not self._open or self._reply.gone

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        if self._open:
            self._open = False
            try:
                self._reply.answer(body, metadata)
            finally:  # a wire that breaks must not keep the model in use for ever
                self._owner.ended(self, "OK", len(body))

    def send(self, message: Body) -> None:
        if self._open:
            self._sent_bytes += len(message)
            self._reply.send(message)

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        if self._open:
            self._open = False
            try:
                self._reply.finish(failure, metadata)
            finally:
                code = "OK" if failure is None else failure.code.name
                self._owner.ended(self, code, self._sent_bytes)
