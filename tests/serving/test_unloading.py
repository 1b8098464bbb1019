"""Unloads that fail: no byte is given out twice, and nobody waits for one that does not come."""

import asyncio
from dataclasses import dataclass, field

import pytest

from modelmesh.cache.decisions import State
from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.serving.unloading import Persistence
from modelmesh.simulation.clock import run
from tests.serving.doors import MemoryRuntime, MemoryStorage
from tests.serving.fleet_of_one import One, until

BUSY = Failure(Code.DEADLINE_EXCEEDED, "took too long", Fault.MODEL)


@dataclass
class Stubborn(MemoryRuntime):
    """Does not unload so many times."""

    refusals: int = 0
    load_s: float = 0.0  # so it is old enough at once
    broken: Exception = field(default_factory=lambda: MeshError(BUSY))

    async def unload(self, model_id: str) -> None:
        await super().unload(model_id)
        if self.refusals:
            self.refusals -= 1
            self.held.add(model_id)
            raise self.broken


async def one_with(runtime: Stubborn, **changes: object) -> One:
    """A daemon with room for one model, and "m" in it."""
    one = One(capacity_bytes=150, runtime=runtime, **changes)  # type: ignore[arg-type]
    await one.register("m", "n")
    await one.answer("m")
    return one


def counted(one: One) -> tuple[float, float]:
    """Attempts that failed, models never unloaded."""
    names = ("modelmesh_unloadmodel_attempt_failure", "modelmesh_unloadmodel_failure")
    attempts, never = (one.metrics.registry.get_sample_value(name) for name in names)
    assert attempts is not None
    assert never is not None
    return attempts, never


@pytest.mark.parametrize(
    ("failed", "pause_s"), [(1, 0.5), (2, 2.0), (3, 8.0), (4, 60.0), (5, 60.0)]
)
def test_pauses(failed: int, pause_s: float) -> None:
    assert Persistence().pause_s(failed) == pause_s


@pytest.mark.parametrize("broken", [MeshError(BUSY), OSError("broken")], ids=repr)
async def test_an_unload_that_fails_is_tried_again(broken: Exception) -> None:
    one = await one_with(Stubborn(refusals=2, broken=broken))
    assert await asyncio.wait_for(one.management.unload("m"), 30)
    assert one.runtime.unloads == ["m"] * 3
    assert one.runtime.expelled == []
    assert one.copies.ledger.reserved_bytes == 0
    assert counted(one) == (2, 0)


async def test_its_bytes_stay_reserved_meanwhile() -> None:
    one = await one_with(Stubborn(refusals=1), unloads=Persistence(first_s=3600.0))
    reply = one.ask("n")
    await until(lambda: counted(one) == (1, 0))
    assert one.copies.state("m") is State.UNLOADING
    assert one.copies.ledger.unloading_bytes == 100
    assert one.runtime.loads == ["m"], "n waits for the room"
    reply.leave()
    await one.loader.close()  # which does not wait for an hour


async def test_what_never_unloads_is_expelled_where_the_hosts_are_our_own() -> None:
    one = await one_with(Stubborn(refusals=10**9, can_expel=True))
    assert await one.answer("n") == b"n"
    assert one.runtime.unloads == ["m"] * 3
    assert one.runtime.expelled == ["m"]
    assert one.runtime.held == {"n"}
    assert counted(one) == (3, 1)


async def test_what_cannot_even_be_expelled_is_written_off_until_it_goes_after_all() -> None:
    runtime = Stubborn(refusals=10**9)
    one = await one_with(runtime)
    reply = one.ask("n")
    await until(reply.future.done)
    error = reply.future.exception()
    assert isinstance(error, MeshError)
    assert error.failure.code is Code.UNAVAILABLE, "it does not wait for what will not come"
    assert one.runtime.held == {"m"}
    assert one.copies.ledger.stuck_bytes == one.copies.ledger.reserved_bytes == 100
    assert counted(one)[1] == 1
    runtime.refusals = 0  # started anew, say
    await until(lambda: one.copies.state("m") is State.NEW)
    assert one.copies.ledger.reserved_bytes == 0
    assert await one.answer("n") == b"n"


async def test_whoever_asked_for_an_unload_is_told_that_it_failed() -> None:
    one = await one_with(Stubborn(refusals=10**9))
    with pytest.raises(MeshError) as caught:
        await asyncio.wait_for(one.management.unload("m"), 30)
    assert caught.value.failure == BUSY
    await one.loader.close()


def test_a_model_that_was_lost_and_loaded_anew_is_not_unloaded_any_more() -> None:
    async def main() -> None:
        runtime = Stubborn(refusals=1)
        one = await one_with(runtime, unloads=Persistence(first_s=0.01))
        unload = asyncio.create_task(one.management.unload("m"))
        await until(lambda: runtime.unloads == ["m"])
        assert runtime.listener is not None
        runtime.listener.model_lost("m", BUSY)
        assert await one.answer("m") == b"m"
        assert await unload
        await asyncio.sleep(1)
        assert runtime.unloads == ["m"]
        assert await one.answer("m") == b"m"

    run(main())


async def test_files_that_cannot_be_released_hold_no_memory() -> None:
    class Broken(MemoryStorage):
        async def release(self, model_id: str) -> None:
            raise OSError("read-only")

    one = await one_with(Stubborn(), storage=Broken())
    assert await asyncio.wait_for(one.management.unload("m"), 30)
    assert one.copies.ledger.reserved_bytes == 0
    assert counted(one) == (0, 0)
