"""What a simulated vmodel may stand for, and what its callers may see: the judge itself."""

import asyncio
from math import inf

import pytest

from modelmesh.domain.records import ModelRecord
from modelmesh.policy.transition import SetVModel
from modelmesh.simulation.doors import TYPE
from modelmesh.simulation.faults import Weather
from modelmesh.simulation.names import Move, Names, lasting
from modelmesh.simulation.promises import Request
from modelmesh.simulation.world import World
from tests.simulation.test_world import fleet


def move(model_id: str, asked_s: float, known_s: float = inf) -> Move:
    return Move(model_id, "", asked_s, known_s)


@pytest.mark.parametrize(
    ("moves", "possible"),
    [
        ([move("m1", 1, 2), move("m2", 3, 4)], ["m2"]),
        ([move("m1", 1, 9), move("m2", 3, 4)], ["m1", "m2"]),  # under way at once
        ([move("m1", 1, 9), move("m2", 3, 4), move("m3", 5, 6)], ["m1", "m3"]),
        ([move("m1", 1, 9), move("m2", 3, 4), move("m3", 10, 11)], ["m3"]),
        ([move("m1", 1, 2), move("m2", 3)], ["m1", "m2"]),  # nobody knows what became of m2
        ([move("m1", 1), move("m2", 3, 4)], ["m1", "m2"]),
    ],
)
def test_what_was_over_before_the_next_was_asked_for_does_not_last(
    moves: list[Move], possible: list[str]
) -> None:
    assert [each.model_id for each in lasting(moves)] == possible


async def set_vmodel(world: World, names: Names, target: str, via: str) -> None:
    begun = move(target, world.loop.time())
    names.moves.setdefault("v", []).append(begun)
    request = SetVModel("v", target, ModelRecord(TYPE))
    await world.manage(via, world.pods[via].daemon.vmodels.set_vmodel(request))
    begun.known_s = world.loop.time()


def test_a_move_that_waited_for_a_daemon_that_stood_still_may_be_the_last() -> None:
    """Seed 422: the move that was asked for last was done long before it."""

    async def scenario(world: World) -> None:
        names = Names(world, Weather())
        await set_vmodel(world, names, "m1", "b")
        await asyncio.sleep(2.0)
        world.pause("a")
        waits = asyncio.create_task(set_vmodel(world, names, "m2", "a"), name="set")
        await asyncio.sleep(1.0)
        await set_vmodel(world, names, "m3", "b")
        await asyncio.sleep(1.0)
        assert not waits.done(), "a did not stand still"
        assert world.resume("a") > 0
        await waits
        await asyncio.sleep(2.0)
        assert names.apart() == ""
        names.moves["v"].append(move("m4", world.loop.time(), world.loop.time()))
        assert names.apart() == "the vmodel v stands for m2, not ['m4']"

    fleet(scenario)


@pytest.mark.parametrize(
    ("second", "wrong"), [(move("m2", 20, 21), True), (move("m2", 5, 21), False)]
)
def test_no_caller_sees_the_older_model_again(second: Move, wrong: bool) -> None:
    async def scenario(world: World) -> None:
        names = Names(world, Weather(), {"v": [move("m1", 1, 9), second]})
        for began_s, model_id in ((30.0, "m1"), (40.0, "m2")):
            asked = Request("r", "v", began_s, inf, True, ended_s=began_s + 1)
            assert names.wrong_answer(asked, model_id.encode()) == ""
        again = Request("r", "v", 50.0, inf, True, ended_s=51.0)
        assert names.wrong_answer(again, b"m1").startswith("I3") is wrong

    fleet(scenario)
