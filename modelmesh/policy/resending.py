"""When a call that a peer did not answer well is sent once more, and to whom that is left.

A call is sent again only if it provably never started, or if a *daemon* vanished or fell silent
with it and the call counts as idempotent. What took a host down, or was answered by the model, is
the caller's to see: nobody repeats it.

Pure: a failure and what is known of the call in, a decision with its reason out.
"""

from dataclasses import dataclass
from typing import Final

from modelmesh.errors import Code, Failure, Fault, Reason

IDEMPOTENT_HEADER: Final = "mm-idempotent"

# What a peer says when it will not, or cannot, and another one might.
_ELSEWHERE: Final = frozenset(
    {
        Reason.NOT_HERE,
        Reason.NO_SPACE,
        Reason.CHURN,
        Reason.DRAINING,
        Reason.OVERLOADED,
        Reason.LOAD_FAILED,
        Reason.LOAD_TIMEOUT,
        Reason.QUARANTINED,
        Reason.TOO_LARGE,
    }
)


@dataclass(frozen=True, slots=True)
class Next:
    """`again`: ask somebody else; else the failure is the caller's answer."""

    again: bool
    reason: str


_RELAY = Next(False, "it is the answer")
_NEVER_STARTED = Next(True, "it never started there")
_VANISHED = Next(True, "the daemon vanished with it, and it may be repeated")
_ONCE_ONLY = Next(False, "the daemon vanished with it, and it may not be repeated")
_TWICE = Next(False, "daemons vanished with it twice")


def after_failure(failure: Failure, *, idempotent: bool, resent: bool) -> Next:
    """What follows from a peer's failure. `resent`: it was sent again once already, after a
    daemon had vanished with it."""
    if not failure.executed and (failure.reason in _ELSEWHERE or failure.code is Code.UNAVAILABLE):
        return _NEVER_STARTED
    if failure.code is not Code.UNAVAILABLE or failure.fault is not Fault.PEER:
        return _RELAY
    if not idempotent:
        return _ONCE_ONLY
    return _TWICE if resent else _VANISHED


def is_idempotent(header: str, *, predicts: bool) -> bool:
    """Whether a call may be repeated: predicts do unless told otherwise (`mm-idempotent: false`),
    methods that were passed through only if told so (`true`)."""
    wish = header.strip().lower()
    return wish != "false" if predicts else wish == "true"
