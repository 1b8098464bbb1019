"""Open streaming calls: bounded in number, guarded, and ended before the daemon leaves.

A stream has no end of its own, so a drain that only waited for running calls would always wait for
all of its time.
"""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from modelmesh.api.dispatch import fail
from modelmesh.errors import Code, Failure, Fault, MeshError, Reason
from modelmesh.wire.transport import Body, Call

MOST_STREAMS: Final = 1000  # of one service; each is a caller that waits, a few KiB at rest

_FULL = Failure(
    Code.RESOURCE_EXHAUSTED,
    "too many streams are open",
    Fault.CAPACITY,
    Reason.OVERLOADED,
    retry_after_s=1.0,
)
_DRAINING = Failure(
    Code.UNAVAILABLE, "this daemon is shutting down", Fault.CAPACITY, Reason.DRAINING, 1.0
)


T = TypeVar("T")


class Streams(Generic[T]):
    """The open streams of one service, each with what the service remembers of it."""

    def __init__(self, most: int = MOST_STREAMS) -> None:
        self._most = most
        self._draining = False
        self.open: dict[Call, T] = {}

    def begin(
        self, call: Call, state: T, message: Callable[[Body], None], end: Callable[[], None]
    ) -> None:
        """Take the caller's messages, then `end`, until the reply has ended.

        What `message` or `end` raises ends the stream.
        """
        if len(self.open) >= self._most:
            raise MeshError(_FULL)
        self.open[call] = state
        call.reply.when_gone(lambda: self._forget(call))
        if call.inbound is None:
            self._guarded(call, lambda: message(call.body))
            self._guarded(call, end)
        else:
            call.inbound.listen(
                lambda body: self._guarded(call, lambda: message(body)),
                lambda: self._guarded(call, end),
            )
        if self._draining:
            self.finish(call, _DRAINING)

    def finish(self, call: Call, failure: Failure | None = None) -> None:
        """End the stream."""
        self._forget(call)
        call.reply.finish(failure)

    def drain(self) -> None:
        """End every stream, and from now on every new one after its first answers."""
        self._draining = True
        for call in list(self.open):
            self.finish(call, _DRAINING)

    def _guarded(self, call: Call, act: Callable[[], None]) -> None:
        if call.reply.gone:
            return
        try:
            act()
        except Exception as error:
            self._forget(call)
            fail(call, error)

    def _forget(self, call: Call) -> None:
        self.open.pop(call, None)
