"""Whether a peer still answers: a state machine, times in and decisions out.

A lease says that a daemon exists, not that it answers, and its end comes too late for a caller who
waits. So whoever waits long asks: while a call has no answer for a moment, the peer's health is
asked again and again, and it is the silence to those questions that counts, never the time that the
call itself takes. A model may predict for a minute; a daemon's loop answers at once.

A question that was found unanswered much too late is no evidence: it was this daemon that stood
still, not the other one.

Pure: no clock, no asyncio; times are monotonic seconds.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Times:
    """How patient a daemon is with its peers, in seconds (`misses` is a count)."""

    notice_s: float = 0.25  # a call without an answer for so long makes its peer be asked
    ask_every_s: float = 0.2  # from one question to the next
    answer_within_s: float = 0.2  # a question without an answer by then is a miss
    misses: int = 2  # in a row, and nothing heard between them: a suspect
    backoff_most_s: float = 2.0  # who does not answer is asked ever more rarely, but so often


DEFAULT_TIMES = Times()


@dataclass(frozen=True, slots=True)
class Look:
    """What to do now: ask, or look again at `at` (None: when something happens)."""

    ask: bool
    at: float | None = None


_ASK = Look(ask=True)
_REST = Look(ask=False)


class Suspicion:
    """What is known of one peer's willingness to answer."""

    __slots__ = ("_asked_at", "_backoff_s", "_next_ask", "_times", "misses", "reachable", "suspect")

    def __init__(self, times: Times = DEFAULT_TIMES) -> None:
        self._times = times
        self._asked_at: float | None = None
        self._next_ask = 0.0
        self._backoff_s = times.ask_every_s
        self.misses = 0
        self.reachable = True
        self.suspect = False

    @property
    def answers(self) -> bool:
        return self.reachable and not self.suspect

    @property
    def doubted(self) -> bool:
        """Whether there is anything that a sign of life would change."""
        return self.suspect or self.misses > 0

    def look(self, now: float, oldest: float | None, *, wanted: bool = False) -> Look:
        """`oldest`: when the call was sent that has been without an answer for longest. `wanted`:
        somebody waits to know whether it answers."""
        if self._asked_at is not None:
            return _REST
        if wanted or self.misses or not self.answers:
            due = self._next_ask  # a doubt is settled, whether anybody waits or not
        elif oldest is None:
            return _REST
        else:
            due = max(oldest + self._times.notice_s, self._next_ask)
        return _ASK if now >= due else Look(ask=False, at=due)

    def asked(self, now: float) -> None:
        """A question has been sent. There is never more than one."""
        self._asked_at = now
        self._next_ask = now + self._times.ask_every_s

    def answered(self) -> None:
        """It answered the question: whatever there was against it is void."""
        self._asked_at = None
        self.reachable = True
        self._clear()

    def heard(self) -> None:
        """It answered a call: it is alive, though perhaps only on a connection that is old."""
        self._clear()

    def missed(self, now: float, *, lost: bool = False) -> None:
        """The question has no answer. `lost`: its connection broke; the next may have another."""
        asked_at, self._asked_at = self._asked_at, None
        within_s = self._times.answer_within_s
        if asked_at is not None and now - asked_at > 2 * within_s:
            return
        self.misses += 1
        if self.misses >= self._times.misses:
            self.suspect = True
        if not self.answers:
            self._back_off(now)
        elif lost:
            self._next_ask = now + within_s / 10

    def refused(self, now: float, *, question: bool) -> None:
        """No connection could be made: nobody is there, until somebody answers a question.

        `question`: it was the question that found nobody, and not some call.
        """
        if question:
            self._asked_at = None
        if question or self.answers:
            self._back_off(now)
        self.reachable = False

    def renewed(self, now: float) -> None:
        """There is news of it: a new address, or a new life. It may be asked at once."""
        self._asked_at = None
        self._next_ask = now
        self._backoff_s = self._times.ask_every_s

    def _clear(self) -> None:
        self.misses = 0
        self.suspect = False
        self._backoff_s = self._times.ask_every_s

    def _back_off(self, now: float) -> None:
        self._next_ask = now + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, self._times.backoff_most_s)
