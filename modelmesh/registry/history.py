"""Which history of the store is being followed, and how far: what shows that it was restored.

Revisions only grow within one history. A store that was put back to an older state goes on from a
lower revision, or says that it is another one (`identity`). A reply is compared with what was seen
when its question was asked: what came in meanwhile may rightly be newer than the reply.
Pure bookkeeping; must never ask the store.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mark:
    """Where one was when a question was asked."""

    number: int
    revision: int


class History:
    """`number` counts restores; `revision` is the highest one seen since the last."""

    def __init__(self) -> None:
        self.number = 0
        self.revision = 0
        self.identity = ""

    def mark(self) -> Mark:
        return Mark(self.number, self.revision)

    def same(self, mark: Mark) -> bool:
        """Whether it is still the history in which the question was asked."""
        return mark.number == self.number

    def saw(self, revision: int) -> None:
        self.revision = max(self.revision, revision)

    def contradiction(self, mark: Mark, revision: int) -> str:
        """Why a reply of this revision cannot be of the same history; empty if it can."""
        if self.same(mark) and revision < mark.revision:
            return f"its revision went back from {mark.revision} to {revision}"
        return ""

    def identify(self, identity: str) -> str:
        """Take note of who the store says it is; why it is not the one from before, or empty."""
        if self.identity and identity and identity != self.identity:
            return f"it was {self.identity} and is now {identity}"
        self.identity = self.identity or identity
        return ""

    def begin(self) -> None:
        """The store was restored."""
        self.number += 1
        self.revision = 0
        self.identity = ""
