"""Guarded tasks: no failure is lost."""

import asyncio

from structlog.testing import capture_logs

from modelmesh.observe import tasks


async def _fail() -> None:
    raise ValueError("boom")


async def _end() -> None:
    return None


async def test_a_failure_is_logged_with_the_tasks_name() -> None:
    with capture_logs() as lines:
        task = tasks.spawn(_fail(), "doomed")
        await asyncio.wait([task])
        await asyncio.sleep(0)
    assert [(line["event"], line["task"]) for line in lines] == [("task failed", "doomed")]


async def test_an_eternal_task_that_ends_is_a_failure_and_a_cancelled_one_is_not() -> None:
    with capture_logs() as lines:
        ended = tasks.spawn(_end(), "loop", eternal=True)
        cancelled = tasks.spawn(asyncio.Event().wait(), "waits", eternal=True)
        await asyncio.wait([ended])
        await tasks.stop(cancelled, None)
        await asyncio.sleep(0)
    assert [line["task"] for line in lines] == ["loop"]
    assert cancelled.cancelled()


async def test_a_loop_outlives_a_round_that_fails() -> None:
    rounds, over = list[int](), asyncio.Event()

    async def work() -> None:
        rounds.append(len(rounds))
        if len(rounds) == 1:
            raise ValueError("boom")
        over.set()

    with capture_logs() as lines:
        task = tasks.every(0.0, work, "loop")
        await asyncio.wait_for(over.wait(), 5)
        await tasks.stop(task)
    assert [(line["event"], line["task"]) for line in lines] == [("a round failed", "loop")]
    assert task.cancelled()
