"""Notices a host that has fallen silent, whatever it writes into its journal.

The journal comes from the host, and so from any model in it: one that hangs can leave the page
empty, or change it for ever. But a host has one thread, and between any two entries it answers what
needs no model: so where calls are open and nothing is answered for a moment, the daemon asks it a
question (for its status). A host that is busy with honest entries answers after the one that runs,
however many wait; one whose models merely wait (a dummy's `predict_s`) answers at once. One that
has not answered when the longest entry must have ended is lost to somebody who does not say so.

Pure. Must never take a host's word for anything: it knows what the daemon has sent and received.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

# An honest entry that runs into its timeout is found by the journal, and its model blamed exactly.
# This must come later, on a busy machine too.
SLACK: Final = 1.25


class Step(Enum):
    """What to do about a silence."""

    WAIT = "wait"
    ASK = "ask"
    END = "end"


@dataclass(frozen=True, slots=True)
class Counts:
    """Calls to one host: answered so far, given up by their callers so far, and open now."""

    answered: int
    withdrawn: int
    unanswered: int


@dataclass(frozen=True, slots=True)
class Silence:
    """Since when nothing was heard; `question_id` (0: none) was asked `asked` (monotonic s)."""

    counts: Counts
    since: float
    question_id: int = 0
    asked: float = 0.0

    def goes_on(self, counts: Counts, question_is_open: bool, now: float) -> "Silence":
        """This silence, or a new one that begins now: after an answer, or if nothing is due.

        A call that was given up may be what the host runs: it is due until the next answer.
        """
        heard = counts.answered != self.counts.answered
        nothing_due = not counts.unanswered and counts.withdrawn == self.counts.withdrawn
        withdrawn = self.question_id and not question_is_open  # taken away with the others' calls
        return Silence(counts, now) if heard or nothing_due or withdrawn else self

    def with_question(self, question_id: int, now: float) -> "Silence":
        """It has been asked."""
        return replace(self, question_id=question_id, asked=now)

    def step(self, now: float, ask_s: float, limit_s: float) -> Step:
        """`ask_s`: how long a silence is no matter; `limit_s`: how long one entry may run."""
        if self.question_id:
            return Step.END if now - self.asked > SLACK * limit_s else Step.WAIT
        return Step.ASK if now - self.since > ask_s else Step.WAIT
