"""Calls of one external model, where its server limits how many run at once.

ModelMesh's `limitModelConcurrency`: at most `maxConcurrency` calls of a copy run, the others wait
here in order, and beyond the in-flight limit they are refused. A caller that leaves while it waits
is skipped.
"""

from collections import deque
from collections.abc import Callable

from modelmesh.errors import Failure
from modelmesh.runtime.limiter import InflightLimiter
from modelmesh.wire.transport import Reply

Begin = Callable[[], None]


class ModelTurns:
    """Turns of one model; `max_concurrency` 0: no limit."""

    def __init__(self, max_concurrency: int, most_inflight: int) -> None:
        self._free = max_concurrency
        self._limited = max_concurrency > 0
        self._most_inflight = most_inflight
        self._limiter = InflightLimiter()
        self._waiting: deque[tuple[Reply, Begin]] = deque()

    def take(self, reply: Reply, begin: Begin) -> Failure | None:
        """Begin now or later; the failure if too many calls are here already."""
        refusal = self._limiter.enter("", self._most_inflight)
        if refusal is not None:
            return refusal
        if not self._limited:
            begin()
        elif self._free:
            self._free -= 1
            begin()
        else:
            self._waiting.append((reply, begin))
        return None

    def give_back(self) -> None:
        """A call that began has ended."""
        self._limiter.leave("")
        while self._waiting:
            reply, begin = self._waiting.popleft()
            if not reply.gone:
                begin()
                return
            self._limiter.leave("")
        if self._limited:
            self._free += 1
