"""Waiting on a condition, with a bound: what tests do instead of sleeping."""

import asyncio
from collections.abc import Callable
from pathlib import Path


async def until(condition: Callable[[], object], within_s: float = 30.0) -> None:
    """Return when the condition holds; fail when it does not within the bound."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  (what is awaited has no event: a process, a file)
            await asyncio.sleep(0.002)


def is_under_way(name: str) -> bool:
    """Whether a task whose name begins so runs on this loop."""
    return any(task.get_name().startswith(name) for task in asyncio.all_tasks())


def is_dead(pid: int) -> bool:
    """Whether no process of this pid runs any more."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"
