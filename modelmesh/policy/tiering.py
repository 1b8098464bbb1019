"""Which tier a model runs in, and when it may move to a cheaper one.

A shared host is cheap (a model in it weighs kilobytes) but a model that is slow, large or crashes
there is felt by its neighbours; a process host is dear (megabytes, a fork) and harms nobody. So
what is small and quick, or may be presumed so by the size of its files, shares; what is unknown
and large proves itself in a process host first; what has once killed or stalled a shared host
never returns to one.

Pure: facts in, a decision with its reason out.
"""

from dataclasses import dataclass
from enum import StrEnum

MIB = 1 << 20


class Tier(StrEnum):
    """Where a model's code runs. `auto` is an operator's wish, never a decision."""

    AUTO = "auto"
    INLINE = "inline"
    SHARED = "shared"
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class TierLimits:
    """What counts as small and quick. `wish` is the operator's choice for all models."""

    wish: Tier = Tier.AUTO
    shared_file_bytes: int = MIB
    quick_load_s: float = 0.1
    quick_predict_s: float = 0.02
    small_bytes: int = 64 * MIB
    trial_predicts: int = 3


@dataclass(frozen=True, slots=True)
class Measured:
    """What this daemon has seen of exactly these files."""

    load_s: float
    size_bytes: int
    predicts: int = 0
    slowest_predict_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TierFacts:
    """What is known of a model before it is loaded.

    `offence`: what it did to a host, or "". `always_quick`: its runtime says so of all its models.
    """

    file_bytes: int
    measured: Measured | None = None
    offence: str = ""
    always_quick: bool = False


@dataclass(frozen=True, slots=True)
class TierDecision:
    """A tier, and why in one clause."""

    tier: Tier
    reason: str


def choose_tier(facts: TierFacts, limits: TierLimits) -> TierDecision:
    """The tier that a load starts in."""
    if limits.wish in (Tier.INLINE, Tier.PROCESS):
        return TierDecision(limits.wish, f"the operator chose {limits.wish}")
    if facts.offence:
        return TierDecision(Tier.PROCESS, facts.offence)
    if limits.wish is Tier.SHARED:
        return TierDecision(Tier.SHARED, "the operator chose shared")
    if facts.always_quick:
        return TierDecision(Tier.SHARED, "its runtime is always quick")
    if facts.measured is not None and facts.measured.predicts >= limits.trial_predicts:
        flaw = _flaw(facts.measured, limits)
        return TierDecision(Tier.PROCESS, flaw) if flaw else _PROVEN
    if facts.file_bytes <= limits.shared_file_bytes:
        return TierDecision(Tier.SHARED, f"files of at most {limits.shared_file_bytes} bytes")
    return TierDecision(Tier.PROCESS, f"unknown, and files above {limits.shared_file_bytes} bytes")


def settles(facts: TierFacts, limits: TierLimits) -> TierDecision:
    """Where a model that runs in a process host belongs by now (`shared`: move it)."""
    if limits.wish is not Tier.AUTO:
        return TierDecision(Tier.PROCESS, f"the operator chose {limits.wish}")
    if facts.offence:
        return TierDecision(Tier.PROCESS, facts.offence)
    if facts.measured is None or facts.measured.predicts < limits.trial_predicts:
        return TierDecision(Tier.PROCESS, f"fewer than {limits.trial_predicts} predicts seen")
    flaw = _flaw(facts.measured, limits)
    return TierDecision(Tier.PROCESS, flaw) if flaw else _PROVEN


_PROVEN = TierDecision(Tier.SHARED, "proved small and quick")


def _flaw(measured: Measured, limits: TierLimits) -> str:
    """Why these measurements forbid a shared host, or ""."""
    if measured.load_s > limits.quick_load_s:
        return f"loads in {measured.load_s * 1e3:.0f} ms"
    if measured.slowest_predict_s > limits.quick_predict_s:
        return f"predicts in {measured.slowest_predict_s * 1e3:.0f} ms"
    if measured.size_bytes > limits.small_bytes:
        return f"weighs {measured.size_bytes} bytes"
    return ""
