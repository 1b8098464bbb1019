"""When a call is sent once more: tables."""

import pytest

from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.policy.resending import after_failure, is_idempotent

NOT_HERE = Failure(Code.UNAVAILABLE, "", Fault.PEER, Reason.NOT_HERE)
REFUSED = Failure(Code.UNAVAILABLE, "connection refused", Fault.PEER)
VANISHED = Failure(Code.UNAVAILABLE, "connection reset", Fault.PEER, executed=True)
CRASHED = Failure(Code.INTERNAL, "", Fault.MODEL, Reason.WORKER_CRASHED, executed=True)
RAISED = Failure(Code.INTERNAL, "", Fault.MODEL, Reason.MODEL_ERROR, executed=True)
NO_SPACE = Failure(Code.UNAVAILABLE, "", Fault.CAPACITY, Reason.NO_SPACE)
CHURN = Failure(Code.RESOURCE_EXHAUSTED, "", Fault.CAPACITY, Reason.CHURN)
BAD_FILE = Failure(Code.FAILED_PRECONDITION, "", Fault.MODEL, Reason.LOAD_FAILED)
WRONG_SHAPE = Failure(Code.INVALID_ARGUMENT, "")
LATE = Failure(Code.DEADLINE_EXCEEDED, "")
RUNTIME_AWAY = Failure(Code.UNAVAILABLE, "", Fault.MODEL, executed=True)


@pytest.mark.parametrize(
    ("failure", "idempotent", "resent", "again"),
    [
        (NOT_HERE, False, True, True),
        (REFUSED, False, True, True),
        (NO_SPACE, False, False, True),
        (CHURN, True, False, True),
        (BAD_FILE, False, False, True),
        (VANISHED, True, False, True),
        (VANISHED, True, True, False),
        (VANISHED, False, False, False),
        (CRASHED, True, False, False),
        (RAISED, True, False, False),
        (WRONG_SHAPE, True, False, False),
        (LATE, True, False, False),
        (RUNTIME_AWAY, True, False, False),
    ],
)
def test_who_is_asked_again(failure: Failure, idempotent: bool, resent: bool, again: bool) -> None:
    assert after_failure(failure, idempotent=idempotent, resent=resent).again is again


@pytest.mark.parametrize(
    ("header", "predicts", "expected"),
    [
        ("", True, True),
        ("false", True, False),
        (" FALSE ", True, False),
        ("true", True, True),
        ("", False, False),
        ("true", False, True),
        ("maybe", False, False),
    ],
)
def test_what_counts_as_idempotent(header: str, predicts: bool, expected: bool) -> None:
    assert is_idempotent(header, predicts=predicts) is expected
