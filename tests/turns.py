"""How often others come to their turn of the loop while something long is done."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Turns that others have had."""

    def __init__(self) -> None:
        self.count = 0

    async def take(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.count += 1


@asynccontextmanager
async def turns_of_others() -> AsyncIterator[Turns]:
    """Counts them until the block ends."""
    turns = Turns()
    others = asyncio.ensure_future(turns.take())
    await asyncio.sleep(0)
    try:
        yield turns
    finally:
        others.cancel()
