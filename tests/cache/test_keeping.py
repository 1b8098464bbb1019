"""Evictions and what an operator wishes: pins, last copies, priority."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.cache import residents
from modelmesh.cache.copies import Copies
from modelmesh.cache.decisions import Effect, Fate, Load, Unload, Verdict, Why
from modelmesh.errors import Code, Reason
from modelmesh.policy.scaling import Keeping

FREE, RELUCTANT, NEVER = Keeping


def holding(capacity: int, sizes: Mapping[str, int], **kept: Keeping) -> Copies:
    """A cache in the order of its uses: these were loaded at 0, 1, 2 ... s, each in no time."""
    copies = Copies(capacity, "lru")
    copies.keep_by(lambda model_id: kept.get(model_id, FREE))
    for second, (model_id, size) in enumerate(sizes.items()):
        copies.admit(model_id, size, second)
        copies.loaded(model_id, size, 0.0, second)
    return copies


def evicted(*model_ids: str) -> tuple[Effect, ...]:
    return tuple(Unload(model_id, Why.EVICTED) for model_id in model_ids)


FOUR = {"a": 2, "b": 2, "c": 2, "d": 2}


@pytest.mark.parametrize(
    ("size", "kept", "victims"),
    [
        pytest.param(2, {}, "a", id="the order alone"),
        pytest.param(2, {"a": RELUCTANT}, "b", id="a last copy stays while another is free"),
        pytest.param(4, {"a": RELUCTANT, "c": RELUCTANT}, "bd", id="as many as are needed"),
        pytest.param(6, {"a": RELUCTANT, "c": RELUCTANT}, "bda", id="and goes for want of others"),
        pytest.param(2, {"a": NEVER, "b": RELUCTANT, "c": RELUCTANT, "d": NEVER}, "b", id="only"),
        pytest.param(6, {"b": NEVER}, "acd", id="a pinned one never goes"),
    ],
)
def test_who_goes(size: int, kept: Mapping[str, Keeping], victims: str) -> None:
    copies = holding(8, FOUR, **kept)
    decision = copies.admit("x", size, 10.0)
    assert decision.effects == evicted(*victims)


MODELS = st.lists(
    st.tuples(st.integers(1, 9), st.sampled_from(Keeping), st.booleans()), min_size=1, max_size=8
)


@given(MODELS, st.integers(1, 40))
def test_what_goes_is_free_first_and_never_what_is_kept(
    models: list[tuple[int, Keeping, bool]], size: int
) -> None:
    names = "abcdefgh"[: len(models)]
    kept = {name: model[1] for name, model in zip(names, models, strict=True)}
    sizes = {name: model[0] for name, model in zip(names, models, strict=True)}
    copies = holding(sum(sizes.values()), sizes, **kept)
    idle = [name for name, model in zip(names, models, strict=True) if not model[2]]
    for name in set(names) - set(idle):
        copies.acquire(name, 9.0)
    told = copies.explain("x", size, 10.0)
    decision = copies.admit("x", size, 10.0)
    assert told.decision == decision
    gone = {effect.model_id for effect in decision.effects}
    assert gone <= {name for name in idle if kept[name] is not NEVER}
    assert gone == {each.model_id for each in told.order if each.fate is Fate.EVICT}
    free = sum(sizes[name] for name in idle if kept[name] is FREE)
    reluctant = sum(sizes[name] for name in idle if kept[name] is RELUCTANT)
    busy = sum(sizes[name] for name in set(names) - set(idle) if kept[name] is not NEVER)
    if size <= free + reluctant:
        assert sum(sizes[name] for name in gone) >= size
        assert any(kept[name] is RELUCTANT for name in gone) == (size > free)
    elif size <= free + reluctant + busy:
        assert gone == {name for name in idle if kept[name] is not NEVER}, "the rest follows"
    else:
        assert decision.verdict is Verdict.REFUSE


def test_what_can_never_find_room_beside_what_is_pinned_is_refused() -> None:
    copies = holding(8, FOUR, a=NEVER, b=NEVER)
    decision = copies.admit("x", 5, 10.0)
    assert (decision.verdict, decision.effects) == (Verdict.REFUSE, ())
    failure = decision.failure
    assert failure is not None
    assert (failure.code, failure.reason) == (Code.UNAVAILABLE, Reason.NO_SPACE)
    assert failure.message == "the model needs 5 bytes, but models that are pinned leave 4"
    assert copies.admit("y", 4, 10.0).effects == evicted("c", "d")


def test_what_has_to_wait_for_models_in_use_takes_those_that_may_go() -> None:
    copies = holding(8, FOUR, a=NEVER)
    call = copies.acquire("b", 10.0)
    assert call is not None
    decision = copies.admit("x", 6, 10.0)
    assert (decision.verdict, decision.reason) == (
        Verdict.WAIT, "waits until models in use come to rest",
    )  # fmt: skip
    assert decision.effects == evicted("c", "d")
    assert copies.release(call, 11.0) == evicted("b")
    for model_id in "cd":
        assert copies.unloaded(model_id, 12.0) == ()
    assert copies.unloaded("b", 12.0) == (Load("x", 6),)


def test_a_debt_is_paid_by_what_is_kept_last_of_all() -> None:
    copies = holding(8, FOUR, a=NEVER, b=RELUCTANT)
    assert copies.overhead(3, 10.0) == tuple(Unload(m, Why.DEBT) for m in "cd")
    for model_id in "cd":
        copies.unloaded(model_id, 10.0)
    assert copies.overhead(5, 11.0) == (Unload("b", Why.DEBT),)
    copies.unloaded("b", 11.0)
    assert copies.overhead(7, 12.0) == (Unload("a", Why.DEBT),)


def test_what_has_grown_goes_before_what_is_pinned_unless_it_is_pinned_itself() -> None:
    copies = holding(8, {"a": 4, "b": 4}, a=NEVER)
    assert copies.resized("b", 6, 10.0) == (Unload("b", Why.GREW),)
    copies = holding(8, {"a": 4, "b": 4}, a=NEVER)
    assert copies.resized("a", 6, 10.0) == (Unload("b", Why.DEBT),)
    copies = holding(8, {"a": 4, "b": 4}, a=NEVER, b=NEVER)
    assert copies.resized("a", 6, 10.0) == (Unload("b", Why.DEBT),)


def test_what_is_kept_is_told() -> None:
    copies = holding(9, {**FOUR, "e": 1}, a=NEVER, b=RELUCTANT)
    copies.acquire("d", 9.0)
    order = copies.explain("x", 1, 10.0).order
    assert [(each.model_id, each.fate) for each in order] == [
        ("c", Fate.EVICT), ("e", Fate.NOT_NEEDED), ("d", Fate.IN_USE), ("b", Fate.LAST_COPY),
        ("a", Fate.KEPT),
    ]  # fmt: skip


def test_the_worth_of_the_next_victim_is_that_of_one_that_may_go() -> None:
    copies = Copies(4, "gdsf")
    kept = {"cold": NEVER}
    for second, model_id in enumerate(("cold", "warm")):
        copies.admit(model_id, 2, second)
        copies.loaded(model_id, 2, 0.1, second)
    copies.touch("warm", 1.0)
    assert copies.victim_worth(50.0) == copies.worth("cold", 50.0) == 0.0
    copies.keep_by(lambda model_id: kept.get(model_id, FREE))
    assert copies.victim_worth(50.0) == copies.worth("warm", 50.0) > 0.0


@pytest.mark.parametrize("policy", ["lru", "gdsf"])
def test_priority_moves_a_model_in_the_order_and_its_worth(policy: str) -> None:
    copies = Copies(8, policy)
    for second, model_id in enumerate("abcd"):
        copies.admit(model_id, 2, second)
        copies.loaded(model_id, 2, 0.1, second)
        copies.touch(model_id, second)
    worth = copies.worth("a", 10.0)
    copies.prioritise("a", 3)
    copies.prioritise("d", -3)
    copies.prioritise("nobody", 1)
    assert copies.worth("a", 10.0) == pytest.approx(8 * worth)
    assert [each.model_id for each in copies.explain("x", 1, 10.0).order] == ["d", "b", "c", "a"]
    assert copies.admit("x", 2, 10.0).effects == evicted("d")


def test_the_end_of_a_priority_lifts_nobody_else() -> None:
    """The floor stands for worth: a model that was dear to an operator must not flatten it."""
    copies = Copies(4, "gdsf")
    for second, model_id in enumerate(("dear", "busy")):
        copies.admit(model_id, 2, second)
        copies.loaded(model_id, 2, 0.0, second)
    copies.touch("dear", 1.0)
    copies.prioritise("dear", 20)
    for _ in range(100):
        copies.touch("busy", 2.0)
    call = copies.acquire("busy", 2.0)
    assert call is not None
    assert copies.admit("x", 2, 2.0).effects == evicted("dear")
    copies.release(call, 2.0)
    copies.unloaded("dear", 2.0)
    copies.loaded("x", 2, 0.0, 2.0)
    copies.touch("x", 2.0)
    assert copies.admit("y", 2, 3.0).effects == evicted("x"), "busy is worth more"


def test_a_lower_priority_is_no_use() -> None:
    """Filed with the floor of now, what is to go sooner would be as good as a newcomer."""
    copies = Copies(4, "gdsf")
    copies.admit("old", 2, 0.0)
    copies.loaded("old", 2, 0.0, 0.0)
    for _ in range(3):
        copies.touch("old", 0.0)
    copies.admit("first", 2, 0.0)
    copies.loaded("first", 2, 0.0, 0.0)
    copies.touch("first", 0.0)
    assert copies.admit("second", 2, 0.0).effects == evicted("first")
    copies.unloaded("first", 0.0)
    copies.loaded("second", 2, 0.0, 0.0)  # at the floor that the first one left
    copies.prioritise("old", -20)
    assert copies.admit("x", 2, 0.0).effects == evicted("old")


def test_no_more_is_asked_than_one_look_at_a_full_cache_may_cost() -> None:
    asked: list[str] = []
    count = 5 * residents._WINDOW
    copies = Copies(count, "lru")
    for n in range(count):
        copies.admit(f"{n:05}", 1, n)
        copies.loaded(f"{n:05}", 1, 0.0, n)

    def keeping(model_id: str) -> Keeping:
        asked.append(model_id)
        return RELUCTANT

    copies.keep_by(keeping)
    assert copies.admit("x", 1, 10_000.0).effects == evicted("00000")
    assert len(asked) == residents._WINDOW
