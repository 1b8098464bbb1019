"""Vmodels of a daemon alone: set, pushed on, waited for, and names that are resolved."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from modelmesh.domain.records import ModelRecord
from modelmesh.domain.vmodels import VModelRecord
from modelmesh.errors import Code, Failure, Fault, MeshError, not_found
from modelmesh.policy.transition import SetVModel, VModelState
from modelmesh.registry.store import MODELS, VMODELS, Delete, Put
from modelmesh.registry.vmodels import VModels
from modelmesh.serving.named import Named
from modelmesh.serving.standing import Here
from modelmesh.serving.status import State
from modelmesh.serving.vmodels import SYNC_S, VModelManagement, VModelStatus
from modelmesh.simulation.clock import run
from modelmesh.tasks.transitions import Transitions
from modelmesh.wire.awaiting import FutureReply
from modelmesh.wire.kinds import V1_PREDICT
from modelmesh.wire.transport import Call
from tests.serving.fleet_of_one import One, until


class House(One):
    """A daemon alone, with its vmodels; `look` is what reading the store once more brings."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.looks: list[str] = []
        self.when_looked: Callable[[str], Awaitable[object]] | None = None
        self.store_answers = True
        self.registry = VModels(self.store, self._look, lambda: self.store_answers)
        copies = Here(self.parts, self.management)
        self.rooms = VModelManagement(self.registry, self.management, copies, lambda: 1_000_000)
        self.named = Named(self.instance, self.models, self.registry)
        self.leads = True
        self.transitions = Transitions(
            self.registry, self.models, self.rooms.push, lambda: self.leads, self.clock
        )

    async def _look(self, key: str) -> None:
        self.looks.append(key)
        if self.when_looked is not None:
            await self.when_looked(key)

    async def set(self, target: str, vmodel_id: str = "v", **flags: Any) -> VModelStatus:
        flags.setdefault("info", ModelRecord("dummy", f"/{target}", last_used_ms=1_000_000))
        return await self.rooms.set_vmodel(SetVModel(vmodel_id, target, **flags))

    async def ask_by(self, how: str, name: str) -> str:
        reply = FutureReply()
        getattr(self.named, how)(name, Call(V1_PREDICT, b"x", reply, ()))
        (answer,) = await asyncio.wait_for(reply.future, 5)
        return bytes(answer).decode()


async def refused(work: Awaitable[Any]) -> Failure:
    with pytest.raises(MeshError) as caught:
        await work
    return caught.value.failure


# --- set, wait, status


async def test_a_settled_vmodel_loads_as_asked() -> None:
    house = House()
    said = await house.set("a")
    assert (said.state, said.active_id, said.target) == (VModelState.DEFINED, "a", None)
    assert not house.runtime.loads
    said = await house.set("a", sync=True)
    assert said.active is not None
    assert said.active.state is State.LOADED


async def test_what_no_runtime_can_load_is_refused_before_it_is_written() -> None:
    house = House()
    failure = await refused(house.set("a", info=ModelRecord("unknown")))
    assert failure.code is Code.INVALID_ARGUMENT
    assert not len(house.registry)


async def test_sync_waits_for_the_transition_and_no_longer_than_four_minutes() -> None:
    house = House(runtime=None)
    house.transitions.start()
    await house.set("a", sync=True)
    assert (await house.set("b", sync=True)).active_id == "b"
    house.runtime.at_once = False
    coming = asyncio.ensure_future(house.set("c", sync=True))
    await until(lambda: "c" in house.runtime.gates)
    assert not coming.done()
    assert (await house.set("b", update_only=True)).state is VModelState.DEFINED
    assert (await asyncio.wait_for(coming, 5)).target_id == "b"  # somebody wanted another one
    await house.transitions.close()


def test_sync_ends_after_its_bound() -> None:
    async def main() -> None:
        house = House()
        house.leads = False
        await house.set("a", sync=True)
        loop = asyncio.get_running_loop()
        start = loop.time()
        said = await house.set("b", sync=True)
        assert said.state is VModelState.TRANSITIONING
        assert loop.time() - start == pytest.approx(SYNC_S)

    run(main())


# --- driven


def test_one_that_failed_is_tried_again_in_time_and_not_all_the_time() -> None:
    async def main() -> None:
        house = House()
        house.transitions.start()
        await house.set("a", sync=True)
        house.runtime.failing = {"b"}
        said = await house.set("b", sync=True)
        assert said.state is VModelState.TRANSITION_FAILED
        assert house.runtime.loads.count("b") == 1
        await asyncio.sleep(1200)
        tried = house.runtime.loads.count("b")
        assert 2 <= tried <= 8  # three in a quarter of an hour, as for requests
        house.runtime.failing = set()
        await asyncio.sleep(1200)
        assert house.registry.get("v") == VModelRecord("b", "b")
        assert house.transitions.moving == 0
        await house.transitions.close()

    run(main())


def test_what_was_on_its_way_before_the_start_is_pushed_on() -> None:
    async def main() -> None:
        house = House()
        await house.set("a", sync=True)
        await house.set("b")
        house.transitions.start()
        await asyncio.sleep(1)
        assert house.registry.get("v") == VModelRecord("b", "b")
        await house.transitions.close()

    run(main())


def test_only_who_leads_pushes() -> None:
    async def main() -> None:
        house = House()
        house.leads = False
        house.transitions.start()
        await house.set("a", sync=True)
        await house.set("b")
        await asyncio.sleep(60)
        assert house.transitions.moving == 1
        house.leads = True
        house.transitions.wake()
        await asyncio.sleep(1)
        assert house.transitions.moving == 0
        await house.transitions.close()

    run(main())


def test_pushes_are_bounded_and_another_target_ends_one() -> None:
    async def main() -> None:
        running: dict[str, int] = {}
        most = [0]
        house = House()
        gate = asyncio.Event()

        async def push(vmodel_id: str) -> bool:
            running[vmodel_id] = running.get(vmodel_id, 0) + 1
            most[0] = max(most[0], len(running))
            try:
                await gate.wait()
            finally:
                del running[vmodel_id]
            return True

        transitions = Transitions(house.registry, house.models, push, lambda: True, house.clock)
        moving = VModelRecord("a", "b").to_json()
        puts = [Put(f"{VMODELS}v{n}", moving) for n in range(100)]
        await house.store.commit([], puts)
        transitions.start()
        await asyncio.sleep(1)
        assert len(running) == 64
        first = next(iter(running))
        await house.store.commit([], [Put(VMODELS + first, VModelRecord("a", "c").to_json())])
        await asyncio.sleep(0.001)
        assert first not in running
        gate.set()
        await asyncio.sleep(6)
        assert most[0] == 64
        await transitions.close()

    run(main())


def test_a_push_that_breaks_or_is_refused_pauses_and_goes_on() -> None:
    async def main() -> None:
        house = House()
        pushes: list[float] = []

        async def push(vmodel_id: str) -> bool:
            pushes.append(house.clock())
            if len(pushes) % 2:
                raise not_found("the store is away")
            return False

        transitions = Transitions(house.registry, house.models, push, lambda: True, house.clock)
        transitions.start()
        await house.store.commit([], [Put(VMODELS + "v", VModelRecord("a", "b").to_json())])
        await asyncio.sleep(600)
        assert 8 <= len(pushes) <= 20
        pauses = [round(after - before, 1) for before, after in pairwise(pushes)]
        assert pauses[:5] == [1.0, 2.0, 4.0, 8.0, 16.0]
        assert max(pauses) == pauses[-1] == 60.0
        # Whatever happens to the target, the pause holds; a new wish of the vmodel's ends it.
        count = len(pushes)
        await house.models.register("b", ModelRecord("dummy"))
        await asyncio.sleep(0.5)
        assert len(pushes) == count
        await house.store.commit([], [Put(VMODELS + "v", VModelRecord("a", "c").to_json())])
        await asyncio.sleep(0.5)
        assert len(pushes) == count + 1
        await transitions.close()

    run(main())


# --- names


async def test_who_answers_to_a_name() -> None:
    house = House()
    await house.register("m", "v")
    await house.set("a", "v")
    house.looks.clear()
    assert await house.ask_by("infer_vmodel", "v") == "a"
    assert await house.ask_by("infer_named", "v") == "a"  # though a model has the name too
    assert await house.ask_by("infer_named", "m") == "m"
    assert await house.ask_by("infer", "v") == "v"
    assert not house.looks
    assert (house.named.resolve("v"), house.named.resolve("m")) == ("a", "")
    assert house.named.ready("v").ready
    assert house.named.ready("m").known
    house.named.draining = True
    assert house.instance.draining


@pytest.mark.parametrize("how", ["infer_vmodel", "infer_named"])
async def test_a_name_that_nobody_knows_is_looked_for_and_not_found(how: str) -> None:
    house = House()
    failure = await refused(house.ask_by(how, "v"))
    assert failure.code is Code.NOT_FOUND
    assert failure.message == ("vmodel not found" if how == "infer_vmodel" else "model not found")
    assert 0 < len(house.looks) <= 2


async def test_a_name_that_nobody_knows_here_may_be_known_to_a_silent_store() -> None:
    house = House()
    house.store_answers = False
    for work in (house.ask_by("infer_vmodel", "v"), house.rooms.vmodel_status("v", "")):
        failure = await refused(work)
        assert (failure.code, failure.fault) == (Code.UNAVAILABLE, Fault.STORE)
        assert failure.retry_after_s


async def test_a_vmodel_that_is_made_elsewhere_is_found() -> None:
    house = House()
    await house.register("a")

    async def appear(key: str) -> None:
        await house.store.commit([], [Put(VMODELS + "v", VModelRecord("a", "a").to_json())])

    house.when_looked = appear
    assert await house.ask_by("infer_named", "v") == "a"


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_model_that_goes_while_it_is_asked_is_left_for_the_one_that_answers(
    at_once: bool,
) -> None:
    house = House()
    await house.register("a", "b")
    moved = VModelRecord("b", "b").to_json()
    await house.store.commit([], [Put(VMODELS + "v", VModelRecord("a", "a").to_json())])

    async def moves(key: str) -> None:
        await house.store.commit([], [Put(VMODELS + "v", moved)])

    house.when_looked = moves
    if at_once:
        await house.store.commit([], [Delete(MODELS + "a")])
        assert await house.ask_by("infer_vmodel", "v") == "b"
        return
    house.runtime.at_once = False
    asked = asyncio.ensure_future(house.ask_by("infer_vmodel", "v"))
    await until(lambda: "a" in house.runtime.gates)
    await house.store.commit([], [Delete(MODELS + "a")])
    house.runtime.at_once = True
    assert await asked == "b"


async def test_the_target_answers_where_the_active_model_is_gone_for_good() -> None:
    house = House()
    await house.register("b")
    await house.store.commit([], [Put(VMODELS + "v", VModelRecord("gone", "b").to_json())])
    assert await house.ask_by("infer_vmodel", "v") == "b"
    await house.store.commit([], [Delete(MODELS + "b")])
    assert (await refused(house.ask_by("infer_vmodel", "v"))).code is Code.NOT_FOUND


async def test_a_model_that_says_not_found_is_believed() -> None:
    house = House()
    house.runtime.answer_at_once = False
    await house.set("a", sync=True)
    house.looks.clear()
    asked = asyncio.ensure_future(house.ask_by("infer_vmodel", "v"))
    await until(lambda: bool(house.runtime.running))
    failure = replace(not_found("no such customer").failure, executed=True)
    house.runtime.running[0].reply.finish(failure)
    assert await refused(asked) == failure
    assert not house.looks


async def test_a_vmodel_that_cannot_be_read_fails_only_its_own_calls() -> None:
    house = House()
    await house.register("m")
    await house.store.commit([], [Put(VMODELS + "v", b"[]")])
    assert (await refused(house.ask_by("infer_vmodel", "v"))).code is Code.DATA_LOSS
    assert await house.ask_by("infer_named", "m") == "m"
    rows, after = house.rooms.vmodel_page("", "", 10)
    assert [(row.vmodel_id, row.state) for row in rows] == [("v", None)]
    assert "cannot be read" in rows[0].reason
    assert after == ""


async def test_a_listing_has_pages() -> None:
    house = House()
    for name in "wvu":
        await house.set("a", name)
    rows, after = house.rooms.vmodel_page("", "", 2)
    assert [row.vmodel_id for row in rows] == ["u", "v"]
    assert after == "v"
    rows, after = house.rooms.vmodel_page("", after, 2)
    assert [(row.vmodel_id, row.active_id, row.state) for row in rows] == [
        ("w", "a", VModelState.DEFINED)
    ]
    assert after == ""
