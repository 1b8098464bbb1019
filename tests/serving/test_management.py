"""Registering, listing, loading on purpose and explaining, on doors in memory."""

import asyncio

import pytest

from modelmesh.cache.decisions import Verdict
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Failure, MeshError
from modelmesh.registry.store import MODELS, Put
from modelmesh.serving.status import State
from tests.serving.fleet_of_one import One, until

RECORD = ModelRecord("dummy", "/a", "key")


async def test_registering_twice_is_idempotent_and_other_attributes_are_refused() -> None:
    one = One()
    first = await one.management.register("m", RECORD, False, False)
    again = await one.management.register("m", RECORD, False, False)
    assert (first.state, again.state) == (State.NOT_LOADED, State.NOT_LOADED)
    with pytest.raises(MeshError) as failed:
        await one.management.register("m", ModelRecord("dummy", "/b"), False, False)
    assert failed.value.failure.code is Code.ALREADY_EXISTS


@pytest.mark.parametrize(
    "record", [ModelRecord("unknown", "/a"), ModelRecord("dummy", "s3://bucket/a")]
)
async def test_what_can_never_work_is_refused_at_registration(record: ModelRecord) -> None:
    one = One()
    with pytest.raises(MeshError) as failed:
        await one.management.register("m", record, False, False)
    assert failed.value.failure.code is Code.INVALID_ARGUMENT
    assert (await one.management.status("m")).state is State.NOT_FOUND


async def test_a_record_that_cannot_be_read_has_a_status_that_says_so() -> None:
    one = One()
    await one.store.commit([], [Put(MODELS + "m", b"no json")])
    status = await one.management.status("m")
    assert status.state is State.UNKNOWN
    assert "cannot be read" in status.errors[0]


async def test_load_now_and_sync_wait_for_the_load() -> None:
    one = One()
    status = await one.management.register("m", RECORD, True, True)
    assert status.state is State.LOADED
    assert status.copies[0].location == "one"
    assert status.errors == ("warning: old scikit-learn",)


async def test_load_now_without_sync_answers_loading() -> None:
    one = One()
    one.runtime.at_once = False
    status = await one.management.register("m", RECORD, True, False)
    assert status.state is State.LOADING
    await until(lambda: "m" in one.runtime.gates)
    one.runtime.gates["m"].set_result(None)
    await until(lambda: one.copies.is_loaded("m"))


async def test_the_status_says_why_a_model_was_lost_until_it_is_loaded_again() -> None:
    one = One()
    await one.management.register("m", RECORD, True, True)
    one.runtime.held.discard("m")
    one.instance.model_lost("m", Failure(Code.INTERNAL, "the model crashed its host"))
    lost = await one.management.status("m")
    assert (lost.state, lost.errors) == (State.NOT_LOADED, ("the model crashed its host",))
    view = one.management.view("m")
    assert view is not None
    assert view.reason == "the model crashed its host"
    assert one.instance.ready("m").ready, "the next request would be served"
    again = await one.management.ensure_loaded("m", 0, True)
    assert (again.state, again.errors) == (State.LOADED, ("warning: old scikit-learn",))


async def test_a_failed_load_is_a_status_and_not_an_error() -> None:
    one = One()
    one.runtime.failing.add("m")
    status = await one.management.register("m", RECORD, True, True)
    assert status.state is State.LOADING_FAILED
    assert status.errors == ("not a model",)
    assert status.copies[0].state is State.LOADING_FAILED


async def test_an_operators_load_forgets_failures_and_raises() -> None:
    one = One()
    one.runtime.failing.add("m")
    await one.register("m")
    for _ in range(4):
        with pytest.raises(MeshError):
            await one.management.load("m")
    assert len(one.runtime.loads) == 4
    one.runtime.failing.clear()
    await one.management.load("m")
    assert one.copies.is_loaded("m")


async def test_unload_waits_and_says_whether_there_was_a_copy() -> None:
    one = One()
    await one.register("m")
    assert not await one.management.unload("m")
    await one.answer("m")
    assert await one.management.unload("m")
    assert one.runtime.held == set()
    assert (await one.management.status("m")).state is State.NOT_LOADED


async def test_unregister_is_idempotent_and_unloads() -> None:
    one = One()
    await one.register("m")
    await one.answer("m")
    await one.management.unregister("m")
    await one.management.unregister("m")
    await until(lambda: one.runtime.held == set())
    assert (await one.management.status("m")).state is State.NOT_FOUND


async def test_listing_pages_in_order() -> None:
    one = One()
    await one.register(*(f"m{n:02}" for n in range(25)), "other")
    await one.answer("m03")
    seen, after = [], ""
    while True:
        views, after = one.management.page("m", after, 10)
        seen += views
        if not after:
            break
    assert [view.model_id for view in seen] == [f"m{n:02}" for n in range(25)]
    loaded = [view for view in seen if view.state is State.LOADED]
    assert [(v.model_id, v.tier, v.size_bytes) for v in loaded] == [("m03", "shared", 100)]


async def test_bulk_registration_fails_item_by_item() -> None:
    one = One()
    await one.register("there")
    items = [
        ("new", RECORD),
        ("there", ModelRecord("dummy", "/elsewhere")),
        ("bad", ModelRecord("nothing", "/a")),
    ]
    results = await one.management.register_many(items)
    codes = [failure and failure.code for failure in results]
    assert codes == [None, Code.ALREADY_EXISTS, Code.INVALID_ARGUMENT]


async def test_explain_says_what_would_go_and_then_exactly_that_goes() -> None:
    one = One(capacity_bytes=300)
    one.runtime.load_s = 0.0
    await one.register("a", "b", "c", "d")
    for name in ("a", "b", "b", "c", "c"):
        await one.answer(name)
    explained = await one.management.explain("d")
    decision = explained.explanation.decision
    assert decision.verdict in (Verdict.LOAD, Verdict.WAIT)
    predicted = [c.model_id for c in explained.explanation.order if c.fate.value == "evict"]
    await one.answer("d")
    assert one.runtime.unloads == predicted == ["a"]
    assert explained.capacity_bytes == 300


async def test_asking_for_the_status_is_no_use_of_the_model() -> None:
    one = One()
    await one.register("m")
    await one.answer("m")
    before = one.copies.get("m")
    assert before is not None
    used = before.last_used
    await one.management.status("m")
    one.management.page("", "", 10)
    await asyncio.sleep(0)
    assert before.last_used == used
    assert one.runtime.loads == ["m"]


async def test_explain_tells_of_failures_that_a_request_would_meet() -> None:
    one = One()
    await one.register("m")
    one.runtime.failing.add("m")
    for _ in range(3):
        with pytest.raises(MeshError):
            await one.answer("m")
    decision = (await one.management.explain("m")).explanation.decision
    assert decision.verdict is Verdict.REFUSE
    assert decision.reason == "loads of it have failed: not a model"
