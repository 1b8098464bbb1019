"""Work that is cancelled at a chosen await: for tests that try each of them."""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any


class Interrupted(Coroutine[Any, Any, Any]):
    """`work`, whose task is cancelled when it waits for the `number`th time.

    At once, or, `late`, in the moment that what it waits for is there.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], number: int, late: bool) -> None:
        self._work = work
        self._number = number
        self._late = late
        self.waits = 0

    def send(self, value: Any) -> Any:
        return self._waits(self._work.send(value))

    def throw(self, *error: Any) -> Any:
        return self._waits(self._work.throw(*error))

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise NotImplementedError("it is for a task of its own")

    def _waits(self, what: "asyncio.Future[Any] | None") -> "asyncio.Future[Any] | None":
        task = asyncio.current_task()
        assert task is not None
        if self.waits == self._number:
            if self._late and what is not None:
                what.add_done_callback(lambda _: task.cancel())
            else:
                task.cancel()
        self.waits += 1
        return what


async def interrupted(work: Coroutine[Any, Any, Any], number: int, late: bool) -> bool:
    """Run it so; False if it ended well before."""
    task = asyncio.create_task(Interrupted(work, number, late))
    await asyncio.wait([task], timeout=30)
    if task.cancelled():
        return True
    task.result()
    return False
