"""Named, guarded tasks: the only way to start one.

A task that fails unseen is a daemon that limps. `spawn` keeps a reference, gives it a name, and
logs a failure; an *eternal* task (a slow loop) that ends without being cancelled is a failure too.
`every` is such a loop: what fails in one of its rounds is logged, and the next one comes. A round
that looks at thousands of things does so in chunks of a fraction of a millisecond, with a `rest`
between them: the loop is there for requests.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import structlog

log = structlog.get_logger("tasks")

REST_S: Final = 0.001

_running: set[asyncio.Task[Any]] = set()


def spawn(work: Coroutine[Any, Any, Any], name: str, *, eternal: bool = False) -> asyncio.Task[Any]:
    """Start `work` as a task of this name; its failure is logged, never lost."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    _running.add(task)
    task.add_done_callback(_guard_eternal if eternal else _guard)
    return task


def every(period_s: float, work: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
    """Do `work` again and again, with a pause of `period_s` before each round."""
    return spawn(_repeat(period_s, work, name), name, eternal=True)


async def rest(pause_s: float = REST_S) -> None:
    """Between two chunks of a long round: a request needs several turns of the loop, and each would
    wait for a chunk if the round came back in every one. Longer where nobody waits for its end."""
    await asyncio.sleep(pause_s)


async def _repeat(period_s: float, work: Callable[[], Awaitable[None]], name: str) -> None:
    while True:
        await asyncio.sleep(period_s)
        await logged(work(), name)


async def logged(work: Awaitable[None], name: str) -> None:
    """Wait for `work`; what it raises is logged, and harms nobody else."""
    try:
        await work
    except Exception:
        log.exception("a round failed", task=name)


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
