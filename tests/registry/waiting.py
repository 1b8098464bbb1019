"""Waiting for what a real server brings about: a condition is looked at until its bound."""

import asyncio
from collections.abc import Awaitable, Callable

BOUND_S = 300.0  # only that it ends is asserted
LOOK_EVERY_S = 0.02


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return once it holds; TimeoutError if it never does."""
    for _ in range(int(BOUND_S / LOOK_EVERY_S)):
        if await condition():
            return
        await asyncio.sleep(LOOK_EVERY_S)
    raise TimeoutError
