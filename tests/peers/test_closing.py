"""The end of a daemon's peers: what is open is waited for a while, then ended."""

import asyncio

from modelmesh.errors import Code
from modelmesh.wire.transport import Call
from tests.peers.worlds import Callee, World, scenario, until


def keep(call: Call) -> None:
    """Never answer."""


@scenario
async def test_closing_waits_a_while_for_what_is_open(world: World) -> None:
    b = Callee("b", then=keep)
    await world.meet(b)
    first, last = world.send(), world.send()
    await until(lambda: len(b.seen) == 2)
    closing = asyncio.ensure_future(world.peers.close(60))
    await asyncio.sleep(0)
    b.seen[0][2].reply.answer(b"in time")
    assert await first.body() == b"in time"
    assert not closing.done()
    b.seen[1][2].reply.answer(b"also")
    await closing
    assert await last.body() == b"also"


@scenario
async def test_closing_ends_what_is_open_after_a_while(world: World) -> None:
    b = Callee("b", then=keep)
    await world.meet(b)
    stuck = world.send()
    await until(lambda: b.seen)
    await world.peers.close(0.3)
    failure = await stuck.failure()
    assert (failure.code, failure.executed) == (Code.UNAVAILABLE, True)
    assert (await world.send().failure()).executed is False


@scenario
async def test_closing_waits_for_calls_to_those_that_are_gone(world: World) -> None:
    b = Callee("b", then=keep)
    await world.meet(b)
    answer = world.send()
    await until(lambda: b.seen)
    world.peers.update({})
    closing = asyncio.ensure_future(world.peers.close(60))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not closing.done()
    b.seen[0][2].reply.answer(b"in time")
    assert await answer.body() == b"in time"
    await closing
