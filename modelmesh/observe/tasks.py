"""Named, guarded tasks: the only way to start one.

A task that fails unseen is a daemon that limps. `spawn` keeps a reference, gives it a name, and
logs a failure; an *eternal* task (a slow loop) that ends without being cancelled is a failure too.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

log = structlog.get_logger("tasks")

_running: set[asyncio.Task[Any]] = set()


def spawn(work: Coroutine[Any, Any, Any], name: str, *, eternal: bool = False) -> asyncio.Task[Any]:
    """Start `work` as a task of this name; its failure is logged, never lost."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    _running.add(task)
    task.add_done_callback(_guard_eternal if eternal else _guard)
    return task


def _guard(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if task.cancelled():
        return
    failure = task.exception()
    if failure is not None:
        log.error("task failed", task=task.get_name(), exc_info=failure)


def _guard_eternal(task: asyncio.Task[Any]) -> None:
    _guard(task)
    if not task.cancelled() and task.exception() is None:
        log.error("task ended, but should run for ever", task=task.get_name())


async def stop(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel these tasks and wait until they have ended."""
    live = [task for task in tasks if task is not None and not task.done()]
    for task in live:
        task.cancel()
    if live:
        await asyncio.wait(live, timeout=5)
