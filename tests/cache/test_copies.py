"""The cache, one sentence of its promise a test. Sizes are small numbers, time is made up."""

import pytest

from modelmesh.cache.copies import Copies
from modelmesh.cache.copy import Copy
from modelmesh.cache.decisions import Effect, Load, Refuse, State, Unload, Verdict, Why
from modelmesh.errors import Code, Failure, Reason


def holding(capacity: int, policy: str = "lru", /, **sizes: int) -> Copies:
    """A cache in which these were loaded at 0, 1, 2 ... s, each in no time (so none is young)."""
    copies = Copies(capacity, policy)
    for second, (model_id, size) in enumerate(sizes.items()):
        copies.admit(model_id, size, second)
        copies.loaded(model_id, size, 0.0, second)
    return copies


def evicted(*model_ids: str) -> tuple[Effect, ...]:
    return tuple(Unload(model_id, Why.EVICTED) for model_id in model_ids)


def use(copies: Copies, model_id: str, now: float) -> Copy:
    copy = copies.acquire(model_id, now)
    assert copy is not None
    return copy


def failure_of(copies: Copies, model_id: str, size: int, now: float, deadline: float) -> Failure:
    before = [(copy.model_id, copy.state) for copy in copies]
    decision = copies.admit(model_id, size, now, deadline=deadline)
    assert decision.verdict is Verdict.REFUSE
    assert decision.effects == ()
    assert [(copy.model_id, copy.state) for copy in copies] == before
    assert decision.failure is not None
    return decision.failure


# --- admission and eviction


def test_a_model_that_fits_is_loaded_at_once() -> None:
    copies = Copies(10)
    decision = copies.admit("a", 4, 0.0)
    assert (decision.verdict, decision.effects) == (Verdict.LOAD, (Load("a", 4),))
    assert copies.ledger.loading_bytes == 4
    assert copies.loaded("a", 3, 0.1, 0.1) == ()
    assert (copies.state("a"), copies.ledger.reserved_bytes) == (State.LOADED, 3)


def test_room_is_made_by_unloading_and_only_then_loading() -> None:
    copies = holding(10, a=4, b=4)
    decision = copies.admit("c", 4, 5.0)
    assert (decision.verdict, decision.effects) == (Verdict.WAIT, evicted("a"))
    assert (copies.state("a"), copies.state("c")) == (State.UNLOADING, State.WAITING)
    assert copies.unloaded("a", 6.0) == (Load("c", 4),)
    assert copies.ledger.free_bytes == 2


def test_the_least_lately_used_goes_first() -> None:
    copies = holding(12, a=4, b=4, c=4)
    copies.touch("a", 5.0)
    copies.release(use(copies, "b", 6.0), 6.0)
    assert copies.admit("d", 1, 7.0).effects == evicted("c")
    assert copies.admit("e", 4, 7.0).effects == evicted("a")


def test_no_more_is_evicted_than_needed() -> None:
    copies = holding(10, a=1, b=2, c=7)
    assert copies.admit("d", 4, 5.0).effects == evicted("c")


def test_nobody_waits_for_bytes_that_do_not_come_back() -> None:
    copies = holding(10, a=5, b=5)
    assert copies.admit("c", 5, 5.0).effects == evicted("a")
    assert copies.unload_failed("a", 6.0) == evicted("b"), "others make room in its stead"
    assert copies.ledger.free_bytes == 0, "what is stuck is never given out"
    assert copies.unloaded("b", 7.0) == (Load("c", 5),)


def test_a_model_that_is_stuck_is_refused_until_it_is_gone_after_all() -> None:
    copies = holding(10, a=4)
    copies.unload("a", 5.0)
    assert copies.admit("a", 4, 5.0).verdict is Verdict.WAIT
    copies.admit("large", 7, 5.0)
    refused = copies.unload_failed("a", 6.0)
    assert [each.model_id for each in refused if isinstance(each, Refuse)] == ["a", "large"]
    failure = failure_of(copies, "a", 4, 7.0, 100.0)
    assert (failure.code, failure.reason) == (Code.UNAVAILABLE, Reason.NO_SPACE)
    assert failure_of(copies, "large", 7, 7.0, 100.0).reason is Reason.NO_SPACE
    assert copies.admit("small", 6, 8.0).effects == (Load("small", 6),)
    assert copies.unloaded("a", 9.0) == ()
    assert copies.admit("a", 4, 10.0).effects == (Load("a", 4),)


def test_unloads_under_way_count_as_room_to_come() -> None:
    copies = holding(10, a=5, b=5)
    copies.admit("c", 2, 5.0)
    decision = copies.admit("d", 3, 5.0)
    assert (decision.verdict, decision.effects) == (Verdict.WAIT, ())
    assert copies.unloaded("a", 6.0) == (Load("c", 2), Load("d", 3))


def test_small_ones_do_not_take_the_room_that_a_large_one_waits_for() -> None:
    copies = holding(10, a=7)
    assert copies.admit("large", 8, 5.0).effects == evicted("a")
    decision = copies.admit("small", 2, 5.0)
    assert (decision.verdict, decision.effects) == (Verdict.WAIT, ()), "though 3 are free"
    assert copies.unloaded("a", 6.0) == (Load("large", 8), Load("small", 2))


def test_who_is_spared_for_one_may_go_for_the_next() -> None:
    copies = Copies(12, "lru")
    for now, (model_id, size) in enumerate({"a": 1, "b": 2, "c": 9}.items()):
        copies.admit(model_id, size, now)
        copies.loaded(model_id, size, 10.0, now)
    copies.admit("d", 9, 5.0)
    copies.admit("e", 3, 5.0)
    assert copies.due(200.0) == evicted("c", "a", "b")


def test_a_hundred_gigabytes_are_refused_and_nothing_is_evicted() -> None:
    copies = holding(16 << 30, a=8 << 30, b=8 << 30)
    failure = failure_of(copies, "huge", 100 << 30, 5.0, deadline=1e9)
    assert (failure.code, failure.reason) == (Code.FAILED_PRECONDITION, Reason.TOO_LARGE)
    assert failure.retry_after_s is None


def test_what_only_overhead_keeps_out_may_come_again() -> None:
    copies = holding(10, a=2)
    copies.overhead(3, 1.0)
    failure = failure_of(copies, "b", 8, 5.0, deadline=1e9)
    assert (failure.code, failure.reason) == (Code.UNAVAILABLE, Reason.NO_SPACE)
    assert failure.retry_after_s is not None
    copies.overhead(0, 6.0)
    assert copies.admit("b", 8, 6.0).verdict is Verdict.LOAD


def test_the_measured_size_is_reserved_the_next_time() -> None:
    copies = Copies(10)
    copies.admit("a", 1, 0.0)
    assert copies.loaded("a", 11, 0.1, 1.0) == (Unload("a", Why.GREW),)
    copies.unloaded("a", 2.0)
    assert failure_of(copies, "a", 1, 3.0, deadline=1e9).reason is Reason.TOO_LARGE


# --- in use


def test_a_model_in_use_is_passed_over() -> None:
    copies = holding(8, a=4, b=4)
    use(copies, "a", 2.0)
    assert copies.admit("c", 4, 9.0).effects == evicted("b")


def test_room_is_collected_from_models_as_they_come_to_rest() -> None:
    copies = holding(12, a=4, b=4, c=4)
    b, c = use(copies, "b", 5.0), use(copies, "c", 5.0)
    decision = copies.admit("large", 12, 6.0)
    assert (decision.verdict, decision.effects) == (Verdict.WAIT, evicted("a"))
    assert "in use" in decision.reason
    assert copies.unloaded("a", 6.0) == ()
    assert copies.admit("small", 1, 7.0).verdict is Verdict.WAIT, "the large one is first"
    assert copies.release(b, 7.0) == evicted("b")
    assert copies.unloaded("b", 8.0) == ()
    assert copies.release(c, 8.0) == evicted("c")
    assert copies.unloaded("c", 9.0) == (Load("large", 12),)


def test_requests_go_before_background_loads() -> None:
    copies = holding(4, a=4)
    a = use(copies, "a", 1.0)
    copies.admit("preload", 4, 2.0, background=True)
    copies.admit("asked", 4, 3.0)
    copies.admit("moved up", 4, 3.0, background=True)
    copies.admit("moved up", 4, 4.0)
    assert list(copies.waiting_ids()) == ["asked", "moved up", "preload"]
    assert copies.release(a, 5.0) == evicted("a")
    assert copies.unloaded("a", 6.0) == (Load("asked", 4),)


def test_a_copy_is_released_whatever_has_become_of_it() -> None:
    copies = holding(10, a=4)
    stale = use(copies, "a", 1.0)
    copies.lost("a", 2.0)
    copies.admit("a", 4, 3.0)
    copies.loaded("a", 4, 0.0, 3.0)
    fresh = use(copies, "a", 4.0)
    copies.release(stale, 5.0)
    assert (fresh.in_use, copies.ledger.in_use_bytes) == (1, 4)


# --- churn guard


def busy_loading(max_waiting: int = 9) -> Copies:
    """Full of two models that were loaded at 0 and 5 s and took 1 and 2 s to load."""
    copies = Copies(8, max_waiting=max_waiting)
    for model_id, load_s, now in (("a", 1.0, 0.0), ("b", 2.0, 5.0)):
        copies.admit(model_id, 4, now)
        copies.loaded(model_id, 4, load_s, now)
    return copies


def test_a_new_model_stays_for_ten_times_its_load_time() -> None:
    copies = busy_loading()
    decision = copies.admit("c", 4, 6.0, deadline=100.0)
    assert (decision.verdict, decision.effects) == (Verdict.WAIT, ())
    assert (decision.wait_until, copies.next_due()) == (10.0, 10.0)
    assert copies.due(9.99) == ()
    assert copies.due(10.0) == evicted("a")


def test_a_deadline_that_the_guard_cannot_meet_refuses_at_once() -> None:
    copies = busy_loading()
    failure = failure_of(copies, "c", 8, 6.0, deadline=24.9)
    assert (failure.code, failure.reason) == (Code.RESOURCE_EXHAUSTED, Reason.CHURN)
    assert failure.retry_after_s == 25.0 - 6.0
    assert copies.next_due() == float("inf")
    assert copies.admit("c", 8, 6.0, deadline=26.5).wait_until == 25.0, "a load takes 1.5 s"


def test_the_expected_load_time_counts_towards_the_deadline() -> None:
    copies = busy_loading()
    copies.admit("d", 4, 6.0, model_type="t", deadline=13.0)
    copies.due(10.0)
    copies.unloaded("a", 10.0)
    copies.loaded("d", 4, 3.0, 13.0)
    # b may go at 25; another model of type t then takes 3 s.
    decision = copies.explain("c", 4, 14.0, model_type="t", deadline=27.0).decision
    assert decision.failure is not None
    assert decision.failure.reason is Reason.CHURN
    in_time = copies.explain("c", 4, 14.0, model_type="t", deadline=28.0).decision
    assert in_time.failure is None


def test_a_wait_behind_is_no_reason_to_refuse_who_is_served_before() -> None:
    copies = busy_loading()
    copies.admit("preload", 4, 6.0, background=True)
    decision = copies.admit("a request", 4, 12.0, deadline=14.0)
    assert (decision.verdict, decision.effects) == (Verdict.WAIT, evicted("a"))


def test_a_full_queue_refuses() -> None:
    copies = busy_loading(max_waiting=1)
    copies.admit("c", 4, 6.0)
    assert failure_of(copies, "d", 4, 6.0, deadline=1e9).reason is Reason.CHURN
    assert copies.admit("c", 4, 6.0).verdict is Verdict.WAIT, "joining needs no place"
    copies = Copies(4, max_waiting=0)
    copies.admit("a", 4, 0.0)
    assert failure_of(copies, "b", 4, 0.0, deadline=1e9).reason is Reason.OVERLOADED


def test_young_models_go_for_a_debt_after_the_old_ones() -> None:
    copies = Copies(12, "lru")
    copies.admit("young", 4, 0.0)
    copies.loaded("young", 4, 5.0, 0.0)
    copies.admit("old", 4, 1.0)
    copies.loaded("old", 4, 0.0, 1.0)
    assert copies.overhead(6, 2.0) == (Unload("old", Why.DEBT),)
    assert copies.overhead(10, 3.0) == (Unload("young", Why.DEBT),)


# --- single flight


def test_one_load_at_a_time() -> None:
    copies = Copies(10)
    copies.admit("a", 4, 0.0)
    again = copies.admit("a", 4, 0.5)
    assert (again.verdict, again.effects) == (Verdict.LOAD, ())
    copies.loaded("a", 4, 0.1, 1.0)
    assert copies.admit("a", 4, 2.0).verdict is Verdict.SERVE


def test_a_model_asked_for_while_it_unloads_is_loaded_after() -> None:
    copies = holding(10, a=4)
    copies.unload("a", 1.0)
    assert copies.acquire("a", 1.5) is None
    assert copies.admit("a", 4, 2.0).verdict is Verdict.WAIT
    assert (copies.state("a"), copies.is_coming("a")) == (State.UNLOADING, True)
    assert copies.unloaded("a", 3.0) == (Load("a", 4),)


def test_who_waits_for_its_own_unload_does_not_hold_up_others() -> None:
    copies = holding(10, a=4)
    copies.unload("a", 1.0)
    copies.admit("a", 6, 2.0)
    assert copies.admit("b", 6, 2.0).effects == (Load("b", 6),), "a gets its own 4 back"
    assert copies.unloaded("a", 3.0) == (Load("a", 4),)


def test_a_load_whose_last_waiter_leaves_before_it_began_is_dropped() -> None:
    copies = holding(4, a=4)
    a = use(copies, "a", 1.0)
    copies.admit("b", 4, 2.0)
    copies.admit("c", 2, 2.0)
    assert copies.withdraw("b", 3.0) == ()
    assert copies.state("b") is State.NEW
    assert copies.release(a, 4.0) == evicted("a")
    assert copies.unloaded("a", 5.0) == (Load("c", 2),)
    assert copies.withdraw("c", 6.0) == ()
    assert copies.state("c") is State.LOADING, "too late: it has begun"


def test_a_failed_load_gives_its_room_to_the_next() -> None:
    copies = Copies(4)
    copies.admit("a", 4, 0.0)
    copies.admit("b", 4, 0.0)
    assert copies.load_failed("a", 1.0) == (Load("b", 4),)
    assert copies.state("a") is State.NEW


# --- what is learnt


def test_growth_is_paid_by_idle_models_in_the_same_step() -> None:
    copies = holding(10, a=4, b=2)
    copies.admit("c", 4, 5.0)
    assert copies.loaded("c", 6, 0.1, 6.0) == (Unload("a", Why.DEBT),)
    assert copies.ledger.debt_bytes == 2
    copies.unloaded("a", 7.0)
    assert copies.ledger.debt_bytes == 0


def test_what_grew_goes_itself_where_the_others_cannot_pay() -> None:
    copies = holding(10, a=4, b=4)
    use(copies, "a", 2.0)
    b = use(copies, "b", 2.0)
    assert copies.resized("b", 7, 3.0) == (), "after its last call"
    assert (copies.state("b"), copies.acquire("b", 3.0)) == (State.UNLOADING, None)
    assert copies.ledger.debt_bytes == 1
    assert copies.release(b, 4.0) == (Unload("b", Why.GREW),)


def test_a_debt_is_paid_before_anything_is_admitted() -> None:
    copies = holding(10, a=5)
    a = use(copies, "a", 1.0)
    copies.overhead(7, 2.0)
    assert copies.ledger.debt_bytes == 2
    decision = copies.admit("b", 1, 3.0)
    assert (decision.verdict, decision.effects) == (Verdict.WAIT, ())
    assert copies.release(a, 4.0) == (Unload("a", Why.DEBT),)
    assert copies.unloaded("a", 5.0) == (Load("b", 1),)


def test_a_release_pays_a_debt_though_nobody_waits() -> None:
    copies = holding(10, a=5)
    a = use(copies, "a", 1.0)
    assert copies.overhead(7, 2.0) == ()
    assert copies.release(a, 3.0) == (Unload("a", Why.DEBT),)


def test_what_a_model_has_grown_to_is_reserved_the_next_time() -> None:
    copies = holding(10, a=4)
    copies.resized("a", 6, 1.0)
    copies.unload("a", 2.0)
    copies.unloaded("a", 2.0)
    assert copies.admit("a", 4, 3.0).effects == (Load("a", 6),)


def test_who_can_never_get_enough_any_more_is_refused() -> None:
    copies = holding(10, a=4)
    use(copies, "a", 1.0)
    copies.admit("b", 9, 2.0)
    (refused,) = copies.set_capacity(8, 3.0)
    assert isinstance(refused, Refuse)
    assert (refused.model_id, refused.failure.reason) == ("b", Reason.TOO_LARGE)


def test_a_leak_beyond_the_capacity_does_not_keep_the_model_out_for_ever() -> None:
    copies = holding(10, a=4)
    assert copies.resized("a", 11, 1.0) == (Unload("a", Why.GREW),)
    copies.unloaded("a", 2.0)
    assert copies.admit("a", 1, 3.0).effects == (Load("a", 4),)


# --- what is asked


def test_an_unload_waits_for_the_last_call() -> None:
    copies = holding(10, a=4)
    first, second = use(copies, "a", 1.0), use(copies, "a", 1.0)
    assert copies.unload("a", 2.0) == ()
    assert copies.release(first, 3.0) == ()
    assert copies.release(second, 4.0) == (Unload("a", Why.ASKED),)


def test_forgetting_a_model_refuses_its_waiters_and_remembers_nothing() -> None:
    copies = holding(4, a=4)
    copies.unload("a", 0.5)
    copies.unloaded("a", 0.5)
    copies.admit("a", 1, 0.5)
    copies.loaded("a", 4, 0.0, 0.5)
    copies.release(use(copies, "a", 1.0), 1.0)
    assert copies.forget("a", 2.0) == (Unload("a", Why.FORGOTTEN),)
    copies.admit("b", 4, 2.0)
    (refused,) = copies.forget("b", 3.0)
    assert isinstance(refused, Refuse)
    assert refused.failure.code is Code.NOT_FOUND
    copies.unloaded("a", 4.0)
    assert copies.admit("a", 1, 5.0).effects == (Load("a", 1),), "not what it weighed"
    copies.loaded("a", 1, 0.1, 5.0)
    assert copies.worth("a", 6.0) == 0.0


def test_a_model_forgotten_and_registered_anew_while_it_loads_is_loaded_anew() -> None:
    copies = Copies(10)
    copies.admit("a", 4, 0.0)
    copies.forget("a", 1.0)
    assert not copies.is_coming("a")
    assert copies.admit("a", 4, 2.0).verdict is Verdict.WAIT
    assert copies.loaded("a", 6, 0.1, 3.0) == (Unload("a", Why.FORGOTTEN),)
    assert copies.unloaded("a", 4.0) == (Load("a", 4),)
    copies.load_failed("a", 5.0)
    assert copies.admit("a", 4, 6.0).effects == (Load("a", 4),), "the other one weighed 6"


def test_its_room_is_its_successors_and_nobody_else_is_evicted_for_it() -> None:
    copies = holding(10, b=6)
    copies.admit("a", 4, 1.0)
    copies.forget("a", 1.0)
    assert copies.admit("a", 4, 2.0).effects == ()
    assert copies.load_failed("a", 3.0) == (Load("a", 4),)


def test_events_that_contradict_the_state_are_the_callers_fault() -> None:
    copies = Copies(10)
    with pytest.raises(ValueError, match="a is new, not loading"):
        copies.loaded("a", 1, 0.1, 0.0)
    with pytest.raises(ValueError, match="a is new, not unloading"):
        copies.unloaded("a", 0.0)
    assert copies.lost("a", 0.0) == ()


# --- worth and memory


def test_rate_and_cost_outlive_the_copy() -> None:
    copies = Copies(10, "gdsf")
    copies.admit("a", 4, 0.0)
    copies.loaded("a", 4, 2.0, 0.0)
    for second in range(30):
        copies.touch("a", float(second))
    worth = copies.worth("a", 30.0)
    copies.unload("a", 30.0)
    copies.unloaded("a", 30.0)
    assert copies.worth("a", 30.0) == 0.0
    copies.admit("a", 4, 30.0)
    copies.loaded("a", 4, 2.0, 30.0)
    assert copies.worth("a", 30.0) == pytest.approx(worth)
    assert copies.worth("a", 630.0) == pytest.approx(worth / 2), "after the half-life"


def test_what_is_remembered_is_bounded() -> None:
    copies = Copies(10, remembered=1)
    for model_id in ("a", "b"):
        copies.admit(model_id, 1, 0.0)
        copies.loaded(model_id, 5, 0.1, 0.0)
        copies.unload(model_id, 0.0)
        copies.unloaded(model_id, 0.0)
    assert copies.admit("a", 1, 1.0).effects == (Load("a", 1),)
    assert copies.admit("b", 1, 1.0).effects == (Load("b", 5),)


def test_gdsf_keeps_the_dear_and_small_where_lru_looks_at_time_alone() -> None:
    for policy, first in (("lru", "dear"), ("gdsf", "cheap")):
        copies = Copies(8, policy)
        for now, (model_id, load_s) in enumerate((("dear", 4.0), ("cheap", 0.1))):
            copies.admit(model_id, 4, now)
            copies.loaded(model_id, 4, load_s, now)
            copies.touch(model_id, now)
        assert copies.explain("newcomer", 1, 100.0).order[0].model_id == first


def test_what_was_busy_once_makes_way_in_the_end() -> None:
    """Without the floor every newcomer would throw out the newcomer before it, for ever."""
    copies = Copies(2, "gdsf")

    def newcomer(model_id: str, now: float) -> tuple[Effect, ...]:
        decision = copies.admit(model_id, 1, now)
        for effect in decision.effects:
            if isinstance(effect, Unload):
                copies.unloaded(effect.model_id, now)
        copies.loaded(model_id, 1, 0.0, now)
        copies.touch(model_id, now)
        return decision.effects

    newcomer("busy once", 0.0)
    for _ in range(7):
        copies.touch("busy once", 0.0)
    newcomer("0", 0.0)
    for number in range(1, 6):
        assert newcomer(str(number), 0.0) == evicted(str(number - 1))
    effects = [newcomer(str(number), 0.0) for number in range(6, 12)]
    assert evicted("busy once") in effects
