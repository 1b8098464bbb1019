"""The slow loops of a fleet, in virtual time: more copies, fewer copies, and traces that go."""

import asyncio
import json

from modelmesh.domain.instances import InstanceRecord
from modelmesh.domain.records import ModelRecord
from modelmesh.peers.port import PeerPort
from modelmesh.registry.membership import Membership
from modelmesh.registry.models import Models
from modelmesh.registry.store import CONFIG, Put
from modelmesh.simulation.world import World
from tests.simulation.test_world import fleet


def key(**behaviour: object) -> str:
    return json.dumps(behaviour)


def holders(world: World, model_id: str) -> set[str]:
    return {name for name, pod in world.pods.items() if model_id in pod.runtime.held}


async def use(world: World, model_id: str, seconds: float, per_second: float) -> None:
    """Call it so often for so long, through all daemons in turn."""
    for n in range(round(seconds * per_second)):
        names = sorted(world.pods)
        assert await world.ask(model_id, names[n % len(names)]) == model_id.encode()
        await asyncio.sleep(1 / per_second)


def test_a_busy_model_comes_to_all_daemons_and_an_idle_fleet_stays_as_it_is() -> None:
    async def scenario(world: World) -> None:
        await world.register("a", ("hot", ""), ("cool", ""))
        await use(world, "cool", 5, 1)
        await use(world, "hot", 60, 100)
        assert holders(world, "hot") == {"a", "b", "c"}
        assert len(holders(world, "cool")) == 1

    fleet(scenario)


def test_a_model_in_regular_use_gets_a_second_copy() -> None:
    async def scenario(world: World) -> None:
        await world.register("a", ("m", ""))
        for _ in range(4):
            await use(world, "m", 20, 1)
            await asyncio.sleep(600)
        assert len(holders(world, "m")) == 2

    fleet(scenario)


def test_the_threshold_can_be_changed_while_the_fleet_runs() -> None:
    async def scenario(world: World) -> None:
        await world.register("a", ("m", ""))
        await use(world, "m", 60, 5)
        assert len(holders(world, "m")) == 1
        await world.store.commit([], [Put(CONFIG + "scaleup_rpm_threshold", b"60")])
        await use(world, "m", 60, 5)
        assert len(holders(world, "m")) == 3

    fleet(scenario)


def test_a_minimum_of_copies_is_kept_though_nobody_asks() -> None:
    async def scenario(world: World) -> None:
        models = Models(world.store)
        await models.register("m", ModelRecord("simulated", min_copies=2))
        await asyncio.sleep(300)
        assert len(holders(world, "m")) == 2

    fleet(scenario)


def test_second_copies_go_when_the_fleet_is_full_and_they_are_idle() -> None:
    async def scenario(world: World) -> None:
        await world.register("a", ("hot", key(size_bytes=1000)))
        await use(world, "hot", 60, 100)
        assert len(holders(world, "hot")) == 3
        fillers = [(f"m{n}", key(size_bytes=1000)) for n in range(30)]
        await world.register("a", *fillers)
        for round_ in range(240):  # four hours in which only the others are used
            for n in range(20):
                await world.ask(f"m{n}", "abc"[(n + round_) % 3])
            await asyncio.sleep(60)
        assert len(holders(world, "hot")) <= 1

    fleet(scenario, capacity_bytes=8000)


def test_the_leader_takes_dead_instances_out_of_records() -> None:
    async def scenario(world: World) -> None:
        await world.register("a", ("m", ""))
        models = Models(world.store)
        await models.update("m", lambda record: record.claimed("gone", 1).loaded("gone", 2))
        await asyncio.sleep(1800)
        record = models.get("m")
        assert record is not None
        assert "gone" not in record.instance_ids

    fleet(scenario)


def test_what_was_used_lately_is_loaded_ahead_while_there_is_room() -> None:
    async def scenario(world: World) -> None:
        await world.register("a", *((f"m{n}", "") for n in range(20)))
        for n in range(20):
            await world.ask(f"m{n}", "a")
        lost = set(world.pods["a"].runtime.held)
        assert lost, "it held nothing: the scenario shows nothing"
        for model_id in lost:
            world.pods["a"].runtime.lose(model_id)
        await asyncio.sleep(600)
        held = set().union(*(pod.runtime.held for pod in world.pods.values()))
        assert lost <= held

    fleet(scenario)


def test_one_that_wakes_under_a_name_that_another_has_ends() -> None:
    async def scenario(world: World) -> None:
        member = world.pods["a"].daemon.member
        assert member is not None
        loop = asyncio.get_running_loop()
        port = PeerPort("a", lambda *_: None, lambda: 0, loop.time)
        world.network.listen("another:1", port)
        other = Membership(world.store, "a", world.wall_ms, ttl_s=30.0)
        await other.join(InstanceRecord(1, address="another:1"), no_answer)
        async with asyncio.timeout(60):
            await member.ended.wait()
        assert "now at another:1" in member.why_ended
        await other.leave()

    fleet(scenario)


async def no_answer(_holder: InstanceRecord) -> bool:
    return False
