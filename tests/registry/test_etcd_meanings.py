"""What an error of etcd means for a call, above all: whether it may be sent again."""

import pytest

from modelmesh.errors import Code
from modelmesh.registry.etcd.meanings import Meaning, failure_of, may_ask_again, meaning_of

TABLE = [
    (Code.UNAVAILABLE, "failed to connect to all addresses; last error: refused", "ELSEWHERE"),
    (Code.UNAVAILABLE, "etcdserver: no leader", "ELSEWHERE"),
    (Code.UNAVAILABLE, "etcdserver: leader changed", "UNKNOWN"),
    (Code.UNAVAILABLE, "etcdserver: request timed out", "UNKNOWN"),
    (
        Code.UNAVAILABLE,
        "etcdserver: request timed out, possibly due to previous leader failure",
        "UNKNOWN",
    ),
    (Code.UNAVAILABLE, "etcdserver: server stopped", "UNKNOWN"),
    (Code.UNAVAILABLE, "Socket closed", "UNKNOWN"),
    (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", "UNKNOWN"),
    (Code.CANCELLED, "", "UNKNOWN"),
    (Code.INTERNAL, "Received RST_STREAM", "UNKNOWN"),
    (Code.UNKNOWN, "something that a later etcd says", "UNKNOWN"),
    (Code.UNAUTHENTICATED, "etcdserver: invalid auth token", "TOKEN"),
    (Code.UNAUTHENTICATED, "some other way to put it", "TOKEN"),
    (Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", "TOKEN"),
    (Code.UNKNOWN, "auth: revision in header is old", "TOKEN"),
    (Code.INVALID_ARGUMENT, "etcdserver: user name is empty", "TOKEN"),
    (Code.PERMISSION_DENIED, "etcdserver: permission denied", "WRONG"),
    (Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request", "WRONG"),
    (Code.INVALID_ARGUMENT, "etcdserver: request is too large", "WRONG"),
    (Code.NOT_FOUND, "etcdserver: requested lease not found", "NOT_FOUND"),
    (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", "COMPACTED"),
    (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", "FULL"),
    (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests", "FULL"),
]


@pytest.mark.parametrize(("code", "details", "meaning"), TABLE)
def test_what_an_error_means(code: Code, details: str, meaning: str) -> None:
    assert meaning_of(code, details) is Meaning[meaning]


@pytest.mark.parametrize("meaning", list(Meaning))
def test_a_change_is_sent_again_only_if_it_was_certainly_not_done(meaning: Meaning) -> None:
    assert may_ask_again(meaning, repeatable=False) is (
        meaning in (Meaning.ELSEWHERE, Meaning.TOKEN)
    )
    assert may_ask_again(meaning, repeatable=True) is (
        meaning in (Meaning.ELSEWHERE, Meaning.TOKEN, Meaning.UNKNOWN)
    )


@pytest.mark.parametrize("repeatable", [True, False])
@pytest.mark.parametrize("meaning", list(Meaning))
def test_only_an_unknown_outcome_of_a_change_counts_as_executed(
    meaning: Meaning, repeatable: bool
) -> None:
    failure = failure_of(meaning, "details", repeatable)
    assert failure.executed is (meaning is Meaning.UNKNOWN and not repeatable)
    assert ("outcome is unknown" in failure.message) is failure.executed
    if meaning in (Meaning.UNKNOWN, Meaning.ELSEWHERE, Meaning.TOKEN):
        assert failure.code is Code.UNAVAILABLE
    else:
        assert failure.code is not Code.UNAVAILABLE
