"""Where a request goes, question by question."""

from dataclasses import dataclass, field

import pytest

from modelmesh.errors import Code, Failure, Reason
from modelmesh.policy.routing import LoadHere, Reject, Route, ServeHere, Wait, route

BROKEN = Failure(Code.FAILED_PRECONDITION, "no such file", reason=Reason.LOAD_FAILED)


@dataclass
class Request:
    model_id: str = "m"


@dataclass
class View:
    """Holds one model, m, in all the ways one can."""

    known: bool = True
    loaded: bool = False
    coming: bool = False
    draining: bool = False
    failures: list[tuple[float, Failure]] = field(default_factory=list)  # until, what

    def is_registered(self, model_id: str) -> bool:
        return self.known and model_id == "m"

    def is_loaded(self, model_id: str) -> bool:
        return self.loaded

    def is_coming(self, model_id: str) -> bool:
        return self.coming

    def remembered_failure(self, model_id: str, now: float) -> Failure | None:
        return next((failure for until, failure in self.failures if until > now), None)


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (View(), LoadHere),
        (View(loaded=True), ServeHere),
        (View(coming=True), Wait),
        (View(loaded=True, coming=True), ServeHere),
        (View(loaded=True, draining=True), ServeHere),
        (View(coming=True, draining=True), Wait),
        (View(loaded=True, failures=[(9.0, BROKEN)]), ServeHere),
        (View(coming=True, failures=[(9.0, BROKEN)]), Wait),
        (View(failures=[(5.0, BROKEN)]), LoadHere),
    ],
)
def test_a_request_that_is_taken(view: View, expected: type[Route]) -> None:
    decision = route(view, Request(), now=5.0)
    assert type(decision) is expected
    assert decision.reason


@pytest.mark.parametrize(
    ("view", "code", "reason", "retry"),
    [
        (View(known=False), Code.NOT_FOUND, Reason.NONE, False),
        (View(known=False, loaded=True), Code.NOT_FOUND, Reason.NONE, False),
        (View(draining=True), Code.UNAVAILABLE, Reason.DRAINING, True),
        (View(failures=[(5.1, BROKEN)]), Code.FAILED_PRECONDITION, Reason.LOAD_FAILED, False),
        (View(draining=True, failures=[(9.0, BROKEN)]), Code.UNAVAILABLE, Reason.DRAINING, True),
    ],
)
def test_a_request_that_is_rejected(view: View, code: Code, reason: Reason, retry: bool) -> None:
    decision = route(view, Request(), now=5.0)
    assert isinstance(decision, Reject)
    assert (decision.failure.code, decision.failure.reason) == (code, reason)
    assert (decision.failure.retry_after_s is not None) is retry
