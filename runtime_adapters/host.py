"""A host process: the blocking loop around the core, with its journal, its scale and its timers.

The zygote prepares once (`prepare` imports every runtime, and runs no model); each host that is
forked from it then lives in `HostProgram.run`. One thread reads all that is there, runs one entry
after the other, and looks at the socket again in between, so that requests overtake loads and what
was cancelled never starts. The journal is written before each entry, and not before every earlier
answer is in the socket: the order of those two lines is what makes blame exact.
"""

import heapq
import importlib
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from socket import socket
from typing import Any, cast

from modelmesh.wire.framed_blocking import FramedServer, NumberedCall
from modelmesh.wire.journal import JournalWriter
from modelmesh.wire.transport import Call
from runtime_adapters import finding, sizing
from runtime_adapters.core import MOST_ANSWER_BYTES, HostCore
from runtime_adapters.finding import Runtimes
from runtime_adapters.keeper import PR_SET_CHILD_SUBREAPER, living_children, prctl


class HostProgram:
    """What every host of one zygote is going to do."""

    def __init__(self, runtimes: Runtimes, missing: Mapping[str, str]) -> None:
        self._runtimes = runtimes
        self._missing = missing

    def facts(self) -> dict[str, Any]:
        """What there is to say of the runtimes, as JSON data, for the daemon."""
        return {
            "types": self._runtimes.types,
            "pathless_types": self._runtimes.types_where(lambda runtime: not runtime.needs_path),
            "quick_types": self._runtimes.types_where(lambda runtime: runtime.always_quick),
            "missing": dict(self._missing),
            "versions": {name: version(name) for name in ("numpy", "scikit-learn")},
        }

    def run(self, link: socket, page: memoryview, options: Mapping[str, Any]) -> None:
        """One host's life: serve until the daemon ends the link.

        Options: `weigh` ("allocator", which needs PYTHONMALLOC=malloc, or "private" for a host of
        one model) and `most_answer_bytes`.
        """
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # what model code starts and abandons stays in sight
        private = options.get("weigh") == "private"
        scale = sizing.PrivateScale() if private else sizing.AllocatorScale()
        most_bytes = options.get("most_answer_bytes", MOST_ANSWER_BYTES)
        _Host(link, page, self._runtimes, scale, most_bytes).serve()


def prepare(named: str, options: Mapping[str, str]) -> HostProgram:
    """Import all runtimes (`named`: further ones, "module:Class,...") and what they preload."""
    runtimes, missing = finding.find(named, options)
    for module in runtimes.preload:
        importlib.import_module(module)
    return HostProgram(runtimes, missing)


class _Host:
    """One host process; the `Surroundings` of its core."""

    def __init__(
        self,
        link: socket,
        page: memoryview,
        runtimes: Runtimes,
        scale: sizing.Scale,
        most_answer_bytes: int,
    ) -> None:
        self.scale = scale
        self.now = time.monotonic
        self.private_bytes = sizing.private_bytes
        self._server = FramedServer(link, self._work)
        self._journal = JournalWriter(page)
        self._running: list[int] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_ids = itertools.count()
        self._core = HostCore(runtimes, self, most_answer_bytes)

    def serve(self) -> None:
        self._server.serve(self._idle, self._next_due_s)

    def _work(self, calls: list[NumberedCall]) -> None:
        """Run these calls and whatever arrives meanwhile."""
        self._core.take(cast(list[Call], calls))
        self._fire()
        while self._core.step():
            self._core.take(cast(list[Call], self._server.poll()))
            self._fire()
        self._server.flush()
        self._journal.end()
        self._running = []

    def _idle(self) -> None:
        self._work([])

    def begin(self, calls: Sequence[Call]) -> None:
        call_ids = [cast(NumberedCall, call).call_id for call in calls]
        if call_ids != self._running:
            self._server.flush()
            self._journal.begin(call_ids, time.monotonic_ns())
            self._running = call_ids

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (self.now() + delay_s, next(self._timer_ids), callback))

    def companions(self) -> Mapping[str, int]:
        return {"thread": len(os.listdir("/proc/self/task")), "child": len(living_children())}

    def _fire(self) -> None:
        while self._timers and self._timers[0][0] <= self.now():
            heapq.heappop(self._timers)[2]()

    def _next_due_s(self) -> float | None:
        return self._timers[0][0] - self.now() if self._timers else None
