"""A peer that closes its port: it takes nothing new, and answers what it has."""

import asyncio

from modelmesh.errors import Reason
from tests.peers.worlds import Callee, World, scenario, until


@scenario
async def test_a_call_that_a_leaving_peer_runs_is_no_call_of_a_silent_one(world: World) -> None:
    """Who is told sends the call again: it would be executed twice, and nobody vanished."""
    b = Callee("b", then=lambda call: None)
    [peer] = await world.meet(b)
    told: list[int] = []
    runs = world.send(body=b"runs", on_suspect=lambda: told.append(1))
    await until(lambda: b.seen)
    leaving = asyncio.create_task(world.drain("b"), name="drain")
    await until(lambda: not peer.answers)
    late = await world.send().failure()
    assert (late.reason, late.executed, len(b.seen)) == (Reason.NOT_HERE, False, 1)
    assert not await world.peers.ask_health("b")
    assert (told, peer.suspect) == ([], False)
    b.seen[0][2].reply.answer(b"runs")
    assert await runs.body() == b"runs"
    await leaving
