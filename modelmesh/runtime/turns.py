"""Calls of one external model, where its server limits how many run at once.

ModelMesh's `limitModelConcurrency`: at most `maxConcurrency` calls of a copy run, the others wait
here in order, and beyond the in-flight limit they are refused. A caller that leaves while it waits
is passed over.
"""

from collections import deque
from collections.abc import Callable

from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.wire.transport import Reply

Begin = Callable[[], None]


class ModelTurns:
    """Turns of one model; `max_concurrency` 0: no limit, `most_inflight` negative: none."""

    def __init__(self, max_concurrency: int, most_inflight: int) -> None:
        self._most_running = max_concurrency
        self._most_inflight = most_inflight
        self._running = 0
        self._waiting: deque[tuple[Reply, Begin]] = deque()
        self._handing_out = False

    def take(self, reply: Reply, begin: Begin) -> Failure | None:
        """Begin now or later; the failure if too many calls are here already."""
        if 0 <= self._most_inflight <= self._running + len(self._waiting):
            return Failure(
                Code.RESOURCE_EXHAUSTED,
                f"{self._most_inflight} calls of this model are in flight",
                Fault.CAPACITY,
                Reason.OVERLOADED,
                retry_after_s=0.1,
            )
        self._waiting.append((reply, begin))
        self._hand_out()
        return None

    def give_back(self) -> None:
        """A call that began has ended."""
        self._running -= 1
        self._hand_out()

    def _hand_out(self) -> None:
        """Begin what may. What ends at once (it was too late, say) gives back within this loop."""
        if self._handing_out:
            return
        self._handing_out = True
        try:
            while self._waiting and self._is_free:
                reply, begin = self._waiting.popleft()
                if not reply.gone:
                    self._running += 1
                    begin()
        finally:
            self._handing_out = False

    @property
    def _is_free(self) -> bool:
        return self._most_running <= 0 or self._running < self._most_running
