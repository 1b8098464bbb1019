"""What an error says about the call that got it: was it done, may it be asked again, and where.

A call that changes something is asked again only where it was certainly not done: nothing was
sent, or etcd refused it before it became a proposal. All else is UNKNOWN, a deadline above all:
the proposal may be on its way and may be applied after the caller has been told.

etcd tells such things apart by sentences, which are part of its API (rpctypes); a sentence that
is not in the table is UNKNOWN. Pure.
"""

from enum import Enum
from typing import Final

from modelmesh.errors import Code, Failure, Fault


class Meaning(Enum):
    """Of an error, for the call that got it."""

    ELSEWHERE = "not done; ask another endpoint, or later"
    UNKNOWN = "may have been done"
    TOKEN = "not done; the token is not good"
    COMPACTED = "the revision is no longer there"
    NOT_FOUND = "there is no such lease"
    FULL = "not done; etcd has no room, or too much to do"
    WRONG = "not done; asking again does not help"


_SENTENCES: Final = (
    ("failed to connect", Meaning.ELSEWHERE),
    ("etcdserver: no leader", Meaning.ELSEWHERE),
    ("etcdserver: not leader", Meaning.ELSEWHERE),
    ("etcdserver: not capable", Meaning.ELSEWHERE),
    ("etcdserver: leader changed", Meaning.UNKNOWN),
    ("etcdserver: user name is empty", Meaning.TOKEN),  # authentication was enabled just now
    ("etcdserver: invalid auth token", Meaning.TOKEN),
    ("etcdserver: revision of auth store is old", Meaning.TOKEN),
    ("auth: revision in header is old", Meaning.TOKEN),  # the same, as 3.4 says it
    ("etcdserver: mvcc: required revision has been compacted", Meaning.COMPACTED),
    ("etcdserver: requested lease not found", Meaning.NOT_FOUND),
    ("etcdserver: too many requests", Meaning.FULL),
    ("etcdserver: mvcc: database space exceeded", Meaning.FULL),
)
_CODES: Final = {
    Code.UNAUTHENTICATED: Meaning.TOKEN,
    Code.INVALID_ARGUMENT: Meaning.WRONG,
    Code.PERMISSION_DENIED: Meaning.WRONG,
    Code.FAILED_PRECONDITION: Meaning.WRONG,
    Code.UNIMPLEMENTED: Meaning.WRONG,
    Code.OUT_OF_RANGE: Meaning.WRONG,
}
_AS: Final = {
    Meaning.NOT_FOUND: Code.NOT_FOUND,
    Meaning.COMPACTED: Code.OUT_OF_RANGE,
    Meaning.FULL: Code.RESOURCE_EXHAUSTED,
    Meaning.WRONG: Code.FAILED_PRECONDITION,
}
_PASSING: Final = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED})
RETRY_AFTER_S: Final = 1.0


def meaning_of(code: Code, details: str) -> Meaning:
    """What a status from etcd, or from gRPC on the way to it, means."""
    for sentence, meaning in _SENTENCES:
        if sentence in details:
            return meaning
    return _CODES.get(code, Meaning.UNKNOWN)


def may_ask_again(meaning: Meaning, repeatable: bool) -> bool:
    """Whether the same call may be asked once more. `repeatable`: it changes nothing, or twice
    is as good as once."""
    if meaning is Meaning.UNKNOWN:
        return repeatable
    return meaning in (Meaning.ELSEWHERE, Meaning.TOKEN)


def failure_of(meaning: Meaning, details: str, repeatable: bool) -> Failure:
    """What to tell the caller; `executed` unless it was certainly not done."""
    unknown = meaning is Meaning.UNKNOWN and not repeatable
    code = _AS.get(meaning, Code.UNAVAILABLE)
    return Failure(
        code,
        f"etcd: {details}" + ("; the outcome is unknown" if unknown else ""),
        fault=Fault.STORE,
        retry_after_s=RETRY_AFTER_S if code in _PASSING else None,
        executed=unknown,
    )
