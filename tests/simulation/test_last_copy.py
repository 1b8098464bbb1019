"""Eviction keeps the last copy of what is in demand, though several holders evict at once."""

import asyncio

import pytest

from modelmesh.serving.fleet_management import FleetManagement
from modelmesh.simulation.world import World
from tests.simulation.test_rounds import holders, key
from tests.simulation.test_world import fleet

CAPACITY = 2000  # two models


async def load(world: World, instance_id: str, model_id: str, *, further: bool = False) -> bool:
    """Have it loaded there and nowhere else."""
    management = world.pods[instance_id].daemon.management
    assert isinstance(management, FleetManagement)
    loaded = await world.manage(
        instance_id, management.load_here(model_id, further=further, sync=True)
    )
    return bool(loaded)


async def full(world: World) -> None:
    """Each daemon holds `shared`, which is in demand and soon loaded, and one that nobody asks for
    but that is dear to load."""
    dear = [(f"own {name}", key(load_s=1)) for name in "ab"]
    await world.register("a", ("shared", ""), ("new a", ""), ("new b", ""), *dear)
    for name in "ab":
        assert await load(world, name, f"own {name}")
        assert await world.ask(f"own {name}", name) == f"own {name}".encode()
    await asyncio.sleep(11)
    for name in "ab":
        assert await load(world, name, "shared", further=True)
        for _ in range(5):
            assert await world.ask("shared", name) == b"shared"
        await asyncio.sleep(1)  # it is not young any more, and the others know of it
    assert holders(world, "shared") == {"a", "b"}


def test_two_holders_that_evict_their_last_copies_at_once_leave_one() -> None:
    async def scenario(world: World) -> None:
        await full(world)
        assert all(await asyncio.gather(*(load(world, name, f"new {name}") for name in "ab")))
        await asyncio.sleep(1)
        (holder,) = holders(world, "shared")
        assert not holders(world, f"own {holder}"), "something else made room in its stead"
        loads = world.ledger.loads["shared"]
        for name in "ab":
            assert await world.ask("shared", name) == b"shared"
        assert world.ledger.loads["shared"] == loads, "a caller waited for a load"

    fleet(scenario, "ab", CAPACITY)


def test_one_that_evicts_alone_lets_the_further_copy_go() -> None:
    async def scenario(world: World) -> None:
        await full(world)
        assert await load(world, "a", "new a")
        assert holders(world, "shared") == {"b"}
        assert holders(world, "own a") == {"a"}

    fleet(scenario, "ab", CAPACITY)


@pytest.mark.parametrize("known", [True, False], ids=["an outage", "a store that falls silent"])
def test_eviction_waits_for_no_store(known: bool) -> None:
    async def scenario(world: World) -> None:
        await full(world)
        for pod in world.pods.values():
            pod.link.cut()
        if known:
            await asyncio.sleep(30)
            assert not world.pods["a"].mirror.answers, "the fault did not bite"
        begun = world.loop.time()
        assert await load(world, "a", "new a")
        assert world.loop.time() - begun < 3
        for pod in world.pods.values():
            pod.link.mend()

    fleet(scenario, "ab", CAPACITY)
