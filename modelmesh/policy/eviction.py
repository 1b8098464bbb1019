"""Which loaded model goes first when room is needed: the one with the lowest priority.

* `gdsf` (GreedyDual-Size-Frequency): priority = L + rate x load seconds / bytes. It spares what is
  asked for often and dear to load, and prefers one large idle model to many small ones. L, the
  priority of the last evicted, gives a newcomer its chance.
* `lru`: priority = time of the last use, as in ModelMesh.

Each step of an operator's priority doubles a model's worth; for `lru` it is ten minutes.

Rates are forgotten with a half-life, and so is L here: it stands for what the evicted model would
be worth by now. All priorities then fade at one pace, so their order changes by use only, never by
the mere passing of time, and nothing has to be rescanned. Both are kept as base-2 logarithms of
their value at time zero (see cache.rates), which neither overflow nor vanish.

Pure numbers in, a number out. An order must never look at anything but its subject.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp2, inf, log2
from typing import Protocol

_LRU_STEP_S = 600.0  # rates are halved in as long, unless an operator says otherwise

NEVER = -inf  # the logarithm of nothing: no use, or no eviction yet


class Subject(Protocol):
    """What an order may look at."""

    @property
    def use_level(self) -> float:
        """log2 of the decayed number of uses, taken back to time zero."""

    @property
    def load_s(self) -> float:
        """What loading it again would take, seconds; above 0."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def last_used(self) -> float:
        """Monotonic seconds."""

    @property
    def priority(self) -> int:
        """The operator's; 0 if there is none."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The priority of a subject, and how many steps of one unit are worth telling apart.

    `priority(subject, floor)`: `floor` is L, the priority of the last evicted.
    """

    name: str
    priority: Callable[[Subject, float], float]
    steps: int


def gdsf(subject: Subject, floor: float) -> float:
    """log2(L + uses x load seconds / bytes), at time zero."""
    worth = subject.use_level + log2(subject.load_s / subject.size_bytes)
    return log2_sum(floor, worth + subject.priority)


def lru(subject: Subject, floor: float) -> float:
    """When it was last used."""
    return subject.last_used + subject.priority * _LRU_STEP_S


def log2_sum(a: float, b: float) -> float:
    """log2(2**a + 2**b) without overflow."""
    high, low = (a, b) if a >= b else (b, a)
    return high if low == NEVER else high + log2(1.0 + exp2(low - high))


# A sixteenth of an octave is 4 % of worth, less than any rate is known to; an eighth of a second
# is less than any two uses of models differ in meaning.
POLICIES = {
    policy.name: policy for policy in (Policy("gdsf", gdsf, steps=16), Policy("lru", lru, steps=8))
}
