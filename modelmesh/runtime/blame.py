"""What the end of a host means: for the call that caused it, for its model, for its record.

Pure: a host's end and what ran at that moment go in, a failure and an offence come out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.wire import kinds


class Doom(Enum):
    """Why the daemon itself ended a host."""

    TIMEOUT = "timeout"  # an entry ran longer than the operator allows
    SILENCE = "silence"  # the same, and the journal hid which
    NO_ROOM = "no room"  # it stalled, and memory did not allow another host beside it


@dataclass(frozen=True, slots=True)
class Ran:
    """A call that a host had, by what matters after its end."""

    kind: str
    model_id: str


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


_COMINGS_AND_GOINGS: Final = (kinds.LOAD_MODEL, kinds.UNLOAD_MODEL)

# For calls that a lost host never began, where nobody but their sender can send them again.
NEVER_BEGAN: Final = Failure(
    Code.UNAVAILABLE, "the host was lost before this began", Fault.MODEL, retry_after_s=0.0
)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What is made of a host that fell silent: its journal is a lie.

    `began`: calls that may have begun, never to be sent again. `culprit`: whom they belong to, if
    that is certain. Else `apart`: the models which none can be told from, to be kept apart from
    others and from each other, so that it is certain the next time.
    """

    began: frozenset[int]
    culprit: Ran | None = None
    apart: frozenset[str] = frozenset()


def suspicion(
    suspects: Mapping[int, Ran], sole: str, is_harmless: Callable[[str], bool]
) -> Suspicion:
    """Who may have made a host silent, among what it had been sent; `sole`: whose host it was.

    A host runs the model longest waited for, so where several are suspect the oldest call is in the
    entry that hangs. Only a load may be older than what runs, and not for long: it is taken for
    what hangs, and is none the worse for being tried again.
    """
    asked = _capable(suspects, sole, is_harmless)
    if not asked:
        return Suspicion(frozenset())
    oldest = asked[min(asked)]
    models = frozenset(each.model_id for each in asked.values())
    if len(models) == 1:
        return Suspicion(frozenset(asked), oldest)
    began = (
        call_id
        for call_id, each in asked.items()
        if each.model_id == oldest.model_id and oldest.kind not in _COMINGS_AND_GOINGS
    )
    return Suspicion(frozenset(began), apart=models)


def _capable(
    suspects: Mapping[int, Ran], sole: str, is_harmless: Callable[[str], bool]
) -> dict[int, Ran]:
    """Those whose code may have run: the host's own model, or all that have code of their own."""
    named = {call_id: each for call_id, each in suspects.items() if each.model_id}
    if sole:
        return {call_id: each for call_id, each in named.items() if each.model_id == sole}
    able = {call_id: each for call_id, each in named.items() if not is_harmless(each.model_id)}
    return able or named


def verdict(kind: str, end: End) -> Verdict:
    """What a call of this kind did to its host; `kind` "" where nothing ran."""
    if kind == kinds.LOAD_MODEL:
        return _of_load(end)
    if end.doom in (Doom.TIMEOUT, Doom.SILENCE):
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
    if end.doom in (Doom.TIMEOUT, Doom.SILENCE):
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
