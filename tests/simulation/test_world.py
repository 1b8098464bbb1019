"""A simulated fleet behaves as one cache: transcripts in virtual time."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable

from modelmesh.simulation.clock import run
from modelmesh.simulation.world import World


def fleet(
    scenario: Callable[[World], Awaitable[None]], pods: str = "abc", capacity_bytes: int = 100_000
) -> None:
    async def main() -> None:
        world = World(1, capacity_bytes)
        for instance_id in pods:
            await world.start(instance_id)
        await scenario(world)
        await world.close()

    run(main())


def key(**behaviour: object) -> str:
    return json.dumps(behaviour)


async def one_copy(world: World, model_key: str = "") -> tuple[str, list[str]]:
    """Have "m" loaded by somebody: who holds it, and the others."""
    await world.register("a", ("m", model_key))
    assert await world.ask("m", "a") == b"m"
    (holder,) = [name for name, pod in world.pods.items() if "m" in pod.runtime.resident]
    return holder, [name for name in world.pods if name != holder]


def test_any_daemon_takes_any_request() -> None:
    async def scenario(world: World) -> None:
        await world.register("a", *((f"m{n}", "") for n in range(9)))
        for n in range(9):
            for instance_id in "abc":
                assert await world.ask(f"m{n}", instance_id) == f"m{n}".encode()
        assert world.ledger.loads == Counter({f"m{n}": 1 for n in range(9)})

    fleet(scenario)


def test_five_hundred_callers_of_a_cold_model_cause_one_load() -> None:
    async def scenario(world: World) -> None:
        await world.register("a", ("m", key(load_s=2.0)))
        answers = await asyncio.gather(*(world.ask("m", "abc"[n % 3]) for n in range(500)))
        assert Counter(answers) == {b"m": 500}
        assert world.ledger.loads["m"] == 1

    fleet(scenario)


def test_fifty_cold_models_at_once_are_spread_evenly() -> None:
    async def scenario(world: World) -> None:
        await world.register("a", *((f"m{n}", key(load_s=1.0)) for n in range(50)))
        answers = await asyncio.gather(*(world.ask(f"m{n}", "abc"[n % 3]) for n in range(50)))
        assert Counter(answers) == {f"m{n}".encode(): 1 for n in range(50)}
        counts = [len(pod.runtime.held) for pod in world.pods.values()]
        assert sum(counts) == 50
        assert max(counts) <= 50 / 3 * 1.5, counts

    fleet(scenario)


def test_a_daemon_that_leaves_hands_its_copies_over_first() -> None:
    async def scenario(world: World) -> None:
        await world.register("a", *((f"m{n}", key(load_s=0.5)) for n in range(12)))
        await asyncio.gather(*(world.ask(f"m{n}", "abc"[n % 3]) for n in range(12)))
        had = set(world.pods["a"].runtime.held)
        assert had, "it held nothing: the scenario shows nothing"
        await world.stop("a")
        held = set().union(*(pod.runtime.held for pod in world.pods.values()))
        assert had <= held
        loads = world.ledger.loads.copy()
        for n in range(12):
            assert await world.ask(f"m{n}", "b") == f"m{n}".encode()
        assert world.ledger.loads == loads, "a request had to load"

    fleet(scenario)
