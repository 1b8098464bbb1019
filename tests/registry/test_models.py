"""Registered models: what registering, changing and removing one does, and to whom it is told."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.registry.keyspace import COMMIT_BYTES
from modelmesh.registry.local import unavailable
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.models import ATTEMPTS, BULK_MODELS, ModelChange, Models, Registration
from modelmesh.registry.store import MODELS, Change, Committed, Compare, Put
from tests.registry.doors import Door, Scenario, settle
from tests.registry.doors import scenario as over_store

IRIS = ModelRecord("sklearn", path="/models/iris", key='{"bucket":"b"}', last_used_ms=5)


def scenario(test: Callable[[Models, Any], Coroutine[Any, Any, None]]) -> Callable[[Door], None]:
    """Run once over the models of each implementation of the store."""

    async def over_models(store: Any, door: Door) -> None:
        await test(Models(store), store)

    over_models.__name__ = test.__name__
    over_models.__doc__ = test.__doc__
    wrapped: Scenario = over_models
    return over_store(wrapped)


@scenario
async def test_a_model_is_registered_once(models: Models, store: MemoryStore) -> None:
    assert models.get("iris") is None
    assert await models.register("iris", IRIS) is Registration.CREATED
    assert models.get("iris") == IRIS
    assert "iris" in models
    assert len(models) == 1
    same = ModelRecord("sklearn", path=IRIS.path, key=IRIS.key, last_used_ms=99, refs=3)
    assert await models.register("iris", same) is Registration.SAME
    for other in (
        ModelRecord("dummy", IRIS.path, IRIS.key),
        ModelRecord("sklearn", "/elsewhere", IRIS.key),
        ModelRecord("sklearn", IRIS.path),
    ):
        assert await models.register("iris", other) is Registration.DIFFERENT
    assert models.get("iris") == IRIS
    assert table_revision(store) == 1


@scenario
async def test_those_that_register_together_share_commits_and_nothing_else(
    models: Models, store: MemoryStore
) -> None:
    await models.register("old", IRIS)
    before = table_revision(store)
    huge = ModelRecord("sklearn", path="x" * (COMMIT_BYTES + 1))
    other = ModelRecord("dummy")
    given = [("new", IRIS), ("old", IRIS), ("old", other), ("new", other), ("huge", huge)]
    given += [("", IRIS), *((f"m{n}", IRIS) for n in range(20))]
    outcomes = await asyncio.gather(
        *(models.register(*each) for each in given), return_exceptions=True
    )
    assert outcomes[:4] == [
        Registration.CREATED,
        Registration.SAME,
        Registration.DIFFERENT,
        Registration.DIFFERENT,
    ]
    assert all(isinstance(each, MeshError) for each in outcomes[4:6])
    assert outcomes[6:] == [Registration.CREATED] * 20
    # The huge one is refused on its own, so what comes before and after it are two commits.
    assert table_revision(store) <= before + 2


def table_revision(store: MemoryStore) -> int:
    return store.table(MODELS).revision


@scenario
async def test_of_many_that_register_one_creates(models: Models, store: MemoryStore) -> None:
    outcomes = await asyncio.gather(*(models.register("iris", IRIS) for _ in range(20)))
    assert sorted(outcomes) == [Registration.CREATED] + [Registration.SAME] * 19


@scenario
async def test_a_model_is_unregistered(models: Models, store: MemoryStore) -> None:
    await models.register("iris", IRIS)
    assert await models.unregister("iris") is True
    assert await models.unregister("iris") is False
    assert await models.unregister("") is False
    assert models.get("iris") is None
    assert len(models) == 0
    assert await models.register("iris", ModelRecord("dummy")) is Registration.CREATED
    assert models.get("iris") == ModelRecord("dummy")


@scenario
async def test_a_model_with_referents_stays(models: Models, store: MemoryStore) -> None:
    await models.register("iris", ModelRecord("sklearn", refs=1))
    with pytest.raises(MeshError) as caught:
        await models.unregister("iris")
    assert caught.value.failure.code is Code.FAILED_PRECONDITION
    assert str(caught.value) == "Model iris has referents"
    assert "iris" in models
    await models.update("iris", lambda record: ModelRecord(record.type))
    assert await models.unregister("iris")


@scenario
async def test_update_keeps_what_others_wrote(models: Models, store: MemoryStore) -> None:
    stored = b'{"type":"sklearn","lu":5,"instanceIds":{"a":1}}'
    await store.commit([], [Put(MODELS + "iris", stored)])
    assert await models.touch("iris", 7)
    value = store.table(MODELS).get("iris")
    assert value is not None
    assert json.loads(value.value) == {"type": "sklearn", "lu": 7, "instanceIds": {"a": 1}}


@scenario
async def test_touch_only_moves_forward_and_beyond_the_slack(
    models: Models, store: MemoryStore
) -> None:
    await models.register("iris", IRIS)
    revision = table_revision(store)
    assert await models.touch("iris", 5)
    assert await models.touch("iris", 15, slack_ms=10)
    assert table_revision(store) == revision
    assert models.get("iris") == IRIS
    assert await models.touch("iris", 16, slack_ms=10)
    assert (models.get("iris") or IRIS).last_used_ms == 16
    assert not await models.touch("absent", 1)
    assert await models.update("absent", lambda record: record) is None


@scenario
async def test_concurrent_updates_all_count(models: Models, store: MemoryStore) -> None:
    await models.register("iris", ModelRecord("sklearn"))

    def one_more(record: ModelRecord) -> ModelRecord:
        return ModelRecord(record.type, refs=record.refs + 1)

    await asyncio.gather(*(models.update("iris", one_more) for _ in range(ATTEMPTS)))
    assert (models.get("iris") or IRIS).refs == ATTEMPTS


@scenario
async def test_listeners_hear_of_models_by_their_id(models: Models, store: MemoryStore) -> None:
    told: list[ModelChange] = []
    stop = models.subscribe(told.extend)
    await models.register("a/b", IRIS)
    await models.touch("a/b", 99)
    await store.commit([], [Put("vmodels/x", b"{}")])
    await models.unregister("a/b")
    assert told == [
        ModelChange("a/b", exists=True, created=True),
        ModelChange("a/b", exists=True, created=False),
        ModelChange("a/b", exists=False, created=False),
    ]
    stop()
    await models.register("c", IRIS)
    assert len(told) == 3


@scenario
async def test_names_are_paged(models: Models, store: MemoryStore) -> None:
    for name in ("b", "a", "ab", "🦊"):
        await models.register(name, IRIS)
    assert list(models.names()) == ["a", "ab", "b", "🦊"]
    assert list(models.names("a", after="a")) == ["ab"]


@scenario
async def test_a_record_is_decoded_once_while_it_is_asked_for(
    models: Models, store: MemoryStore
) -> None:
    await models.register("iris", IRIS)
    assert models.get("iris") is models.get("iris")
    few = Models(store, decoded_records=1)
    first = few.get("iris")
    await models.register("other", IRIS)
    few.get("other")
    assert few.get("iris") is not first
    assert few.get("iris") == first


@scenario
async def test_an_unreadable_record_is_said_to_be_and_can_be_removed(
    models: Models, store: MemoryStore
) -> None:
    await store.commit([], [Put(MODELS + "iris", b"[]")])
    for work in (models.register("iris", IRIS), models.touch("iris", 1)):
        with pytest.raises(MeshError) as caught:
            await work
        assert caught.value.failure.code is Code.DATA_LOSS
        assert caught.value.failure.fault is Fault.STORE
    failures = []
    for _ in range(2):
        with pytest.raises(MeshError) as caught:
            models.get("iris")
        failures.append(caught.value.failure)
    assert failures[0] is failures[1], "it is decoded once"
    assert await models.unregister("iris")


# --- bulk


@scenario
async def test_a_bulk_answers_each_item(models: Models, store: MemoryStore) -> None:
    await models.register("same", IRIS)
    await models.register("different", ModelRecord("dummy"))
    outcomes = await models.register_many(
        [
            ("new", IRIS),
            ("same", IRIS),
            ("", IRIS),
            ("different", IRIS),
            ("half\ud800", IRIS),
            ("new", IRIS),
            ("new", ModelRecord("dummy")),
            ("large", ModelRecord("dummy", key="x" * (1 << 20))),
            ("last", IRIS),
        ]
    )
    codes = [each.code if isinstance(each, Failure) else each for each in outcomes]
    assert codes == [
        Registration.CREATED,
        Registration.SAME,
        Code.INVALID_ARGUMENT,
        Registration.DIFFERENT,
        Code.INVALID_ARGUMENT,
        Registration.SAME,
        Registration.DIFFERENT,
        Code.INVALID_ARGUMENT,
        Registration.CREATED,
    ]
    assert list(models.names()) == ["different", "last", "new", "same"]


@scenario
async def test_a_bulk_takes_few_commits(models: Models, store: MemoryStore) -> None:
    items = [(f"m{n:04}", ModelRecord("dummy", key=str(n))) for n in range(3 * BULK_MODELS)]
    assert set(await models.register_many(items)) == {Registration.CREATED}
    assert len(models) == 3 * BULK_MODELS
    assert table_revision(store) == 3
    assert set(await models.register_many(items)) == {Registration.SAME}


@pytest.mark.parametrize("model_id", ["", "a\ud800"])
async def test_an_id_that_cannot_be_a_key_is_refused(model_id: str) -> None:
    async with MemoryStore() as store:
        models = Models(store)
        with pytest.raises(MeshError) as caught:
            await models.register(model_id, IRIS)
        assert caught.value.failure.code is Code.INVALID_ARGUMENT
        assert models.get(model_id) is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c", ""]), st.sampled_from(["x", "y"])), max_size=12
    ),
    st.booleans(),
)
def test_a_bulk_is_like_its_items_one_by_one(items: list[tuple[str, str]], before: bool) -> None:
    registrations = [(name, ModelRecord(kind)) for name, kind in items]

    async def compare() -> None:
        bulk, single = Models(MemoryStore()), Models(MemoryStore())
        one_by_one: list[Registration | Code] = []
        for models in (bulk, single):
            if before:
                await models.register("a", ModelRecord("x"))
        for name, record in registrations:
            try:
                one_by_one.append(await single.register(name, record))
            except MeshError as error:
                one_by_one.append(error.failure.code)
        outcomes = await bulk.register_many(registrations)
        assert [each.code if isinstance(each, Failure) else each for each in outcomes] == one_by_one
        assert [*bulk.names()] == [*single.names()]

    asyncio.run(compare())


# --- contention


class Contended(MemoryStore):
    """A store in which somebody else is always faster with a given key."""

    def __init__(self, key: str, rounds: int) -> None:
        super().__init__()
        self._key = key
        self._rounds = rounds

    async def commit(self, compares: Sequence[Compare], changes: Sequence[Change]) -> Committed:
        if compares and self._rounds:
            self._rounds -= 1
            value = ModelRecord("dummy", last_used_ms=self._rounds + 1).to_json()
            await super().commit([], [Put(self._key, value)])
        return await super().commit(compares, changes)


@pytest.mark.parametrize("rounds", [0, 1, ATTEMPTS - 1, ATTEMPTS])
async def test_a_change_is_tried_again_and_given_up_in_time(rounds: int) -> None:
    async with Contended(MODELS + "busy", rounds) as store:
        await store.commit([], [Put(MODELS + "busy", ModelRecord("dummy").to_json())])
        models = Models(store)
        if rounds < ATTEMPTS:
            assert await models.unregister("busy")
            return
        with pytest.raises(MeshError) as caught:
            await models.unregister("busy")
        assert caught.value.failure.code is Code.ABORTED
        assert caught.value.failure.retry_after_s is not None


# --- pace


class Paced(MemoryStore):
    """A store whose commits wait for the test."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[asyncio.Future[None]] = []

    async def commit(self, compares: Sequence[Compare], changes: Sequence[Change]) -> Committed:
        go: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(go)
        try:
            await go
        finally:
            self.waiting.remove(go)
        return await super().commit(compares, changes)


async def test_two_bulks_are_under_way_at_a_time_and_a_failure_is_of_its_own_bulk() -> None:
    items = [(f"m{n:04}", IRIS) for n in range(5 * BULK_MODELS)]
    async with Paced() as store:
        models = Models(store)
        registering = asyncio.create_task(models.register_many(items))
        await settle()
        assert len(store.waiting) == 2
        store.waiting[1].set_exception(unavailable("not now"))
        while not registering.done():
            await settle()
            assert len(store.waiting) <= 2
            for go in store.waiting[:1]:
                go.set_result(None)
        outcomes = await registering
        failed = [n for n, each in enumerate(outcomes) if isinstance(each, Failure)]
        assert failed == [*range(BULK_MODELS, 2 * BULK_MODELS)]
        assert len(models) == 4 * BULK_MODELS


async def test_nothing_goes_on_for_a_caller_who_left() -> None:
    async with Paced() as store:
        models = Models(store)
        items = [(f"m{n:04}", IRIS) for n in range(5 * BULK_MODELS)]
        registering = asyncio.create_task(models.register_many(items))
        await settle()
        assert len(store.waiting) == 2
        registering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await registering
        await settle()
        assert store.waiting == []
        assert len(models) == 0
