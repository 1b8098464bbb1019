"""Measuring a model in its process host, so that it may move to a shared one."""

from collections.abc import Callable
from dataclasses import replace
from time import monotonic

from modelmesh.policy.tiering import Measured
from modelmesh.wire.replies import Passing
from modelmesh.wire.transport import NO_METADATA, Body, Call, Metadata, Reply


def after(measured: Measured, took_s: float) -> Measured:
    """One more predict was seen."""
    return replace(
        measured,
        predicts=measured.predicts + 1,
        slowest_predict_s=max(measured.slowest_predict_s, took_s),
    )


def timed(call: Call, done: Callable[[float], None]) -> Call:
    """The same call; `done` gets the seconds from now to its answer (not to a failure)."""
    reply = _TimedReply(call.reply, done)
    return Call(call.kind, call.body, reply, call.metadata, call.deadline, call.inbound)


class _TimedReply(Passing):
    """A reply that looks at the clock when it is answered."""

    __slots__ = ("_done", "_since")

    def __init__(self, reply: Reply, done: Callable[[float], None]) -> None:
        super().__init__(reply)
        self._done = done
        self._since = monotonic()

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        took_s = monotonic() - self._since
        self._reply.answer(body, metadata)
        self._done(took_s)
