"""Work on large bodies that would hold the loop for too long, in a few threads of its own.

The default executor of a loop takes whatever comes: its queue has no end, and a burst of large
bodies would keep the weighing of hosts waiting, which needs a thread for a millisecond. Here so
many run, so many wait, and what comes beyond is refused. A thread cannot be stopped: work that is
given up goes on to its end, and keeps its place until then.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Final, TypeVar

from modelmesh.errors import Code, Failure, Fault, MeshError, Reason

T = TypeVar("T")

THREADS: Final = 4  # JSON holds the interpreter, so more would take turns only
MOST: Final = 256  # running and waiting: the bodies of all of them are held in memory

_OVERLOADED = Failure(
    Code.RESOURCE_EXHAUSTED,
    "too many large bodies are being translated already",
    Fault.CAPACITY,
    Reason.OVERLOADED,
    retry_after_s=0.1,
)


class Aside:
    """A bounded number of threads and of those who wait for one."""

    def __init__(self, threads: int = THREADS, most: int = MOST) -> None:
        self._executor = ThreadPoolExecutor(threads, "aside")  # starts none before it is needed
        self._most = most
        self._lock = Lock()
        self._held = 0

    async def run(self, work: Callable[[], T], timeout_s: float) -> T:
        """Its result; RESOURCE_EXHAUSTED where too much waits, DEADLINE_EXCEEDED if it is late."""
        future = self._begin(work)
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            message = f"a large body was not translated within {timeout_s:g} s"
            raise MeshError(
                Failure(Code.DEADLINE_EXCEEDED, message, Fault.CAPACITY, Reason.OVERLOADED)
            ) from None

    def close(self) -> None:
        """Begin nothing more."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _begin(self, work: Callable[[], T]) -> "Future[T]":
        with self._lock:
            if self._held >= self._most:
                raise MeshError(_OVERLOADED)
            self._held += 1
        try:
            future = self._executor.submit(work)
        except BaseException:
            self._end(None)
            raise
        future.add_done_callback(self._end)  # also if it was given up before its turn
        return future

    def _end(self, future: "Future[T] | None") -> None:
        with self._lock:
            self._held -= 1
