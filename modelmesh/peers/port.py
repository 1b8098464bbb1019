"""The called end of the peer port: what other daemons ask, taken apart and handed to the daemon.

Health is answered here and at once: that the loop turns is all it says, so nothing may stand
between. Whoever serves the rest gets it with model and hops, as one call, and answers it as usual;
the answer takes the daemon's queue depth along.

A header costs an answer on gRPC a write of its own, so a sender is told at most so often; failures
always carry it, which tells them from failures of the link.
"""

from collections.abc import Callable
from typing import Final

import structlog
from cachetools import LRUCache

from modelmesh.domain.fleet import Hops
from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.peers.headers import HEALTH, receive, sent_kind, with_report
from modelmesh.wire.kinds import MODEL_INFER, V1_PREDICT, V2_INFER
from modelmesh.wire.replies import Passing
from modelmesh.wire.transport import NO_METADATA, Body, Call, Metadata, Reply

log = structlog.get_logger("peers")

Serve = Callable[[str, Hops, Call], None]

# What daemons send each other all the time, and never in two messages.
QUICK: Final = frozenset({HEALTH, MODEL_INFER, sent_kind(V1_PREDICT), sent_kind(V2_INFER)})

REPORT_EVERY_S: Final = 0.02
_MOST_SENDERS: Final = 4096
_BROKEN: Final = Failure(Code.INTERNAL, "internal error", Fault.PEER, executed=True)


class PeerPort:
    """A wire's `Handler` for the peer port.

    `serve(model_id, hops, call)` gets every call but health; it may raise `MeshError`.
    `queue_depth()`: calls that this daemon has open. `clock`: monotonic seconds.
    """

    def __init__(
        self,
        instance_id: str,
        serve: Serve,
        queue_depth: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._identity = instance_id.encode("utf-8", "replace")
        self._serve = serve
        self._queue_depth = queue_depth
        self._clock = clock
        self._told_at: LRUCache[str, float] = LRUCache(_MOST_SENDERS)

    def __call__(self, calls: list[Call]) -> None:
        for call in calls:
            if call.kind == HEALTH:
                call.reply.answer(self._identity)
                continue
            sender = Reporting(call.reply, self)
            call.reply = sender
            try:
                model_id, hops = receive(call)
                sender.to = hops.sender
                self._serve(model_id, hops, call)
            except MeshError as error:
                sender.finish(error.failure)
            except Exception:
                log.exception("a peer's call broke its handler", kind=call.kind)
                sender.finish(_BROKEN)

    def report(self) -> int:
        """What every failure says."""
        return self._queue_depth()

    def news_for(self, sender: str) -> int | None:
        """The queue depth, if this sender was not told a moment ago."""
        now = self._clock()
        if now - self._told_at.get(sender, -REPORT_EVERY_S) < REPORT_EVERY_S:
            return None
        self._told_at[sender] = now
        return self._queue_depth()


class Reporting(Passing):
    """The reply of one call from a peer (`to`)."""

    __slots__ = ("_port", "to")

    def __init__(self, reply: Reply, port: PeerPort) -> None:
        self._reply = reply  # without super(): this is made for every call
        self._port = port
        self.to = ""

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        queue_depth = self._port.news_for(self.to)
        if metadata or queue_depth is not None:
            metadata = with_report(queue_depth, metadata)
        self._reply.answer(body, metadata)

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        self._reply.finish(failure, with_report(self._port.report(), metadata))
