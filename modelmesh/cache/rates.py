"""How often a model is used: counts that fade with a half-life and never need a rescan.

A use at time t counts 2**((t - now) / half_life) at any later `now`. Multiplied by
2**(now / half_life) that no longer depends on `now`, so a counter changes only when its model is
used, and counters compare without being brought up to date. The product grows without end, so
its logarithm is kept: the *level*, log2 of the decayed count as it would have been at time zero.
"""

from math import exp2, log

from modelmesh.policy.eviction import NEVER, log2_sum

__all__ = ["NEVER", "add_uses", "rate_per_s"]

# log2 of the small counts that nearly every call adds.
_LOG2 = (NEVER, 0.0, 1.0)


def add_uses(level: float, uses: int, at: float, half_life_s: float) -> float:
    """The level after `uses` more uses at monotonic time `at`."""
    log2_uses = _LOG2[uses] if uses < len(_LOG2) else log(uses, 2)
    return log2_sum(level, at / half_life_s + log2_uses)


def rate_per_s(level: float, now: float, half_life_s: float) -> float:
    """Uses a second: a steady stream of r a second keeps r x half_life / ln 2 on the counter."""
    return exp2(level - now / half_life_s) * log(2) / half_life_s
