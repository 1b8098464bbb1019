"""Vmodels in the registry: one transaction each, over every store with tables."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest

from modelmesh.domain.records import ModelRecord
from modelmesh.domain.vmodels import VModelRecord
from modelmesh.errors import Code, Fault, MeshError
from modelmesh.policy.transition import NOWHERE, SetVModel, Standing
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.models import Models
from modelmesh.registry.store import (
    MODELS,
    VMODELS,
    Change,
    Committed,
    Compare,
    Put,
)
from modelmesh.registry.vmodels import ATTEMPTS, VModels, fresh_look
from tests.registry.doors import Door, Scenario
from tests.registry.doors import scenario as over_store

NOW_MS = 1_800_000_000_000
A = ModelRecord("dummy", "/a", last_used_ms=NOW_MS)
B = ModelRecord("dummy", "/b", last_used_ms=5)
LOADED = Standing(loaded=1)


class Room:
    """Vmodels and models over one store; `standings` say where copies are."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.models = Models(store)
        self.vmodels = VModels(store)
        self.standings: dict[str, Standing] = {}

    def stand(self, model_id: str, _record: ModelRecord) -> Standing:
        return self.standings.get(model_id, NOWHERE)

    async def set(self, target: str, vmodel_id: str = "v", **flags: Any) -> Any:
        request = SetVModel(vmodel_id, target, **flags)
        return await self.vmodels.set(request, self.stand, NOW_MS)

    def refs(self) -> dict[str, int]:
        found = {name: self.models.get(name) for name in self.models.names()}
        return {name: record.refs for name, record in found.items() if record is not None}


def scenario(test: Callable[[Room], Coroutine[Any, Any, None]]) -> Callable[[Door], None]:
    """Run once over the vmodels of each implementation of the store, with models a and b."""

    async def over_rooms(store: Any, door: Door) -> None:
        room = Room(store)
        await room.models.register("a", A)
        await room.models.register("b", B)
        await test(room)

    over_rooms.__name__ = test.__name__
    over_rooms.__doc__ = test.__doc__
    wrapped: Scenario = over_rooms
    return over_store(wrapped)


async def refusal(work: Coroutine[Any, Any, Any]) -> Code:
    with pytest.raises(MeshError) as caught:
        await work
    return caught.value.failure.code


@scenario
async def test_a_vmodel_comes_moves_and_goes(room: Room) -> None:
    told: list[list[str]] = []
    stop = room.vmodels.subscribe(told.append)
    assert room.vmodels.get("v") is None
    await room.set("a", owner="me")
    assert room.vmodels.get("v") == VModelRecord("a", "a", "me")
    assert room.vmodels.get("v") is room.vmodels.get("v")  # decoded once
    assert "v" in room.vmodels
    assert len(room.vmodels) == 1
    assert room.refs() == {"a": 1, "b": 0}
    room.standings = {"a": LOADED}
    assert (await room.set("b")).moving
    assert room.vmodels.get("v") == VModelRecord("a", "b", "me")
    assert room.refs() == {"a": 1, "b": 1}
    assert (await room.vmodels.advance("v", room.stand)).load == "b"
    room.standings["b"] = LOADED
    assert not (await room.vmodels.advance("v", room.stand)).moving
    assert room.vmodels.get("v") == VModelRecord("b", "b", "me")
    assert room.refs() == {"a": 0, "b": 1}
    await room.vmodels.delete("v", "you")
    assert "v" in room.vmodels
    await room.vmodels.delete("v", "")
    assert "v" not in room.vmodels
    assert room.refs() == {"a": 0, "b": 0}
    assert told == [["v"]] * 4
    stop()
    await room.set("a")
    assert told == [["v"]] * 4


@scenario
async def test_a_model_with_a_vmodel_cannot_be_unregistered(room: Room) -> None:
    await room.set("a")
    assert await refusal(room.models.unregister("a")) is Code.FAILED_PRECONDITION
    await room.vmodels.delete("v", "")
    assert await room.models.unregister("a")


@scenario
async def test_a_target_is_registered_and_removed_with_its_vmodel(room: Room) -> None:
    new = ModelRecord("dummy", "/new")
    await room.set("new", info=new, auto_delete=True)
    assert room.models.get("new") == replace(new, refs=1, auto_delete=True)
    await room.set("b", force=True)
    assert "new" not in room.models
    assert room.refs() == {"a": 0, "b": 1}


@scenario
async def test_what_is_refused_changes_nothing(room: Room) -> None:
    await room.set("a", owner="me")
    revision = room.store.table(VMODELS).revision
    assert await refusal(room.set("absent")) is Code.NOT_FOUND
    assert await refusal(room.set("b", expected_target="c")) is Code.FAILED_PRECONDITION
    assert await refusal(room.set("b", owner="you")) is Code.ALREADY_EXISTS
    assert await refusal(room.set("b", "w", update_only=True)) is Code.NOT_FOUND
    assert await refusal(room.set("b", "")) is Code.INVALID_ARGUMENT
    assert not (await room.set("a")).writes
    assert not (await room.vmodels.advance("v", room.stand)).writes
    assert not (await room.vmodels.advance("absent", room.stand)).writes
    assert room.store.table(VMODELS).revision == revision


@scenario
async def test_of_many_that_expect_one_target_one_wins(room: Room) -> None:
    await room.set("a")
    for n in range(10):
        await room.models.register(f"t{n}", ModelRecord("dummy", f"/{n}"))
    outcomes = await asyncio.gather(
        *(room.set(f"t{n}", expected_target="a") for n in range(10)), return_exceptions=True
    )
    failed = [each for each in outcomes if isinstance(each, MeshError)]
    assert [each.failure.code for each in failed] == [Code.FAILED_PRECONDITION] * 9
    refs = room.refs()
    assert sorted(refs[f"t{n}"] for n in range(10)) == [0] * 9 + [1]
    assert refs["a"] == 1  # it was used lately: it answers until the new one can


@scenario
async def test_names_in_order(room: Room) -> None:
    for name in ("w", "v", "va", "🦊"):
        await room.set("a", name)
    assert list(room.vmodels.names()) == ["v", "va", "w", "🦊"]
    assert list(room.vmodels.names("v", after="v")) == ["va"]
    assert room.refs()["a"] == 4


@scenario
async def test_an_unreadable_record_is_said_to_be_and_can_be_deleted(room: Room) -> None:
    await room.store.commit([], [Put(VMODELS + "v", b"[]"), Put(MODELS + "a", b"[]")])
    with pytest.raises(MeshError) as caught:
        room.vmodels.get("v")
    assert caught.value.failure.fault is Fault.STORE
    assert await refusal(room.set("b")) is Code.DATA_LOSS
    assert await refusal(room.set("a", "w")) is Code.DATA_LOSS
    await room.vmodels.delete("v", "anybody")
    assert "v" not in room.vmodels


# --- contention


class Contended(MemoryStore):
    """A store in which somebody else is always faster with a given key."""

    def __init__(self, key: str, value: bytes, rounds: int) -> None:
        super().__init__()
        self.rounds = 0
        self._faster = (Put(key, value), rounds)

    async def commit(self, compares: Sequence[Compare], changes: Sequence[Change]) -> Committed:
        put, rounds = self._faster
        if any(change.key.startswith(VMODELS) for change in changes) and self.rounds < rounds:
            self.rounds += 1
            await super().commit([], [put])
        return await super().commit(compares, changes)


@pytest.mark.parametrize("key", [VMODELS + "v", MODELS + "a", MODELS + "b"])
@pytest.mark.parametrize("rounds", [1, ATTEMPTS - 1, ATTEMPTS])
async def test_every_record_looked_at_guards_the_change(key: str, rounds: int) -> None:
    vmodel, model = VModelRecord("a", "a"), ModelRecord("dummy", "/x", refs=1)
    value = vmodel.to_json() if key.startswith(VMODELS) else model.to_json()
    async with Contended(key, value, rounds) as store:
        await store.commit([], [Put(MODELS + each, model.to_json()) for each in "ab"])
        await MemoryStore.commit(store, [], [Put(VMODELS + "v", vmodel.to_json())])
        room = Room(store)
        if rounds == ATTEMPTS:
            assert await refusal(room.set("b", force=True)) is Code.ABORTED
        else:
            await room.set("b", force=True)
            assert room.vmodels.get("v") == VModelRecord("b", "b")
        assert store.rounds == rounds, "nobody was faster: this shows nothing"


async def test_a_target_that_was_absent_guards_the_change_too() -> None:
    value = ModelRecord("dummy", "/somebody else's").to_json()
    async with Contended(MODELS + "new", value, 1) as store:
        room = Room(store)
        info = ModelRecord("dummy", "/mine")
        assert await refusal(room.set("new", info=info)) is Code.ALREADY_EXISTS
        assert store.rounds == 1
        assert "v" not in room.vmodels


# --- reading what the table is late with


async def test_a_look_reads_the_vmodel_and_the_model_that_answers_for_it() -> None:
    async with MemoryStore() as store:
        reads: list[str] = []

        async def look(key: str) -> None:
            reads.append(key)

        vmodels = VModels(store, look)
        assert await vmodels.look("v") is None
        assert reads == [VMODELS + "v"]
        await store.commit([], [Put(VMODELS + "v", VModelRecord("gone", "b").to_json())])
        assert await vmodels.look("v") == VModelRecord("gone", "b")
        assert reads[1:] == [VMODELS + "v", MODELS + "gone"]


async def test_who_asks_at_one_time_shares_a_read_and_a_silent_store_is_not_asked() -> None:
    class Counting(MemoryStore):
        reads = 0

        async def get(self, key: str) -> Any:
            self.reads += 1
            await asyncio.sleep(0)
            return await super().get(key)

    async with Counting() as store:
        answers = [True]
        look = fresh_look(store, lambda: answers[0])
        await asyncio.gather(*(look(VMODELS + "v") for _ in range(50)))
        await look(VMODELS + "v")  # there was none, a moment ago
        assert store.reads == 1
        await store.commit([], [Put(VMODELS + "v", VModelRecord("a", "a").to_json())])
        await asyncio.gather(*(look(VMODELS + "v") for _ in range(50)))
        assert store.reads == 2
        await look(VMODELS + "v")  # it may have moved within the moment
        assert store.reads == 3
        answers[0] = False
        await look(VMODELS + "v")
        await look(VMODELS + "w")
        assert store.reads == 3
