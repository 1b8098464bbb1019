"""One call on its way through this daemon: the reply handle that notices how it ends.

It stands between the caller's reply and whoever answers, counts the call as open until it has
ended, and holds the model in use from the moment it is handed to the runtime. A caller that leaves
ends it, for nobody else will: a runtime that is told of it drops the call without a word, and what
it has begun comes before an unload in any case.
"""

from typing import Protocol

from modelmesh.cache.copy import Copy
from modelmesh.errors import Failure
from modelmesh.wire.replies import Passing
from modelmesh.wire.transport import NO_METADATA, Body, Call, Metadata


class Ended(Protocol):
    """Who is told that a call has ended."""

    def ended(self, served: "Served", code: str, response_bytes: int) -> None: ...


class Served(Passing):
    """The reply of one inference call, wrapped. Times are monotonic seconds; 0 = not invoked."""

    __slots__ = (
        "_open", "_owner", "_sent_bytes", "call", "copy", "invoked", "model_id", "started",
        "waited",
    )  # fmt: skip

    def __init__(self, owner: Ended, model_id: str, call: Call, now: float) -> None:
        self._reply = call.reply  # without super(): this is made for every call
        self._owner = owner
        self._open = True
        self._sent_bytes = 0
        self.call = call
        self.copy: Copy | None = None
        self.model_id = model_id
        self.started = now
        self.invoked = 0.0
        self.waited = False

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
