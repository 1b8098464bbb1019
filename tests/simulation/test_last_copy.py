"""Eviction keeps the last copy of what is in demand, though several holders evict at once."""

import asyncio

from modelmesh.cache.decisions import State
from modelmesh.serving.fleet_management import FleetManagement
from modelmesh.serving.keeping import LEAVE_S
from modelmesh.simulation.world import World
from tests.peers.worlds import until
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


def cut_off(world: World) -> None:
    for pod in world.pods.values():
        pod.link.cut()


def test_eviction_waits_for_no_store_that_is_known_not_to_answer() -> None:
    async def scenario(world: World) -> None:
        await full(world)
        cut_off(world)
        await asyncio.sleep(30)
        assert not world.pods["a"].mirror.answers, "the fault did not bite"
        begun = world.loop.time()
        assert await load(world, "a", "new a")
        assert world.loop.time() - begun < 0.1

    fleet(scenario, "ab", CAPACITY)


def test_eviction_soon_goes_on_without_a_store_that_falls_silent() -> None:
    """Silent once the copy has asked: a claim that hangs would say that the store is away."""

    async def scenario(world: World) -> None:
        await full(world)
        copies = world.pods["a"].daemon.parts.copies
        loading = asyncio.create_task(load(world, "a", "new a"), name="load")
        await until(lambda: copies.state("shared") is State.UNLOADING)
        cut_off(world)
        begun = world.loop.time()
        assert await loading
        assert world.struck["store cut"], "the fault did not bite"
        assert world.loop.time() - begun < LEAVE_S + 0.1
        assert holders(world, "shared") == {"b"}

    fleet(scenario, "ab", CAPACITY)
