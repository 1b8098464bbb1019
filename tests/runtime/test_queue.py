"""The load queue: order, bounds, cancellation."""

import asyncio
import gc

import pytest

from modelmesh.errors import Code, MeshError
from modelmesh.runtime.queue import LoadQueue, Priority
from tests.runtime.waiting import until


async def _worker(queue: LoadQueue, priority: Priority, name: str, order: list[str]) -> None:
    async with queue.turn(priority):
        order.append(name)
        await asyncio.sleep(0)


async def test_requests_go_before_background_and_keep_their_order() -> None:
    queue, order = LoadQueue(1, 100), list[str]()
    async with asyncio.TaskGroup() as group, queue.turn(Priority.REQUEST):
        for name in ("b1", "b2"):
            group.create_task(_worker(queue, Priority.BACKGROUND, name, order))
        for name in ("r1", "r2"):
            group.create_task(_worker(queue, Priority.REQUEST, name, order))
        await until(lambda: queue.waiting == 4)
    assert order == ["r1", "r2", "b1", "b2"]


async def test_no_more_turns_at_once_than_allowed() -> None:
    queue = LoadQueue(2, 100)
    running = most = 0

    async def work() -> None:
        nonlocal running, most
        async with queue.turn(Priority.REQUEST):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*(work() for _ in range(20)))
    assert most == 2


async def test_a_full_queue_refuses() -> None:
    queue = LoadQueue(1, 1)
    async with queue.turn(Priority.REQUEST):
        order: list[str] = []
        waiter = asyncio.ensure_future(_worker(queue, Priority.REQUEST, "w", order))
        await until(lambda: queue.waiting == 1)
        with pytest.raises(MeshError) as caught:
            async with queue.turn(Priority.REQUEST):
                pass
        assert caught.value.failure.code is Code.RESOURCE_EXHAUSTED
    await waiter
    assert order == ["w"]


async def test_a_cancelled_turn_is_passed_on() -> None:
    queue, order = LoadQueue(1, 10), list[str]()
    async with queue.turn(Priority.REQUEST):
        first = asyncio.ensure_future(_worker(queue, Priority.REQUEST, "first", order))
        second = asyncio.ensure_future(_worker(queue, Priority.REQUEST, "second", order))
        await until(lambda: queue.waiting == 2)
        first.cancel()
    first.cancel()
    await second
    assert order == ["second"]
    assert queue.waiting == 0
    async with queue.turn(Priority.BACKGROUND):
        pass


async def test_cancelled_in_the_moment_its_turn_came() -> None:
    queue, order = LoadQueue(1, 10), list[str]()
    async with queue.turn(Priority.REQUEST):
        first = asyncio.ensure_future(_worker(queue, Priority.REQUEST, "first", order))
        second = asyncio.ensure_future(_worker(queue, Priority.REQUEST, "second", order))
        await until(lambda: queue.waiting == 2)
    first.cancel()  # the turn was given to it, but it has not run yet
    await second
    assert order == ["second"]


def _cancelled_futures() -> int:
    futures = (found for found in gc.get_objects() if type(found) is asyncio.Future)
    return sum(future.cancelled() for future in futures)


async def test_whoever_gave_up_is_not_kept() -> None:
    queue = LoadQueue(1, 1)
    before = _cancelled_futures()
    async with queue.turn(Priority.REQUEST):
        for _ in range(50):
            waiter = asyncio.ensure_future(_worker(queue, Priority.BACKGROUND, "w", []))
            await asyncio.sleep(0)
            waiter.cancel()
            await asyncio.wait([waiter])
        assert _cancelled_futures() < before + 50
