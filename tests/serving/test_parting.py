"""A copy that goes because others have one asks them first; what happens meanwhile is obeyed."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from modelmesh.cache.decisions import State
from modelmesh.errors import Code, Failure, Fault, MeshError, Reason
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.store import MODELS, Delete, Entry, Put
from modelmesh.serving.keeping import LEAVE_S, Kept
from modelmesh.simulation.clock import run
from tests.serving.fleet_of_many import ME, OfMany, answered
from tests.serving.fleet_of_one import until

NOT_HERE = Failure(Code.UNAVAILABLE, "no copy is here", Fault.PEER, Reason.NOT_HERE)


class Store(MemoryStore):
    """Holds reads while `held`; `failure`: they fail; `lacks`: it was restored to before that."""

    held: asyncio.Event | None = None
    failure: Failure | None = None
    lacks = ""
    waiting = 0

    async def get(self, key: str) -> Entry | None:
        if self.held is not None:
            self.waiting += 1
            await self.held.wait()
        if self.failure is not None:
            raise MeshError(self.failure)
        if key == self.lacks:
            await asyncio.sleep(0.001)  # a round trip
            return None
        return await super().get(key)


class Full(OfMany):
    """Has room for two, and holds "m", which "a" holds too, and "own", which is asked for less."""

    def __init__(self) -> None:
        self.troubled = Store()
        super().__init__("a", capacity_bytes=200, store=self.troubled)
        Kept(self.parts, self.view, self.records)

    async def fill(self) -> None:
        await self.register("m")
        await self.register("own")
        await self.register("new")
        for model_id, uses in (("m", 9), ("own", 3)):
            for _ in range(uses):
                assert await answered(self.ask(model_id)) == model_id.encode()
        await asyncio.sleep(1)  # neither is young any more
        await self.models.update("m", lambda record: record.loaded("a", self.wall_ms()))
        assert await self.records.flush(1)

    def load_new(self) -> asyncio.Task[bool]:
        load = self.management.load_here("new", further=False, sync=True)
        return asyncio.get_running_loop().create_task(load)

    async def press(self) -> asyncio.Task[bool]:
        """Load "new", until "m" waits for leave to go."""
        self.troubled.held = asyncio.Event()
        loading = self.load_new()
        await until(lambda: self.troubled.waiting > 0)
        assert self.copies.state("m") is State.UNLOADING
        assert self.runtime.unloads == []
        return loading

    def let_on(self) -> None:
        assert self.troubled.held is not None
        self.troubled.held.set()
        self.troubled.held = None

    def holders(self) -> set[str]:
        return {*self.known("m").loaded_in}


def full(scenario: Callable[[Full], Awaitable[None]]) -> None:
    async def main() -> None:
        one = Full()
        await one.fill()
        await scenario(one)
        await one.close()

    run(main())


async def without_the_other(one: Full) -> None:
    """The copy at "a" is gone."""
    record = one.known("m").without_copy("a")
    await one.store.commit([], [Put(MODELS + "m", record.to_json())])


def test_it_is_out_of_the_record_before_it_goes() -> None:
    async def scenario(one: Full) -> None:
        gate = one.runtime.unload_gate = asyncio.get_running_loop().create_future()
        loading = one.load_new()
        await until(lambda: one.runtime.unloads == ["m"])
        assert one.holders() == {"a"}
        assert one.known("m").last_unload_ms > 0
        gate.set_result(None)
        assert await loading

    full(scenario)


def test_it_stays_if_the_other_one_has_gone_and_something_else_makes_room() -> None:
    async def scenario(one: Full) -> None:
        loading = await one.press()
        await without_the_other(one)
        one.let_on()
        assert await loading
        assert one.runtime.unloads == ["own"]
        assert one.holders() == {ME}
        assert await answered(one.ask("m")) == b"m"
        assert one.runtime.loads.count("m") == 1

    full(scenario)


def test_who_asks_for_it_meanwhile_is_served_from_it_at_once() -> None:
    async def scenario(one: Full) -> None:
        loading = await one.press()
        one.peers.answers = lambda sent: sent.fail(NOT_HERE)  # "a" has let it go
        assert await answered(one.ask("m")) == b"m"
        assert one.runtime.loads.count("m") == 1
        one.let_on()
        assert await loading
        await until(lambda: one.loader.under_way == 0)
        assert await one.records.flush(1)
        assert (ME in one.holders()) == one.copies.is_loaded("m")

    full(scenario)


def test_leave_that_comes_too_late_takes_no_copy_out_of_the_record() -> None:
    async def scenario(one: Full) -> None:
        await one.press()
        one.runtime.answer_at_once = False
        one.peers.answers = lambda sent: sent.fail(NOT_HERE)
        call = one.ask("m")
        await until(lambda: one.copies.is_loaded("m"))
        one.let_on()
        await until(lambda: one.runtime.running != [] and ME not in one.holders())
        assert await one.records.flush(1)
        assert one.holders() == {"a", ME}
        for running in one.runtime.running:
            running.reply.answer(b"m")
        assert await answered(call) == b"m"
        one.runtime.answer_at_once = True

    full(scenario)


async def unregister(one: Full) -> None:
    await one.store.commit([], [Delete(MODELS + "m")])


async def unload(one: Full) -> None:
    await one.management.unload_here("m")


async def lose(one: Full) -> None:
    one.runtime.held.discard("m")
    one.instance.model_lost("m", NOT_HERE)


@pytest.mark.parametrize("meanwhile", [unregister, unload, lose], ids=lambda do: do.__name__)
def test_what_must_go_waits_for_no_leave(meanwhile: Callable[[Full], Awaitable[None]]) -> None:
    async def scenario(one: Full) -> None:
        loading, begun = await one.press(), one.clock()
        await meanwhile(one)
        assert await loading
        assert "m" not in one.runtime.held
        if "m" in one.models:
            await without_the_other(one)
        with capture_logs() as lines:
            one.let_on()
            await asyncio.sleep(1)
        assert not [line for line in lines if line["log_level"] in ("warning", "error")], lines
        assert one.clock() - begun < 1 + LEAVE_S
        assert not one.copies.is_loaded("m"), "a refusal that comes too late brings it back"

    full(scenario)


def test_a_store_that_says_nothing_holds_up_no_eviction() -> None:
    async def scenario(one: Full) -> None:
        begun = one.clock()
        loading = await one.press()
        assert await loading
        assert one.clock() - begun < LEAVE_S + 0.1
        assert one.runtime.unloads == ["m"]
        one.let_on()

    full(scenario)


@pytest.mark.parametrize("broken", ["fails", "unreadable", "known"])
def test_who_cannot_be_asked_keeps_no_copy(broken: str) -> None:
    async def scenario(one: Full) -> None:
        if broken == "known":
            one.answers = False
        elif broken == "fails":
            one.troubled.failure = Failure(Code.UNAVAILABLE, "no answer", Fault.STORE)
        loading = one.load_new() if broken == "known" else await one.press()
        if broken == "unreadable":
            await one.store.commit([], [Put(MODELS + "m", b"no record")])
        if broken != "known":
            one.let_on()
        assert await loading
        assert one.runtime.unloads == ["m"]

    full(scenario)


def test_a_restored_store_that_lacks_the_model_keeps_no_copy() -> None:
    """The table keeps it, to offer it back: a copy that was spared would be chosen again at once,
    and nothing else would make room for as long."""

    async def scenario(one: Full) -> None:
        one.troubled.lacks = MODELS + "m"
        assert await one.load_new()
        assert one.runtime.unloads == ["m"]

    full(scenario)


def test_what_nobody_else_has_or_nobody_asks_for_goes_unasked() -> None:
    async def scenario(one: Full) -> None:
        kept = Kept(one.parts, one.view, one.records)
        assert kept.needed("m")
        assert not kept.needed("own")
        assert not kept.needed("unknown")
        await asyncio.sleep(7200)
        assert not kept.needed("m")
        await one.models.update("m", lambda record: record.used_at(1))
        assert not Kept(one.parts, one.view).needed("m")

    full(scenario)


def test_a_daemon_that_stops_leaves_nobody_asking() -> None:
    async def scenario(one: Full) -> None:
        loading = await one.press()
        await one.instance.drain(0.0)
        with pytest.raises(MeshError):
            await loading
        assert one.copies.state("m") is State.UNLOADING
        one.let_on()

    full(scenario)
