"""Bugs that the simulation has found, each as the smallest scenario that shows it.

The seeds that found them stand in docs/track-record.md.
"""

import asyncio

from modelmesh.simulation.world import World
from tests.simulation.test_world import fleet, key, one_copy


def test_a_call_that_is_answered_elsewhere_waits_no_longer_for_a_load_here() -> None:
    async def scenario(world: World) -> None:
        holder, (other,) = await one_copy(world, key(load_s=2.0, predict_s=0.5))
        asked = asyncio.create_task(world.ask("m", other), name="ask")
        await asyncio.sleep(0.1)
        world.pause(holder)
        await asyncio.sleep(1.5)
        assert "m" in world.pods[other].runtime.loading, "it was not asked of anybody else"
        assert world.resume(holder) > 0, "the pause struck nobody"
        assert await asked == b"m"
        await asyncio.sleep(3.0)
        copies = world.pods[other].daemon.parts.copies
        assert copies.ledger.in_use_bytes == 0

    fleet(scenario, pods="ab")


def test_a_connection_that_breaks_is_made_anew_where_nobody_else_has_the_model() -> None:
    async def scenario(world: World) -> None:
        holder, (other, _) = await one_copy(world)
        assert await world.ask("m", other) == b"m"
        world.network.cut_answers(f"{holder}:1", f"{other}:1")
        assert await world.ask("m", other) == b"m"
        assert world.network.struck["cut_answers"] == 1

    fleet(scenario)


def test_a_daemon_that_leaves_while_the_store_is_away_loses_no_call() -> None:
    """It takes seconds to give up saying goodbye to the store: by then its port is closed."""

    async def scenario(world: World) -> None:
        leaves, others = await one_copy(world, key(predict_s=0.5))
        for link in world.shared.links:
            link.cut()
        began_s = world.loop.time()
        stopping = asyncio.create_task(world.stop(leaves), name="stop")
        calls = []
        while not stopping.done():
            calls += [asyncio.create_task(world.ask("m", each), name="ask") for each in others]
            await asyncio.sleep(0.1)
        assert world.loop.time() - began_s > 1.0, "it left without a wait"
        assert await asyncio.gather(*calls) == [b"m"] * len(calls)
        assert set(world.ledger.executions.values()) == {1}
        for link in world.shared.links:
            link.mend()

    fleet(scenario)


def test_who_leaves_while_others_of_the_same_load_are_answered_holds_nothing() -> None:
    """The first answer breaks the connection by which all the others came."""

    async def scenario(world: World) -> None:
        await world.register("a", ("m", key(load_s=0.2)))
        first = asyncio.create_task(world.ask("m", "a"), name="ask")
        await asyncio.sleep(0.1)
        (holder,) = [name for name, pod in world.pods.items() if "m" in pod.runtime.loading]
        other = "b" if holder == "a" else "a"
        calls = [asyncio.create_task(world.ask("m", other), name="ask") for _ in range(3)]
        await asyncio.sleep(0.05)
        world.network.cut_answers(f"{holder}:1", f"{other}:1")
        assert await asyncio.gather(first, *calls) == [b"m"] * 4
        assert world.network.struck["cut_answers"] == 1
        assert world.pods[holder].daemon.parts.copies.ledger.in_use_bytes == 0

    fleet(scenario)
