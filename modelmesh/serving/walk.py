"""The walk of a call through the fleet: handed on, refused, tried elsewhere, and answered once.

`Others` is asked by the instance where a call cannot be served here. It sends the call to the peer
that routing named and reads the answer: what a peer will not do is asked of somebody else; what
vanished with its daemon is sent once more, if it may be; everything else is the caller's answer.
The number of attempts is routing's bound.

Must never decide where a call goes: `policy.routing` and `policy.resending` do.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from modelmesh.domain.fleet import Hops, Intent
from modelmesh.errors import Code, Failure, Fault, MeshError, Reason
from modelmesh.observe.tasks import spawn
from modelmesh.peers.door import Peers
from modelmesh.policy.resending import IDEMPOTENT_HEADER, after_failure, is_idempotent
from modelmesh.policy.routing import Forward
from modelmesh.serving.served import Served
from modelmesh.serving.view import FleetView
from modelmesh.wire import kinds
from modelmesh.wire.replies import Passing
from modelmesh.wire.transport import NO_METADATA, Body, Call, Metadata, text

log = structlog.get_logger("serving")

PREDICTS = frozenset({kinds.MODEL_INFER, kinds.V1_PREDICT, kinds.V2_INFER})


class Walks(Protocol):
    """What an instance asks when a call is not (only) its own."""

    def forward(self, served: Served, decision: Forward) -> None:
        """Send it there."""

    def ask_store(self, served: Served) -> None:
        """Read its model from the store, once, and route again."""

    def not_loaded(self, served: Served, failure: Failure) -> None:
        """It waited here for a load that did not come about."""

    def rejected(self, served: Served, failure: Failure) -> None:
        """Routing has nobody left to ask."""


class Others:
    """The rest of the fleet, for calls. `again` routes a call once more."""

    def __init__(
        self,
        view: FleetView,
        peers: Peers,
        look: Callable[[str], Awaitable[object]],
        again: Callable[[Served], None],
    ) -> None:
        """`look(model_id)` reads the model from the store into the table (shared, bounded)."""
        self._view = view
        self._peers = peers
        self._look = look
        self._again = again

    def forward(self, served: Served, decision: Forward) -> None:
        view, call, peer_id = self._view, served.call, decision.instance_id
        walk = served.walk
        walk.attempt += 1
        if decision.intent is Intent.LOAD:
            record = view.record(served.model_id)
            if record is not None:
                view.note_sent(peer_id, view.weigh(served.model_id, record).size_bytes)
        answer = walk.asked = _Answer(self, served, peer_id, decision.intent)
        answer.give_up = self._peers.call(
            peer_id,
            Hops(decision.intent, view.me, tuple(walk.tried)),
            served.model_id,
            Call(call.kind, call.body, answer, call.metadata, call.deadline),
            answer.suspected,
        )

    def ask_store(self, served: Served) -> None:
        served.walk.asked_store = True
        spawn(self._ask(served), f"look for {served.model_id}")

    async def _ask(self, served: Served) -> None:
        try:
            await self._look(served.model_id)
        except MeshError as error:  # "not found" would be a guess
            served.finish(error.failure)
            return
        except Exception:
            log.exception("a model could not be looked for", model=served.model_id)
        self._again(served)

    def not_loaded(self, served: Served, failure: Failure) -> None:
        bound = served.hops.intent is not Intent.ANY
        if bound or not after_failure(failure, idempotent=False, resent=False).again:
            self._end(served, failure)
            return
        walk = served.walk
        walk.attempt += 1
        if failure.reason is Reason.NOT_HERE:
            self._claimed_elsewhere(served)
        else:
            walk.failure = failure
            walk.tried.append(self._view.me)
        self._again(served)

    def _claimed_elsewhere(self, served: Served) -> None:
        """Whoever has claimed the model has it by now, though he may have refused it before."""
        record, walk = self._view.record(served.model_id), served.walk
        if record is not None:
            won = {each for each in walk.refused if each in record.instance_ids}
            walk.tried[:] = [each for each in walk.tried if each not in won]

    def rejected(self, served: Served, failure: Failure) -> None:
        """What was wrong at the last one asked says more than that nobody is left."""
        before = served.walk.failure if served.has_walked else None
        if before is not None and failure.code is Code.UNAVAILABLE:
            failure = before
        self._end(served, failure)

    def _end(self, served: Served, failure: Failure, metadata: Metadata = NO_METADATA) -> None:
        """Nobody else is asked. A daemon that fell silent with the call may still answer it (its
        link is watched): then its word counts, whatever it is; but not of a model that is gone."""
        silent = served.walk.silent if served.has_walked else None
        if silent is None or failure.code is Code.NOT_FOUND:
            served.finish(
                _for_callers(failure) if served.hops.intent is Intent.ANY else failure, metadata
            )
            return
        log.info("a call waits for a silent daemon", model=served.model_id, failure=failure.message)
        served.walk.silent, served.walk.asked = None, silent
        silent.superseded = False

    # --- what comes back

    def failed(self, answer: "_Answer", failure: Failure, metadata: Metadata) -> None:
        """A peer's answer is a failure."""
        served, peer_id = answer.served, answer.instance_id
        walk = served.walk
        if answer.superseded:  # it was asked of another one meanwhile
            walk.silent = None
            return
        decided = after_failure(failure, idempotent=idempotent(served.call), resent=walk.resent)
        if not decided.again or served.has_sent:
            self._end(served, failure, metadata)
            return
        if failure.executed:
            walk.vanished()
            spawn(self._after_break(served, peer_id), f"ask whether {peer_id} answers")
            return
        if failure.reason is Reason.NOT_HERE:
            walk.refused.append(peer_id)
            if answer.intent is Intent.HIT:
                self._view.note_refused(served.model_id, peer_id)
        else:
            walk.failure = failure
        walk.tried.append(peer_id)
        self._again(served)

    async def _after_break(self, served: Served, peer_id: str) -> None:
        """A connection broke with the call. It is sent once more, so not to who is dead: the next
        connection to him may still seem open for a moment. That he does not answer is for routing
        and claims to see: left out of this call alone, he would still keep it from being loaded
        anywhere else. (Bounded: questions are.)"""
        try:
            await self._peers.ask_health(peer_id)
        finally:
            if not served.gone:
                self._again(served)

    def suspected(self, answer: "_Answer") -> None:
        """The peer fell silent with the call: who may be repeated is, once. (He is out for as long
        as he is silent, and may be asked again after that.)"""
        served = answer.served
        walk = served.walk
        once = walk.resent or served.has_sent or not idempotent(served.call)
        if once or served.gone or answer.superseded:
            return
        log.info("a call is sent again", model=served.model_id, silent=answer.instance_id)
        walk.vanished()
        answer.superseded = True
        walk.silent = answer
        self._again(served)


class _Answer(Passing):
    """The reply of one call that is at a peer."""

    __slots__ = ("_others", "give_up", "instance_id", "intent", "served", "superseded")

    def __init__(self, others: Others, served: Served, instance_id: str, intent: Intent) -> None:
        self._reply = served  # without super(): this is made for every forwarded call
        self._others = others
        self.served = served
        self.instance_id = instance_id
        self.intent = intent
        self.superseded = False
        self.give_up: Callable[[], None] | None = None

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        self.served.answer(body, metadata)

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        if failure is None:
            self.served.finish(None, metadata)
        else:
            self._others.failed(self, failure, metadata)

    def suspected(self) -> None:
        self._others.suspected(self)


def idempotent(call: Call) -> bool:
    """Whether the call may be repeated after a daemon vanished with it."""
    header = text(call.header(IDEMPOTENT_HEADER)) if call.metadata else ""
    return is_idempotent(header, predicts=call.kind in PREDICTS)


def _for_callers(failure: Failure) -> Failure:
    """NOT_HERE is between daemons."""
    if failure.reason is not Reason.NOT_HERE:
        return failure
    return Failure(Code.UNAVAILABLE, "no instance took the call", Fault.PEER, retry_after_s=1.0)
