"""Connections that break with a call on them: it is repeated, and none is lost for that."""

import asyncio

import pytest

from modelmesh.simulation.world import World
from tests.simulation.test_world import fleet, key, one_copy


@pytest.mark.parametrize("breaks", [1, 2, 3])
def test_the_question_whether_its_daemon_lives_may_break_as_well(breaks: int) -> None:
    """One unanswered question is no silence: the store would hold its copy to be good, and nobody
    could load the model elsewhere."""

    async def scenario(world: World) -> None:
        holder, (other, _) = await one_copy(world)
        assert await world.ask("m", other) == b"m"
        world.network.cut_answers(f"{holder}:1", f"{other}:1", breaks)
        assert await world.ask("m", other) == b"m"
        assert world.network.struck["cut_answers"] == breaks
        assert max(world.ledger.executions.values()) == 2

    fleet(scenario)


def test_all_calls_that_a_connection_takes_along_are_answered() -> None:
    async def scenario(world: World) -> None:
        holder, others = await one_copy(world, key(predict_s=0.2))
        calls = [asyncio.create_task(world.ask("m", others[n % 2]), name="ask") for n in range(20)]
        await asyncio.sleep(0.1)
        for other in others:
            world.network.cut_answers(f"{holder}:1", f"{other}:1")  # the questions' answers
            world.network.cut(f"{holder}:1", f"{other}:1")
        assert await asyncio.gather(*calls) == [b"m"] * 20
        assert world.network.struck["cut"] >= 2
        assert world.network.struck["cut_answers"] == 2

    fleet(scenario)
