"""Where a request goes among many daemons, rule by rule, and what holds for all of them."""

import gc
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.domain.fleet import Hops, Intent, Peer, rendezvous
from modelmesh.domain.instances import units_of
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.policy.constraints import parse
from modelmesh.policy.routing import (
    Ask,
    FleetRoute,
    Forward,
    LoadHere,
    Reject,
    RoutingLimits,
    ServeHere,
    Wait,
    Weight,
    live_failures,
    route,
    route_in_fleet,
)
from tests.policy.fleet_view import MIB, NOW, NOW_MS, Request, View, fleet, instance, peer, record

BROKEN = Failure(Code.FAILED_PRECONDITION, "broken here", Fault.MODEL, Reason.LOAD_FAILED)
MINUTE_MS = 60_000
HIT = Hops(Intent.HIT, "i0")
LOAD = Hops(Intent.LOAD, "i0")


def go(view: View, request: Request | None = None, seed: int = 1, **limits: Any) -> FleetRoute:
    return route_in_fleet(
        view, request or Request(), NOW, Random(seed).random, RoutingLimits(**limits)
    )


def went(view: View, request: Request | None = None) -> set[tuple[str, Intent]]:
    """Where 40 seeds send it, and with which intent; served or loaded here is to be sent to me."""
    found = set()
    for seed in range(40):
        decision = go(view, request, seed)
        if isinstance(decision, Forward):
            found.add((decision.instance_id, decision.intent))
        elif isinstance(decision, ServeHere):
            found.add(("me", Intent.HIT))
        else:
            assert isinstance(decision, LoadHere), decision
            found.add(("me", Intent.LOAD))
    return found


def failure(decision: FleetRoute) -> Failure:
    assert isinstance(decision, Reject), decision
    assert decision.reason
    return decision.failure


# --- alone: as ever


@given(
    known=st.booleans(),
    loaded=st.booleans(),
    coming=st.booleans(),
    draining=st.booleans(),
    failed=st.booleans(),
)
def test_a_daemon_alone_decides_as_if_there_were_no_fleet(
    known: bool, loaded: bool, coming: bool, draining: bool, failed: bool
) -> None:
    view = View(alone=True, loaded=loaded, coming=coming, model=record() if known else None)
    view.failure = BROKEN if failed else None
    if draining:
        view.drain()
    assert go(view) is route(view, Request(), NOW) or go(view) == route(view, Request(), NOW)


# --- bound by intent


@pytest.mark.parametrize(
    ("hops", "fields", "expected"),
    [
        (HIT, {"loaded": True}, ServeHere),
        (HIT, {"coming": True}, Wait),
        (HIT, {"loaded": True, "my_record": instance(draining=True)}, ServeHere),
        (HIT, {}, Reject),
        (LOAD, {"loaded": True}, ServeHere),
        (LOAD, {"coming": True}, Wait),
        (LOAD, {}, LoadHere),
        (LOAD, {"model": record(loaded={"i1": 5})}, LoadHere),  # a further copy was decided
        (LOAD, {"my_record": instance(draining=True)}, Reject),
        (LOAD, {"fits": parse('{"t": {"required": ["gpu"]}}')}, Reject),
        (LOAD, {"model": None}, Ask),
        (LOAD, {"model": None, "store_answers": False}, Reject),
        (HIT, {"model": None}, Reject),
    ],
)
def test_a_forwarded_call_is_taken_here_or_refused(
    hops: Hops, fields: dict[str, Any], expected: type[FleetRoute]
) -> None:
    decision = go(View(fleet(3), **fields), Request(hops=hops))
    assert type(decision) is expected
    if isinstance(decision, Reject):
        assert decision.failure.code is Code.UNAVAILABLE
        assert decision.failure.reason is Reason.NOT_HERE
        assert not decision.failure.executed


def test_who_is_told_to_load_what_fails_here_says_why() -> None:
    assert failure(go(View(fleet(3), failure=BROKEN), Request(hops=LOAD))) is BROKEN


# --- loaded somewhere


def holders(*peers: Peer, here: bool = False, **fields: Any) -> View:
    view = View({each.instance_id: each for each in peers}, **fields)
    loaded = {each.instance_id: 5 for each in peers} | ({"me": 5} if here else {})
    view.model, view.loaded = record(loaded=loaded), here
    return view


def busy(instance_id: str, in_flight: int = 0, queue: int = 0, latency_s: float = 0.0) -> Peer:
    made = peer(instance_id)
    made.in_flight, made.queue_depth, made.latency_s = in_flight, queue, latency_s
    return made


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (busy("a"), busy("b", in_flight=5)),
        (busy("a"), busy("b", queue=5)),
        (busy("a", in_flight=1, latency_s=0.01), busy("b", latency_s=0.1)),
        (peer("a", zone=""), peer("b", zone="far")),
        (busy("a", queue=99), peer("b", draining=True)),
        (busy("a", queue=99), peer("b", suspect=True)),
        (busy("a", queue=99), peer("b", reachable=False)),
    ],
)
def test_a_hit_goes_to_the_less_loaded_copy(less: Peer, more: Peer) -> None:
    for view in (holders(less, more), holders(more, less)):
        assert went(view) == {(less.instance_id, Intent.HIT)}


def test_a_sole_copy_that_is_draining_still_answers() -> None:
    view = holders(peer("a", draining=True), peer("b", suspect=True))
    assert went(view) == {("a", Intent.HIT)}


@pytest.mark.parametrize("flaw", ["draining", "suspect"])
def test_the_one_good_copy_of_many_is_found_whoever_is_drawn(flaw: str) -> None:
    flawed = [peer(f"i{n}", **{flaw: True}) for n in range(6)]
    assert went(holders(*flawed, busy("good", queue=99))) == {("good", Intent.HIT)}
    flawed_here = holders(*flawed, here=True, load_here_s=9.0)
    assert went(flawed_here) == {("me", Intent.HIT)}


def test_a_copy_that_refused_is_not_asked_again() -> None:
    view = holders(peer("a"), peer("b"))
    assert went(view, Request(tried=("a",))) == {("b", Intent.HIT)}


def test_who_holds_a_copy_serves_unless_it_is_clearly_busier() -> None:
    view = holders(busy("a", in_flight=2, latency_s=0.01), here=True)  # a call there: 31 ms
    balanced = Request(balanced=True)
    for my_s, plain, loyal in [(0.02, "me", "me"), (0.05, "a", "me"), (0.08, "a", "a")]:
        view.load_here_s = my_s
        assert went(view) == {(plain, Intent.HIT)}
        assert went(view, balanced) == {(loyal, Intent.HIT)}


def test_a_draining_holder_sends_away_what_another_copy_can_answer() -> None:
    view = holders(peer("a"), here=True)
    view.drain()
    assert went(view) == {("a", Intent.HIT)}
    view.peer_by_id["a"].suspect = True
    assert went(view) == {("me", Intent.HIT)}


def test_among_many_copies_the_least_loaded_does_not_get_everything() -> None:
    peers = [busy(f"i{n}", queue=n) for n in range(8)]
    counts = Counter(
        decision.instance_id
        for seed in range(400)
        if isinstance(decision := go(holders(*peers), seed=seed), Forward)
    )
    assert sum(counts.values()) == 400
    assert counts["i0"] < 200  # two choices: about a quarter
    assert counts["i0"] > counts["i6"]
    assert counts["i7"] == 0


def test_a_warm_hit_makes_nothing() -> None:
    view, request, rng = holders(peer("a"), here=True), Request(balanced=True), Random(1).random
    view.model = record(loaded={"me": 5})
    decisions = {id(route_in_fleet(view, request, NOW, rng)) for _ in range(10)}
    assert len(decisions) == 1  # the same object each time
    gc.collect()
    gc.disable()
    try:
        before = gc.get_count()[0]
        for _ in range(100):
            route_in_fleet(view, request, NOW, rng)
        assert gc.get_count()[0] - before < 50
    finally:
        gc.enable()


# --- coming


def test_callers_meet_where_a_copy_has_been_coming_longest() -> None:
    view = View(fleet(3), model=record(coming={"i2": 900, "i1": 500, "gone": 2000}))
    assert went(view) == {("i2", Intent.HIT)}
    view.peer_by_id["i2"].suspect = True
    assert went(view) == {("i1", Intent.HIT)}
    assert went(view, Request(tried=("i1",))) == {("me", Intent.LOAD), ("i0", Intent.LOAD)}


def test_a_claim_older_than_any_load_binds_nobody() -> None:
    view = View({"a": peer("a", loading=9)}, model=record(coming={"a": 90_000}))
    assert went(view) == {("me", Intent.LOAD)}
    view.model = record(coming={"a": 89_999})
    assert went(view) == {("a", Intent.HIT)}


def test_a_loaded_copy_elsewhere_answers_before_one_that_is_coming_here() -> None:
    view = View(fleet(2), coming=True, model=record(loaded={"i0": 5}, coming={"me": 5, "i1": 9}))
    assert went(view) == {("i0", Intent.HIT)}
    view.peer_by_id["i0"].reachable = False
    assert isinstance(go(view), Wait)


def test_an_own_copy_that_only_the_record_has_is_no_copy() -> None:
    view = View(model=record(loaded={"me": 5}))
    assert isinstance(go(view), LoadHere)


# --- cold


def test_a_cold_model_is_placed() -> None:
    view = View({"a": peer("a", loading=3)})
    assert isinstance(go(view), LoadHere)
    view.my_record = instance(loading=9)
    assert went(view) == {("a", Intent.LOAD)}


def test_a_draining_daemon_sends_cold_models_away_while_somebody_is_left() -> None:
    view = View({"a": peer("a", loading=9)})
    view.drain()
    assert went(view) == {("a", Intent.LOAD)}
    view.peer_by_id.clear()
    assert failure(go(view)).reason is Reason.DRAINING


def test_without_the_store_all_daemons_send_a_cold_model_to_the_same_one() -> None:
    ids = ["me", "a", "b", "c"]
    for number in range(20):
        request = Request(model_id=f"m{number}")
        first = rendezvous(request.model_id, ids)[0]
        for me in ids:
            view = View({each: peer(each, loading=7) for each in ids if each != me}, me=me)
            view.store_answers = False
            decision = go(view, request, seed=number)
            if me == first:
                assert isinstance(decision, LoadHere)
            else:
                assert isinstance(decision, Forward)
                assert (decision.instance_id, decision.intent) == (first, Intent.LOAD)


def test_without_the_store_who_was_draining_may_be_back() -> None:
    """Seed 1076: cut from the store, a daemon that left saw the whole fleet drain for ever."""
    view = View({"a": peer("a", draining=True), "b": peer("b", draining=True, suspect=True)})
    view.drain()
    assert failure(go(view)).reason is Reason.DRAINING
    view.store_answers = False
    assert went(view) == {("a", Intent.LOAD)}
    assert failure(go(view, Request(tried=["a"]))).reason is Reason.DRAINING
    view.peer_by_id["c"] = peer("c")
    assert went(view) == {("c", Intent.LOAD)}


# --- failures


def test_failures_elsewhere_exclude_and_enough_of_them_refuse() -> None:
    view = View({"a": peer("a"), "b": peer("b")}, my_record=instance(loading=9))
    view.model = ModelRecord("t").failed("a", NOW_MS - 10 * MINUTE_MS, "first")
    assert went(view) == {("b", Intent.LOAD)}
    view.model = view.model.failed("b", NOW_MS - MINUTE_MS, "second")
    assert went(view) == {("me", Intent.LOAD)}
    view.model = view.model.failed("c", NOW_MS - 2 * MINUTE_MS, "third")  # who has gone since
    assert failure(go(view)).code is Code.FAILED_PRECONDITION
    assert failure(go(view)).reason is Reason.LOAD_FAILED
    assert failure(go(view)).message == "second"  # the latest
    assert isinstance(go(view, max_load_failures=4), LoadHere)


@pytest.mark.parametrize(
    ("failed_ago", "used_ago", "live"),
    [
        (14 * MINUTE_MS, 4 * MINUTE_MS, True),
        (15 * MINUTE_MS, 4 * MINUTE_MS, False),
        (7 * MINUTE_MS, MINUTE_MS, True),
        (8 * MINUTE_MS, MINUTE_MS, False),  # who is in use may try again sooner
    ],
)
def test_how_long_a_failure_counts(failed_ago: int, used_ago: int, live: bool) -> None:
    model = ModelRecord("t", last_used_ms=NOW_MS - used_ago).failed("a", NOW_MS - failed_ago, "x")
    assert live_failures(model, NOW_MS) == ({"a": NOW_MS - failed_ago} if live else {})


def test_failures_here_block_only_this_instance() -> None:
    view = View({"a": peer("a", loading=9)}, failure=BROKEN)
    assert went(view) == {("a", Intent.LOAD)}
    view.peer_by_id.clear()
    assert failure(go(view)) is BROKEN


def test_who_is_left_alone_tries_as_often_as_it_may() -> None:
    view = View({"a": peer("a")})
    view.model = record().failed("a", NOW_MS - 5, "there").failed("me", NOW_MS - 9, "here")
    assert isinstance(go(view), LoadHere)  # nothing blocks it here yet
    view.failure = BROKEN
    assert failure(go(view)) is BROKEN
    view.failure = None
    assert failure(go(view, Request(tried=("me",)))).message == "there"
    view.drain()
    assert failure(go(view)).message == "there"


# --- nowhere


@pytest.mark.parametrize(
    ("fields", "weight_bytes", "code", "reason", "retry"),
    [
        ({"labels": ()}, MIB, Code.FAILED_PRECONDITION, Reason.LOAD_FAILED, False),
        ({}, 2048 * MIB, Code.FAILED_PRECONDITION, Reason.TOO_LARGE, False),
        ({"draining": True}, MIB, Code.UNAVAILABLE, Reason.NO_SPACE, True),
        ({"suspect": True}, MIB, Code.UNAVAILABLE, Reason.NO_SPACE, True),
    ],
)
def test_what_is_said_if_it_can_be_nowhere(
    fields: dict[str, Any], weight_bytes: int, code: Code, reason: Reason, retry: bool
) -> None:
    view = View({"a": peer("a", **{"labels": ("gpu",), **fields})})
    view.fits, view.weight = parse('{"t": {"required": ["gpu"]}}'), Weight(weight_bytes)
    told = failure(go(view))
    assert (told.code, told.reason, told.retry_after_s is not None) == (code, reason, retry)
    assert not told.executed


def test_attempts_are_bounded() -> None:
    view = holders(peer("a"), peer("b"))
    assert isinstance(go(view, Request(attempt=7)), Forward)
    assert failure(go(view, Request(attempt=8))).retry_after_s is not None
    view.coming = True
    assert isinstance(go(view, Request(attempt=8)), Wait)
    view.loaded = True
    view.model = record(loaded={"a": 5, "me": 5})
    assert isinstance(go(view, Request(attempt=8)), ServeHere)


def test_the_last_attempt_is_here_where_it_may_be() -> None:
    """The others may see a copy that does not answer this daemon: then all of them refuse."""
    view = View({"a": peer("a"), "b": peer("b")}, my_record=instance(loading=50))
    assert isinstance(go(view, Request(attempt=6)), Forward)
    assert isinstance(go(view, Request(attempt=7)), LoadHere)
    assert isinstance(go(view, Request(attempt=7, tried=["me"])), Forward)
    view.drain()
    assert isinstance(go(view, Request(attempt=7)), Forward)


def test_an_explanation_names_all_and_changes_nothing() -> None:
    hit = holders(peer("a"), peer("b", suspect=True))
    cold = View({"a": peer("a", loading=9), "b": peer("b", used_units=units_of(1024 * MIB))})
    for view in (hit, cold):
        plain = go(view)
        told = route_in_fleet(view, Request(), NOW, Random(1).random, explain=True)
        assert isinstance(told, Forward | LoadHere)
        assert {"a", "b"} <= {each.instance_id for each in told.candidates}
        assert replace(told, candidates=()) == plain


# --- properties

IDS = ("i0", "i1", "i2", "i3")
AGES = st.integers(0, 200_000)
MODELS = st.builds(
    lambda loaded, coming, failed: record(
        loaded=loaded,
        coming={each: age for each, age in coming.items() if each not in loaded},
        failed_in={each: NOW_MS - age for each, age in failed.items()},
    ),
    st.dictionaries(st.sampled_from((*IDS, "me", "gone")), AGES, max_size=5),
    st.dictionaries(st.sampled_from((*IDS, "me", "gone")), AGES, max_size=5),
    st.dictionaries(st.sampled_from((*IDS, "me", "gone")), AGES, max_size=4),
)
PEERS = st.fixed_dictionaries(
    {},
    optional={
        each: st.builds(
            lambda suspect, reachable, draining, loading, each=each: peer(
                each, suspect=suspect, reachable=reachable, draining=draining, loading=loading
            ),
            st.booleans(), st.booleans(), st.booleans(), st.integers(0, 9),
        )
        for each in IDS
    },
)  # fmt: skip


@given(
    peers=PEERS,
    model=st.none() | MODELS,
    tried=st.sets(st.sampled_from((*IDS, "me"))),
    intent=st.sampled_from(Intent),
    flags=st.tuples(*[st.booleans()] * 7),
    attempt=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_what_holds_for_every_decision(
    peers: dict[str, Peer],
    model: ModelRecord | None,
    tried: set[str],
    intent: Intent,
    flags: tuple[bool, ...],
    attempt: int,
    seed: int,
) -> None:
    loaded, coming, draining, failed, store, balanced, asked = flags
    view = View(peers, model=model, loaded=loaded, coming=coming, store_answers=store)
    view.my_record = instance(draining=draining)
    view.failure = BROKEN if failed else None
    request = Request("m", Hops(intent, "i0"), tried, balanced, attempt, asked)
    decision = go(view, request, seed)
    if isinstance(decision, Forward):
        assert intent is Intent.ANY  # a forwarded call is never sent on
        assert attempt < 8
        assert decision.instance_id not in tried
        assert peers[decision.instance_id].answers  # lives, and is no suspect
        assert model is not None
        if decision.intent is Intent.HIT:
            assert decision.instance_id in model.instance_ids
        else:
            gone = peers[decision.instance_id].record.draining
            assert not gone or not store  # while the store is silent it may have come back
            assert decision.instance_id not in live_failures(model, NOW_MS)
    elif isinstance(decision, ServeHere):
        assert loaded
        assert "me" not in tried or intent is not Intent.ANY
    elif isinstance(decision, Wait):
        assert coming
    elif isinstance(decision, LoadHere):
        assert not draining
        assert not failed
        assert not loaded or "me" in tried
    elif isinstance(decision, Ask):
        assert model is None
        assert store
        assert not asked
    else:
        assert not decision.failure.executed
        assert decision.failure.code in (
            Code.NOT_FOUND, Code.UNAVAILABLE, Code.FAILED_PRECONDITION,
        )  # fmt: skip
