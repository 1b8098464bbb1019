"""What the end of a host means: for the call that caused it, for its model, for its record.

Pure: a host's end and what ran at that moment go in, a failure and an offence come out.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.wire import kinds


class Doom(Enum):
    """Why the daemon itself ended a host."""

    TIMEOUT = "timeout"  # an entry ran longer than the operator allows
    NO_ROOM = "no room"  # it stalled, and memory did not allow another host beside it


@dataclass(frozen=True, slots=True)
class End:
    """How a host ended. `how`: "signal 11", say. `limit_s`: the timeout that was broken."""

    how: str
    doom: Doom | None = None
    limit_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`failure` for the calls that ran, `offence` for the model's record."""

    failure: Failure
    offence: str


# For calls that a lost host never began, where nobody but their sender can send them again.
NEVER_BEGAN: Final = Failure(
    Code.UNAVAILABLE, "the host was lost before this began", Fault.MODEL, retry_after_s=0.0
)


def verdict(kind: str, end: End) -> Verdict:
    """What a call of this kind did to its host; `kind` "" where nothing ran."""
    if kind == kinds.LOAD_MODEL:
        return _of_load(end)
    if end.doom is Doom.TIMEOUT:
        return _verdict(
            Code.DEADLINE_EXCEEDED,
            f"the model did not answer within {end.limit_s:g} s, so its host was ended",
            Reason.PREDICT_TIMEOUT,
            "held its host beyond the predict timeout",
        )
    if end.doom is Doom.NO_ROOM:
        return _crash("the model stalled its host, and there is no memory for another")
    if not kind:
        return _crash(f"the model's host died while nothing ran ({end.how})")
    return _crash(f"the model crashed its host ({end.how})")


def _of_load(end: End) -> Verdict:
    if end.doom is Doom.TIMEOUT:
        return _verdict(
            Code.DEADLINE_EXCEEDED,
            f"the model did not load within {end.limit_s:g} s, so its host was ended",
            Reason.LOAD_TIMEOUT,
            "held its host beyond the load timeout",
        )
    if end.doom is Doom.NO_ROOM:
        text = "stalled its host while loading, and there is no memory for another"
    else:
        text = f"crashed its host while loading ({end.how})"
    return _verdict(Code.FAILED_PRECONDITION, text, Reason.LOAD_FAILED, text)


def _crash(text: str) -> Verdict:
    return _verdict(Code.INTERNAL, text, Reason.WORKER_CRASHED, text.removeprefix("the model "))


def _verdict(code: Code, message: str, reason: Reason, offence: str) -> Verdict:
    return Verdict(Failure(code, message, Fault.MODEL, reason, executed=True), offence)
