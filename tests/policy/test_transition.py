"""Vmodels: every flag as a row, and a registry of them driven through random requests."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.domain.records import ModelRecord
from modelmesh.domain.vmodels import VModelRecord
from modelmesh.errors import Code, Failure
from modelmesh.policy.transition import (
    NOWHERE,
    Changes,
    Kind,
    SetVModel,
    Standing,
    VModelState,
    Write,
    advance,
    answering,
    delete_vmodel,
    set_vmodel,
    state_of,
)
from tests.policy.fleet_view import NOW_MS

HOUR_MS = 3_600_000
IDLE = ModelRecord("t", "a", last_used_ms=NOW_MS - 2 * HOUR_MS)
USED = replace(IDLE, last_used_ms=NOW_MS - 5)
INFO = ModelRecord("t", "new", last_used_ms=NOW_MS - 6 * HOUR_MS)
LOADED, BROKEN = Standing(loaded=1), Standing(failure="no such file")
MODELS = {"a": replace(USED, refs=1), "b": replace(IDLE, path="b"), "c": replace(IDLE, path="c")}
SETTLED = VModelRecord("a", "a", "me")
MOVING = VModelRecord("a", "b", "me")
MOVING_MODELS = {**MODELS, "b": replace(MODELS["b"], refs=1)}


def ask(
    vmodel: VModelRecord | None,
    target: str,
    models: dict[str, ModelRecord] | None = None,
    stand: tuple[Standing, Standing] = (LOADED, NOWHERE),
    **flags: Any,
) -> Changes | Failure:
    request = SetVModel("v", target, **flags)
    return set_vmodel(request, vmodel, MODELS if models is None else models, *stand, NOW_MS)


def done(answer: Changes | Failure) -> Changes:
    assert isinstance(answer, Changes), answer
    assert answer.reason
    return answer


def vmodel_in(changes: Changes) -> VModelRecord:
    (record,) = [write.record for write in changes.writes if write.kind is Kind.VMODEL]
    assert isinstance(record, VModelRecord)
    return record


def models_in(changes: Changes) -> dict[str, ModelRecord | None]:
    found = {}
    for write in changes.writes:
        if write.kind is Kind.MODEL:
            assert not isinstance(write.record, VModelRecord)
            found[write.name] = write.record
    return found


def refs_in(changes: Changes) -> dict[str, int | None]:
    return {name: record.refs if record else None for name, record in models_in(changes).items()}


# --- refused


@pytest.mark.parametrize(
    ("vmodel", "target", "flags", "code"),
    [
        (None, "", {}, Code.INVALID_ARGUMENT),
        (None, "absent", {}, Code.NOT_FOUND),
        (None, "a", {"update_only": True}, Code.NOT_FOUND),
        (None, "a", {"expected_target": "b"}, Code.FAILED_PRECONDITION),
        (None, "a", {"info": INFO}, Code.ALREADY_EXISTS),
        (None, "bad\n", {"info": INFO}, Code.INVALID_ARGUMENT),
        (SETTLED, "absent", {}, Code.NOT_FOUND),
        (SETTLED, "b", {"owner": "you"}, Code.ALREADY_EXISTS),
        (SETTLED, "a", {"owner": "you"}, Code.ALREADY_EXISTS),
        (SETTLED, "b", {"expected_target": "c"}, Code.FAILED_PRECONDITION),
        (SETTLED, "b", {"info": INFO}, Code.ALREADY_EXISTS),
        (SETTLED, "b", {"owner": "you", "expected_target": "c"}, Code.ALREADY_EXISTS),
    ],
)
def test_what_is_refused(
    vmodel: VModelRecord | None, target: str, flags: dict[str, Any], code: Code
) -> None:
    failure = ask(vmodel, target, **flags)
    assert isinstance(failure, Failure)
    assert failure.code is code
    assert failure.message


def test_a_vmodel_needs_a_name_that_a_model_could_have() -> None:
    for name in ("", "line\nend"):
        failure = set_vmodel(SetVModel(name, "a"), None, MODELS, NOWHERE, NOWHERE, NOW_MS)
        assert isinstance(failure, Failure)
        assert failure.code is Code.INVALID_ARGUMENT
        assert "vModelId" in failure.message


# --- created


def test_a_new_vmodel_stands_for_its_target_at_once() -> None:
    changes = done(ask(None, "b", owner="me"))
    assert vmodel_in(changes) == VModelRecord("b", "b", "me")
    assert refs_in(changes) == {"b": 1}
    assert (changes.load, changes.moving, changes.wait) == ("", False, False)


@pytest.mark.parametrize(
    ("flags", "load", "wait"),
    [({"load_now": True}, "b", False), ({"sync": True}, "b", True), ({}, "", False)],
)
def test_loading_is_what_the_caller_asks_for(flags: dict[str, Any], load: str, wait: bool) -> None:
    for vmodel in (None, VModelRecord("b", "b")):
        changes = done(ask(vmodel, "b", **flags))
        assert (changes.load, changes.wait) == (load, wait)


def test_the_owner_is_the_given_or_the_default_one() -> None:
    assert vmodel_in(done(ask(None, "b", default_owner="d"))).owner == "d"
    assert vmodel_in(done(ask(None, "b", owner="o", default_owner="d"))).owner == "o"


def test_a_target_is_registered_with_its_vmodel() -> None:
    changes = done(ask(None, "new", info=INFO, auto_delete=True, expected_target="new"))
    assert models_in(changes) == {"new": replace(INFO, refs=1, auto_delete=True)}
    again = done(ask(None, "b", info=replace(MODELS["b"]), auto_delete=True))
    record = models_in(again)["b"]
    assert record is not None
    assert not record.auto_delete  # it was registered without


# --- moved


@pytest.mark.parametrize(
    ("active", "stand", "flags", "reason"),
    [
        (USED, (LOADED, NOWHERE), {}, ""),
        (USED, (LOADED, Standing(coming=1)), {}, ""),
        (USED, (LOADED, LOADED), {}, "loaded"),
        (USED, (Standing(loaded=2), LOADED), {}, ""),  # as many as the active one first
        (USED, (NOWHERE, NOWHERE), {}, ""),  # evicted, but in use
        (USED, (NOWHERE, LOADED), {}, "loaded"),
        (IDLE, (NOWHERE, NOWHERE), {}, "nobody uses"),
        (IDLE, (NOWHERE, BROKEN), {}, ""),
        (IDLE, (Standing(coming=1), NOWHERE), {}, ""),
        (IDLE, (LOADED, NOWHERE), {}, ""),
        (USED, (LOADED, BROKEN), {"force": True}, "forced"),
        (None, (NOWHERE, NOWHERE), {}, "gone"),
    ],
)
def test_the_active_model_answers_until_the_target_can(
    active: ModelRecord | None,
    stand: tuple[Standing, Standing],
    flags: dict[str, Any],
    reason: str,
) -> None:
    models = {"b": MODELS["b"]} | ({"a": replace(active, refs=1)} if active else {})
    changes = done(ask(SETTLED, "b", models, stand, owner="me", sync=True, **flags))
    moved = VModelRecord("b" if reason else "a", "b", "me")
    assert vmodel_in(changes) == moved
    assert reason in changes.reason
    assert changes.moving is not bool(reason)
    assert changes.wait
    assert refs_in(changes) == ({"a": 0, "b": 1} if reason and active else {"b": 1})
    target = models_in(changes)["b"]
    assert target is not None
    assert target.last_used_ms == max(
        MODELS["b"].last_used_ms, active.last_used_ms if active else 0
    )


def test_the_same_target_again_changes_nothing() -> None:
    for vmodel in (MOVING, replace(MOVING, failed=True)):
        changes = done(ask(vmodel, "b", MOVING_MODELS, expected_target="x", load_now=True))
        assert not changes.writes
        assert changes.moving
    assert not done(ask(SETTLED, "a")).writes


def test_force_ends_a_transition() -> None:
    changes = done(ask(replace(MOVING, failed=True), "b", MOVING_MODELS, force=True))
    assert vmodel_in(changes) == VModelRecord("b", "b", "me")
    assert refs_in(changes) == {"a": 0}
    assert changes.load == "b"


def test_a_further_target_lets_the_superseded_one_go() -> None:
    models = {**MOVING_MODELS, "b": replace(MOVING_MODELS["b"], auto_delete=True)}
    changes = done(ask(replace(MOVING, failed=True), "c", models))
    assert vmodel_in(changes) == VModelRecord("a", "c", "me")
    assert refs_in(changes) == {"b": None, "c": 1}


def test_a_rollback_lets_the_target_go_and_counts_nothing_twice() -> None:
    changes = done(ask(MOVING, "a", MOVING_MODELS))
    assert vmodel_in(changes) == SETTLED
    assert refs_in(changes) == {"b": 0}


def test_a_vmodel_keeps_fields_that_it_does_not_know() -> None:
    vmodel = replace(SETTLED, unknown={"later": 1})
    assert vmodel_in(done(ask(vmodel, "b"))).unknown == {"later": 1}


# --- deleted, read


def test_a_vmodel_lets_all_its_models_go() -> None:
    models = {**MOVING_MODELS, "a": replace(MODELS["a"], auto_delete=True)}
    changes = delete_vmodel("v", "me", MOVING, models)
    assert changes.writes[0] == Write(Kind.VMODEL, "v", None)
    assert refs_in(changes) == {"a": None, "b": 0}
    assert not delete_vmodel("v", "you", MOVING, models).writes
    assert not delete_vmodel("v", "me", None, models).writes
    assert delete_vmodel("v", "", MOVING, models) == changes


@pytest.mark.parametrize(
    ("vmodel", "owner", "state"),
    [
        (None, "", VModelState.NOT_FOUND),
        (SETTLED, "you", VModelState.NOT_FOUND),
        (SETTLED, "me", VModelState.DEFINED),
        (MOVING, "", VModelState.TRANSITIONING),
        (replace(MOVING, failed=True), "", VModelState.TRANSITION_FAILED),
    ],
)
def test_the_state(vmodel: VModelRecord | None, owner: str, state: VModelState) -> None:
    assert state_of(vmodel, owner) is state


def test_who_answers() -> None:
    assert answering(MOVING, active_exists=True) == "a"
    assert answering(MOVING, active_exists=False) == "b"


# --- advance


@pytest.mark.parametrize(
    ("active", "target", "load", "promoted", "says"),
    [
        (LOADED, NOWHERE, 1, False, "first"),
        (NOWHERE, NOWHERE, 1, False, "first"),
        (LOADED, Standing(coming=1), 0, False, "coming"),
        (LOADED, LOADED, 0, True, "loaded"),
        (Standing(loaded=3), Standing(loaded=1, possible=5), 2, False, "first"),
        (Standing(loaded=3), Standing(loaded=1, coming=2, possible=5), 0, False, "coming"),
        (Standing(loaded=3), Standing(loaded=1, possible=1), 0, True, "loaded"),
        (Standing(loaded=3), Standing(loaded=3, possible=5), 0, True, "loaded"),
        (Standing(loaded=3), Standing(loaded=1, possible=5, loaded_s=30), 0, True, "may be"),
        (Standing(loaded=3), Standing(loaded=1, possible=5, failure="x"), 0, True, "may be"),
        (LOADED, Standing(possible=0), 1, False, "first"),
    ],
)
def test_a_transition_goes_on(
    active: Standing, target: Standing, load: int, promoted: bool, says: str
) -> None:
    vmodel = replace(MOVING, failed=True)
    changes = advance("v", vmodel, MOVING_MODELS, active, target)
    assert (changes.load, changes.copies) == ("b" if load else "", load)
    assert says in changes.reason
    assert changes.moving is not promoted
    if promoted:
        assert vmodel_in(changes) == VModelRecord("b", "b", "me")
        assert refs_in(changes) == {"a": 0}
    else:
        assert not changes.writes


def test_a_target_that_fails_is_marked_once_and_the_active_one_goes_on() -> None:
    changes = advance("v", MOVING, MOVING_MODELS, LOADED, BROKEN)
    assert vmodel_in(changes) == replace(MOVING, failed=True)
    assert changes.reason == "no such file"
    assert not refs_in(changes)
    assert not advance("v", vmodel_in(changes), MOVING_MODELS, LOADED, BROKEN).writes


def test_a_missing_target_fails_and_a_missing_active_model_gives_way() -> None:
    only_a, only_b = {"a": MODELS["a"]}, {"b": MOVING_MODELS["b"]}
    assert vmodel_in(advance("v", MOVING, only_a, LOADED, NOWHERE)).failed
    gone = advance("v", MOVING, only_b, NOWHERE, NOWHERE)
    assert vmodel_in(gone) == VModelRecord("b", "b", "me")
    assert not refs_in(gone)
    assert not advance("v", SETTLED, MODELS, LOADED, LOADED).writes


# --- a registry of them


@dataclass
class Registry:
    """Vmodels and models, changed by decisions only."""

    models: dict[str, ModelRecord] = field(default_factory=dict)
    vmodels: dict[str, VModelRecord] = field(default_factory=dict)

    def apply(self, changes: Changes | Failure) -> None:
        if isinstance(changes, Failure):
            return
        for write in changes.writes:
            table: dict[str, Any] = self.models if write.kind is Kind.MODEL else self.vmodels
            if write.record is None:
                del table[write.name]
            else:
                table[write.name] = write.record


STANDINGS = st.builds(
    Standing,
    loaded=st.integers(0, 2),
    coming=st.integers(0, 1),
    possible=st.integers(0, 3),
    loaded_s=st.sampled_from([0.0, 60.0]),
    failure=st.sampled_from(["", "", "broken"]),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["set", "set", "advance", "delete"]),
        st.sampled_from(["v", "w"]),
        st.sampled_from(["a", "b", "c"]),
        STANDINGS,
        STANDINGS,
        st.tuples(*[st.booleans()] * 4),
    ),
    max_size=25,
)


@given(steps=STEPS)
def test_references_are_exact_and_a_vmodel_always_stands_for_something(steps: Any) -> None:
    registry = Registry()
    for deed, vmodel_id, target, active_at, target_at, flags in steps:
        vmodel = registry.vmodels.get(vmodel_id)
        if deed == "set":
            force, auto_delete, update_only, with_info = flags
            request = SetVModel(
                vmodel_id, target, ModelRecord("t", target) if with_info else None,
                update_only, auto_delete, force=force,
            )  # fmt: skip
            answer: Changes | Failure = set_vmodel(
                request, vmodel, registry.models, active_at, target_at, NOW_MS
            )
        elif deed == "delete":
            answer = delete_vmodel(vmodel_id, "", vmodel, registry.models)
        elif vmodel is not None:
            answer = advance(vmodel_id, vmodel, registry.models, active_at, target_at)
            after = answer.writes and answer.writes[0].record
            if isinstance(after, VModelRecord) and after.active_id != vmodel.active_id:
                assert target_at.loaded  # nothing is promoted unloaded
        else:
            continue
        registry.apply(answer)
        counts = dict.fromkeys(registry.models, 0)
        for each in registry.vmodels.values():
            for model_id in {each.active_id, each.target_id}:
                counts[model_id] += 1  # a KeyError is a vmodel that stands for nothing
        assert counts == {name: record.refs for name, record in registry.models.items()}
        assert all(record.refs or not record.auto_delete for record in registry.models.values())
