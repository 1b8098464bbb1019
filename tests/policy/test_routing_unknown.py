"""Where a request goes whose model the table lacks, or has in a form that nobody can read."""

from random import Random

import pytest

from modelmesh.domain.fleet import FROM_CALLER, Hops, Intent
from modelmesh.errors import Code, Failure, Fault
from modelmesh.policy.routing import Ask, FleetRoute, Reject, ServeHere, route_in_fleet
from tests.policy.fleet_view import NOW, Request, View, fleet

LOAD = Hops(Intent.LOAD, "i0")
UNREADABLE = Failure(Code.DATA_LOSS, "the record of model m cannot be read", Fault.STORE)


def go(view: View, request: Request | None = None) -> FleetRoute:
    return route_in_fleet(view, request or Request(), NOW, Random(1).random)


def failure(decision: FleetRoute) -> Failure:
    assert isinstance(decision, Reject), decision
    assert decision.reason
    return decision.failure


def test_an_unknown_model_is_asked_for_once() -> None:
    view = View(fleet(2), model=None)
    assert isinstance(go(view), Ask)
    assert failure(go(view, Request(asked_store=True))).code is Code.NOT_FOUND


@pytest.mark.parametrize("asked_store", [True, False])
def test_a_store_that_does_not_answer_may_know_what_is_unknown_here(asked_store: bool) -> None:
    """Nobody waits for it. Asked, it may have fallen silent just then."""
    view = View(fleet(2), model=None, store_answers=False)
    told = failure(go(view, Request(asked_store=asked_store)))
    assert (told.code, told.fault, told.executed) == (Code.UNAVAILABLE, Fault.STORE, False)
    assert told.retry_after_s


@pytest.mark.parametrize("hops", [FROM_CALLER, LOAD])
@pytest.mark.parametrize("store_answers", [True, False])
def test_a_record_that_cannot_be_read_is_not_said_to_be_missing(
    hops: Hops, store_answers: bool
) -> None:
    view = View(fleet(2), broken=UNREADABLE, store_answers=store_answers)
    for asked_store in (False, True):
        decision = go(view, Request(hops=hops, asked_store=asked_store))
        assert failure(decision) is UNREADABLE
    view.loaded = True
    assert isinstance(go(view, Request(hops=hops)), ServeHere), "as a daemon alone"
    if hops is FROM_CALLER:
        assert failure(go(view, Request(tried=["me"]))) is UNREADABLE
