"""What an eviction asks about a model: an operator's wishes, and copies elsewhere."""

from dataclasses import replace

import pytest

from modelmesh.domain.fleet import Peer
from modelmesh.domain.instances import InstanceRecord
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import MeshError, Reason
from modelmesh.policy.scaling import Keeping
from modelmesh.registry.store import MODELS, Put
from modelmesh.serving.keeping import Kept
from modelmesh.serving.wishes import WishChange
from tests.serving.fleet_of_many import ME, OfMany
from tests.serving.fleet_of_one import One, until

FREE, RELUCTANT, NEVER = Keeping


async def loaded(one: One, *model_ids: str) -> Kept:
    kept = Kept(one.parts, None)
    await one.register(*model_ids)
    for model_id in model_ids:
        await one.answer(model_id)
    one.now += 60  # none is young any more
    return kept


async def test_a_pinned_model_stays_and_others_go() -> None:
    one = One(200)
    await loaded(one, "pinned", "other")
    await one.management.set_wishes("pinned", WishChange(pinned=True))
    await one.register("new")
    await one.answer("new")
    assert one.runtime.unloads == ["other"]
    told = await one.management.explain("other")
    order = told.explanation.order
    assert [(each.model_id, each.fate.value) for each in order][-1] == ("pinned", "kept")


async def test_a_model_that_finds_no_room_beside_pinned_ones_is_refused_at_once() -> None:
    one = One(200)
    await loaded(one, "a", "b")
    for model_id in "ab":
        await one.management.set_wishes(model_id, WishChange(min_copies=1))
    await one.register("new")
    with pytest.raises(MeshError) as failed:
        await one.answer("new")
    assert failed.value.failure.reason is Reason.NO_SPACE
    assert one.runtime.unloads == []


async def test_priority_counts_at_once_and_after_another_load() -> None:
    one = One(200)
    await loaded(one, "dear", "cheap")
    await one.management.set_wishes("dear", WishChange(priority=5))
    for _ in range(2):
        await one.register("new")
        await one.answer("new")
        assert one.runtime.unloads.pop() == "cheap"
        one.now += 60
        await one.management.unload("new")
        await one.management.unload("dear")
        await one.answer("cheap")
        await one.answer("dear")
        await one.answer("cheap")
        one.runtime.unloads.clear()
        one.now += 60


async def test_who_waits_has_the_room_once_a_wish_has_ended() -> None:
    one = One(200)
    await loaded(one, "a", "b")
    await one.management.set_wishes("a", WishChange(pinned=True))
    one.runtime.answer_at_once = False
    one.ask("b")  # stays in use
    await one.register("new")
    waiting = one.ask("new")
    await until(lambda: one.copies.waiting == 1)
    await one.management.set_wishes("a", WishChange(pinned=False))
    await until(lambda: one.runtime.unloads == ["a"])
    await until(lambda: len(one.runtime.running) == 2)
    assert not waiting.future.done()
    for call in one.runtime.running:
        call.reply.answer(b"done")


async def test_a_record_that_cannot_be_read_keeps_nothing() -> None:
    one = One(200)
    kept = await loaded(one, "a")
    await one.store.commit([], [Put(MODELS + "a", b"no record")])
    assert kept.keeping("a") is FREE
    assert kept.keeping("nobody") is FREE


# --- in a fleet


def peer(**fields: bool) -> InstanceRecord:
    return InstanceRecord(1, **fields)  # type: ignore[arg-type]


def others(many: OfMany) -> dict[str, Peer]:
    return {each.instance_id: each for each in many.peers.all()}


@pytest.mark.parametrize(
    ("state", "in_demand", "kept"),
    [
        pytest.param("there", True, FREE, id="another copy"),
        pytest.param("drains", True, RELUCTANT, id="the other one is leaving"),
        pytest.param("silent", True, RELUCTANT, id="the other one does not answer"),
        pytest.param("gone", True, RELUCTANT, id="the other one is no more"),
        pytest.param("coming", True, RELUCTANT, id="the other one is only coming"),
        pytest.param("none", True, RELUCTANT, id="the last copy"),
        pytest.param("none", False, FREE, id="the last copy of what nobody asks for"),
    ],
)
async def test_the_last_copy_of_what_is_in_demand_stays(
    state: str, in_demand: bool, kept: Keeping
) -> None:
    many = OfMany("other")
    judge = Kept(many.parts, many.view)
    _hold(many, "m", in_demand)
    record = ModelRecord("dummy", instance_ids={ME: 1}, loaded_in={ME: 2})
    if state != "none":
        holder = "vanished" if state == "gone" else "other"
        claimed = record.claimed(holder, 1)
        record = claimed if state == "coming" else claimed.loaded(holder, 2)
    there = others(many)["other"]
    there.reachable = state != "silent"
    there.record = replace(there.record, draining=state == "drains")
    await many.store.commit([], [Put(MODELS + "m", record.to_json())])
    assert judge.keeping("m") is kept
    pinned = replace(record, pinned=True)
    await many.store.commit([], [Put(MODELS + "m", pinned.to_json())])
    assert judge.keeping("m") is (FREE if state == "there" else NEVER)
    await many.close()


def _hold(many: OfMany, model_id: str, in_demand: bool) -> None:
    """A copy here, used lately or never."""
    now = many.clock()
    many.copies.admit(model_id, 100, now)
    many.copies.loaded(model_id, 100, 0.0, now)
    for _ in range(50 if in_demand else 0):
        many.copies.touch(model_id, now)
    many.copies.worth(model_id, now)  # the uses are counted when something is decided
