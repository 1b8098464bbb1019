"""One peer and this daemon's calls to it: who waits for what, and whether it still answers.

`Suspicion` decides; here are the timer, the questions and the link. There is at most one timer and
one question a peer, and none while nobody waits: a warm call sets no timer of its own. When a peer
becomes a suspect its link is replaced, since a connection whose packets were swallowed may stay
dead long after the network has healed; calls on the old one may still be answered there.

It must never resend a call: who is told (`on_suspect`) decides.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from modelmesh.domain.fleet import Peer
from modelmesh.domain.instances import InstanceRecord
from modelmesh.errors import Code, Failure, Reason
from modelmesh.peers import headers
from modelmesh.peers.forwarded import Finding, Forwarded, Question, finding
from modelmesh.peers.links import Lane, Links
from modelmesh.peers.suspicion import Suspicion, Times
from modelmesh.wire.replies import unavailable
from modelmesh.wire.transport import Call

log = structlog.get_logger("peers")

_NEWEST: Final = 0.1  # the weight of the newest answer in the running mean


class Watched:
    """The keeper of one `Peer`: the only one to write to it."""

    __slots__ = (
        "_clock",
        "_idle",
        "_lanes",
        "_links",
        "_loop",
        "_question",
        "_suspicion",
        "_timer",
        "_times",
        "_waiting",
        "gone",
        "lane",
        "open",
        "peer",
    )  # fmt: skip

    def __init__(self, peer: Peer, links: Links, times: Times, clock: Callable[[], float]) -> None:
        self.peer = peer
        self.open: dict[Forwarded, None] = {}  # in the order of sending
        self.gone = False
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._links = links
        self._times = times
        self._suspicion = Suspicion(times)
        self._timer: asyncio.TimerHandle | None = None
        self._question: Question | None = None
        self._waiting: list[asyncio.Future[bool]] = []
        self._idle: asyncio.Event | None = None
        self._lanes: list[Lane] = []
        self.lane = self._new_lane()

    # --- calls

    def begin(self, sent: Forwarded) -> None:
        """One more call is on its way, on the present lane."""
        self.open[sent] = None
        self.peer.in_flight += 1
        sent.lane.calls += 1
        if self._timer is None and self._question is None:
            self._timer = self._loop.call_later(self._times.notice_s, self._look)

    def answered(self, sent: Forwarded, queue_depth: int | None) -> None:
        self._ended(sent)
        peer = self.peer
        if queue_depth is not None:
            peer.queue_depth = queue_depth
        if sent.timed:
            took_s = self._clock() - sent.started
            mean_s = peer.latency_s
            peer.latency_s = mean_s + _NEWEST * (took_s - mean_s) if mean_s else took_s
        if self._suspicion.doubted:
            self._suspicion.heard()
            self._changed()

    def failed(self, sent: Forwarded, queue_depth: int | None, failure: Failure) -> Failure:
        self._ended(sent)
        found = finding(failure, queue_depth)
        if queue_depth is not None:
            self.peer.queue_depth = queue_depth
        if found is Finding.ANSWERED:
            self._suspicion.heard()
            self._changed()
        elif sent.lane is not self.lane:
            pass  # an old link says nothing about the present one
        elif found is Finding.REFUSED:
            self._suspicion.refused(self._clock(), question=False)
            self._changed()
        elif found is Finding.LOST and self._question is None and not self.gone:
            self.ask()  # it may be dead: an answer, or nobody to ask, tells soon
        if found is Finding.REFUSED:
            return replace(failure, reason=Reason.NOT_HERE)
        if found is Finding.LOST and failure.code is Code.CANCELLED:
            return unavailable(executed=True)
        return failure

    def left(self, sent: Forwarded) -> None:
        self._ended(sent)

    def _ended(self, sent: Forwarded) -> None:
        del self.open[sent]
        self.peer.in_flight -= 1
        lane = sent.lane
        lane.calls -= 1
        if lane.retired and not lane.calls:
            self._close(lane)
        if self.gone and not self.open:
            self.forget()
        if self._idle is not None and not self.open:
            self._idle.set()

    # --- health

    def ask(self) -> None:
        """Ask the peer's health, unless that is under way."""
        if self._question is not None:
            return
        now = self._clock()
        self._suspicion.asked(now)
        self._stop_timer()
        self._timer = self._loop.call_later(self._times.answer_within_s, self._too_late)
        self._question = question = Question(self._found)
        self.lane.caller.start(Call(headers.HEALTH, b"", question))

    async def answers(self) -> bool:
        """Whether the peer answers questions; joins one that is under way."""
        waiting: asyncio.Future[bool] = self._loop.create_future()
        self._waiting.append(waiting)
        self.ask()
        return await waiting  # bounded: so are questions, and how many may be missed

    def _too_late(self) -> None:
        self._timer = None
        question = self._question
        if question is not None and not question.gone:
            question.leave()
            self._found(Finding.NOTHING, "")

    def _found(self, found: Finding, instance_id: str) -> None:
        self._question = None
        self._stop_timer()
        now = self._clock()
        answered = found is Finding.ANSWERED
        if answered and instance_id not in ("", self.peer.instance_id):
            log.warning(
                "another daemon answers at a peer's address",
                peer=self.peer.instance_id, address=self.peer.record.address, found=instance_id,
            )  # fmt: skip
            answered, found = False, Finding.REFUSED
        if answered:
            self._suspicion.answered()
        elif found is Finding.REFUSED:
            self._suspicion.refused(now, question=True)
        else:
            self._suspicion.missed(now, lost=found is Finding.LOST)
        if answered or not self._suspicion.answers:  # else another question will tell
            self._settle(answered)
        self._changed()

    def _settle(self, answers: bool) -> None:
        """Tell those who wait to know."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(answers)

    def _changed(self) -> None:
        """Publish what is now known of the peer, tell who has to know, and go on watching."""
        peer, suspicion = self.peer, self._suspicion
        newly_suspect = suspicion.suspect and not peer.suspect
        answered_before = peer.answers
        peer.reachable, peer.suspect = suspicion.reachable, suspicion.suspect
        if peer.answers != answered_before:
            log.info(
                "peer answers again" if peer.answers else "peer does not answer",
                peer=peer.instance_id, suspect=peer.suspect, reachable=peer.reachable,
                in_flight=peer.in_flight,
            )  # fmt: skip
        if newly_suspect:
            self._retire(self.lane)
            self.lane = self._new_lane()
        if not peer.answers:
            self._tell()
        self._watch()

    def _tell(self) -> None:
        """Who is silent fails all its callers. Who only refuses connections may be leaving, and
        answers what it has: a call on the present link ends with its connection, or is answered."""
        silent = self.peer.suspect
        for sent in [each for each in self.open if silent or each.lane is not self.lane]:
            on_suspect, sent.on_suspect = sent.on_suspect, None
            if on_suspect is not None and not sent.gone:
                try:
                    on_suspect()
                except Exception:
                    log.exception("a caller could not be told of a suspect")

    def _look(self) -> None:
        self._timer = None
        self._watch()

    def _watch(self) -> None:
        """Ask now, or set the timer, or rest: as suspicion decides."""
        if self._question is not None:
            return
        oldest = next(iter(self.open), None)
        if oldest is None and self.gone:
            return
        now = self._clock()
        look = self._suspicion.look(
            now, None if oldest is None else oldest.started, wanted=bool(self._waiting)
        )
        if look.ask:
            self.ask()
        elif look.at is not None:
            self._stop_timer()
            self._timer = self._loop.call_later(look.at - now, self._look)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- links

    def renew(self, record: InstanceRecord) -> None:
        """Its newest record. Another address is another link; another life is worth a question."""
        before, self.peer.record = self.peer.record, record
        moved = record.address != before.address
        if not moved and (record.epoch, record.start_ms) == (before.epoch, before.start_ms):
            return
        self._drop_question()
        self._suspicion.renewed(self._clock())
        if moved:
            self._retire(self.lane)
            self.lane = self._new_lane()
        self.ask()

    def remove(self) -> None:
        """It exists no more: what is open may end."""
        self.gone = True
        if not self.open:
            self.forget()

    def forget(self) -> None:
        """Ask no more, and close every link. Questions that somebody waits for are unanswered."""
        self._drop_question()
        self._settle(False)
        for lane in list(self._lanes):
            self._close(lane)

    async def close(self, grace_s: float) -> None:
        """Wait for open calls, bounded; then end them with their links."""
        self._idle = asyncio.Event()
        if self.open:
            try:
                async with asyncio.timeout(grace_s):
                    await self._idle.wait()
            except TimeoutError:
                log.warning("calls are cut off", peer=self.peer.instance_id, calls=len(self.open))
        self.gone = True
        self.forget()

    def _drop_question(self) -> None:
        self._stop_timer()
        question, self._question = self._question, None
        if question is not None:
            question.leave()

    def _new_lane(self) -> Lane:
        lane = self._links.open(self.peer.record.address)
        self._lanes.append(lane)
        return lane

    def _retire(self, lane: Lane) -> None:
        lane.retired = True
        if not lane.calls:
            self._close(lane)

    def _close(self, lane: Lane) -> None:
        if lane in self._lanes:
            self._lanes.remove(lane)
            self._links.close(lane)
