"""Remembered load failures: bounded attempts within an expiry."""

from modelmesh.errors import Code, Failure
from modelmesh.serving.failures import LoadFailures


def _failure(n: int, retry: float | None = None) -> Failure:
    return Failure(Code.FAILED_PRECONDITION, f"attempt {n}", retry_after_s=retry)


def test_attempts_are_allowed_until_the_bound_and_again_after_the_expiry() -> None:
    failures = LoadFailures(max_attempts=3, expiry_s=100)
    allowed = []
    for now in (0.0, 10.0, 20.0):
        allowed.append(failures.blocking("m", now) is None)
        failures.record("m", _failure(int(now)), now)
    assert allowed == [True, True, True]
    blocked = failures.blocking("m", 30.0)
    assert blocked is not None
    assert blocked.message == "attempt 20"
    assert failures.blocking("m", 99.9) is not None
    assert failures.blocking("m", 100.0) is None, "the first attempt has expired"


def test_errors_are_most_recent_first_and_expire() -> None:
    failures = LoadFailures(max_attempts=3, expiry_s=100)
    failures.record("m", _failure(1), 0.0)
    failures.record("m", _failure(2), 50.0)
    assert failures.errors("m", 60.0) == ((50.0, "attempt 2"), (0.0, "attempt 1"))
    assert failures.errors("m", 120.0) == ((50.0, "attempt 2"),)
    assert failures.count(120.0) == 1
    assert failures.count(150.0) == 0


def test_a_success_or_an_operator_forgets() -> None:
    failures = LoadFailures(max_attempts=1, expiry_s=100)
    failures.record("m", _failure(1), 0.0)
    assert failures.blocking("m", 1.0) is not None
    failures.forget("m")
    assert failures.blocking("m", 1.0) is None


def test_a_retryable_failure_says_when_the_next_attempt_is_allowed() -> None:
    failures = LoadFailures(max_attempts=1, expiry_s=100)
    failures.record("m", _failure(1, retry=1.0), 0.0)
    blocked = failures.blocking("m", 40.0)
    assert blocked is not None
    assert blocked.retry_after_s == 60.0


def test_memory_is_bounded() -> None:
    failures = LoadFailures(max_attempts=3, expiry_s=100, most_models=10)
    for n in range(100):
        failures.record(f"m{n}", _failure(n), 0.0)
    assert failures.count(1.0) == 10
