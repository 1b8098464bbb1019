"""How often others may have their turn of the loop while something long is done."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from modelmesh.simulation.clock import SimulatedLoop


async def turns_of(work: Awaitable[Any]) -> int:
    """Turns of the loop that this work takes."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    before = loop.turns
    await work
    return loop.turns - before
