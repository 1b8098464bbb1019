"""Writes that come at the same time, put into few commits.

A commit costs this daemon, the store and every daemon that follows it about the same whether it
holds one record or many. So there is one at a time, and whoever comes meanwhile goes with all
others into the next: a caller alone waits for nobody, and with more callers the commits grow
instead of their number. Who was answered together is likely to come again, each at his own pace:
the next commit waits until as many have come, but no longer than twice what the last one took.

A caller who leaves does not end a commit in which others are. Must never put an item into a second
one: what came of the first may be unknown.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

from modelmesh.observe.tasks import spawn

# Times what the last write took. With 16 callers of a daemon over etcd, on two busy cores, commits
# held 4 registrations without waiting, 7 with 1, and 9 with 2 (10 after 10 ms, which was slower).
PATIENCE: Final = 2

# However long the last write took: a store in trouble makes nobody wait twice.
LONGEST_WAIT_S: Final = 0.01

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class Gathering(Generic[Item, Outcome]):
    """`write(items)` returns what came of each; what it raises, all of them get.

    Not bounded in number: whatever waits here has a caller who waits for it, and those are.
    """

    def __init__(
        self, write: Callable[[list[Item]], Awaitable[Sequence[Outcome]]], most: int, name: str
    ) -> None:
        """`most`: items of one write. `name`: of the task."""
        self._write = write
        self._most = most
        self._name = name
        self._waiting: deque[tuple[Item, asyncio.Future[Outcome]]] = deque()
        self._expected = 0  # how many shall be waiting when `_came` is set
        self._came = asyncio.Event()
        self._writing: asyncio.Task[Any] | None = None

    async def put(self, item: Item) -> Outcome:
        """What came of this item; bounded as `write` is, for itself and the one before it."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if len(self._waiting) >= self._expected:
            self._came.set()
        if self._writing is None:
            # It runs in the loop's next turn: whoever else comes in this one comes along.
            self._writing = spawn(self._write_all(), self._name)
        return await future

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                count = min(len(self._waiting), self._most)
                batch = [self._waiting.popleft() for _ in range(count)]
                if batch := [each for each in batch if not each[1].done()]:
                    began_s = loop.time()
                    await self._write_batch(batch)
                    await self._until_they_come(len(batch), loop.time() - began_s)
        finally:
            self._writing = None

    async def _until_they_come(self, answered: int, took_s: float) -> None:
        """As many as were answered just now, beside those who wait already."""
        if answered == 1:
            return
        self._expected = min(len(self._waiting) + answered, self._most)
        self._came.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(PATIENCE * took_s, LONGEST_WAIT_S)):
                while len(self._waiting) < self._expected:
                    await self._came.wait()

    async def _write_batch(self, batch: list[tuple[Item, "asyncio.Future[Outcome]"]]) -> None:
        try:
            outcomes = await self._write([item for item, _ in batch])
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if not future.done():
                    future.set_result(outcome)
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        finally:
            for _, future in batch:
                future.cancel()  # nothing, unless this task is cancelled: then nobody waits on
