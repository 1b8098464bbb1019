"""A host process: the blocking loop around the core, with its journal, its scale and its timers.

The zygote prepares once (`prepare` imports every runtime, and runs no model); each host that is
forked from it then lives in `HostProgram.run`. One thread reads all that is there, runs one entry
after the other, and looks at the socket again in between, so that requests overtake loads and what
was cancelled never starts. The journal is written before each entry, and not before every earlier
answer is in the socket: the order of those two lines is what makes blame exact.
"""

import gc
import heapq
import importlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from socket import socket
from typing import Any, Final, cast

from modelmesh.wire.framed_blocking import FramedServer, NumberedCall
from modelmesh.wire.framed_reply import FrameReply
from modelmesh.wire.journal import JournalWriter
from modelmesh.wire.transport import Call
from runtime_adapters import finding, sizing
from runtime_adapters.core import MOST_ANSWER_BYTES, HostCore
from runtime_adapters.finding import Runtimes
from runtime_adapters.keeper import PR_SET_CHILD_SUBREAPER, living_children, prctl
from runtime_adapters.threads import TASKS, Threads

_TAINT_PATIENCE_S: Final = 2.0
_LOOK_S: Final = 0.001


class _TakenAway(BaseException):
    """The daemon has sent some of these calls elsewhere: this entry must not run."""

    def __init__(self, calls: Sequence[Call]) -> None:
        super().__init__()
        self.calls = calls


class HostProgram:
    """What every host of one zygote is going to do."""

    def __init__(self, runtimes: Runtimes, missing: Mapping[str, str], threads: int) -> None:
        self._runtimes = runtimes
        self._missing = missing
        self._threads = threads

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
        if self._threads > 1:
            _allow_threads(self._threads)
        _Host(link, page, self._runtimes, scale, most_bytes, self._threads == 1).serve()


def prepare(named: str, options: Mapping[str, str], threads: int = 1) -> HostProgram:
    """Import all runtimes (`named`: further ones, "module:Class,...") and what they preload.

    The heap is then made fit to be shared with the hosts that are forked from it. `threads` of the
    numeric libraries are for the hosts: here there must be one.
    """
    runtimes, missing = finding.find(named, options)
    for module in runtimes.preload:
        importlib.import_module(module)
    sizing.forget_lookups()
    gc.collect()
    gc.freeze()
    allocator = sizing.Allocator()
    allocator.fix_thresholds()
    allocator.fill_holes()
    return HostProgram(runtimes, missing, threads)


def _allow_threads(count: int) -> None:
    """So many threads for each numeric library, those that are not loaded yet included."""
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = str(count)
    importlib.import_module("threadpoolctl").threadpool_limits(count)  # comes with scikit-learn


class _Host:
    """One host process; the `Surroundings` of its core."""

    def __init__(
        self,
        link: socket,
        page: memoryview,
        runtimes: Runtimes,
        scale: sizing.Scale,
        most_answer_bytes: int,
        watches_threads: bool,
    ) -> None:
        self.scale = scale
        self.now = time.monotonic
        self.private_bytes = sizing.private_bytes
        self._server = FramedServer(link, self._work)
        self._journal = JournalWriter(page)
        self._pid = os.getpid()
        self._running: list[int] = []
        self._threads = Threads() if watches_threads else None
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_ids = itertools.count()
        self._core = HostCore(runtimes, self, most_answer_bytes)

    def serve(self) -> None:
        self._server.serve(self._idle, self._next_due_s)

    def _work(self, calls: list[NumberedCall]) -> None:
        """Run these calls and whatever arrives meanwhile."""
        self._take(calls)
        while self._step():
            self._take(self._server.poll())
        self._leave_entry()
        self._journal.end()

    def _take(self, calls: list[NumberedCall]) -> None:
        if self._core.take(cast(list[Call], calls)):
            self._end_if_copy()
        while self._timers and self._timers[0][0] <= self.now():
            heapq.heappop(self._timers)[2]()

    def _step(self) -> bool:
        try:
            if not self._core.step():
                return False
        except _TakenAway as taken:
            self._core.take([call for call in taken.calls if not self._is_taken(call)])
        except BaseException:
            self._end_if_copy()
            raise
        self._end_if_copy()
        return True

    def _idle(self) -> None:
        self._work([])

    def begin(self, calls: Sequence[Call]) -> None:
        call_ids = [cast(NumberedCall, call).call_id for call in calls]
        if call_ids != self._running:
            self._leave_entry()
            if not self._journal.begin(call_ids, time.monotonic_ns()):
                raise _TakenAway(calls)
            self._running = call_ids

    def _is_taken(self, call: Call) -> bool:
        return self._journal.is_shut(cast(NumberedCall, call).call_id)

    def _leave_entry(self) -> None:
        """Let the answers go; not before the daemon knows, where an entry has left a thread behind.

        That thread may bring the host down in anybody's turn. So the entry stays in the journal,
        and takes the blame, until the daemon sees that it does not end and takes the others away.
        And where an entry has lost the link, it stays for good: it was not answered.
        """
        if self._threads is not None and self._threads.are_more(bool(self._running)):
            give_up = self.now() + _TAINT_PATIENCE_S
            while self._journal.is_open and self.now() < give_up:
                time.sleep(_LOOK_S)
        self._server.flush()
        if self._server.ended and self._running:
            os.kill(os.getpid(), signal.SIGKILL)  # as the daemon is about to
        self._running = []

    def _end_if_copy(self) -> None:
        """A copy that model code made behind Python's back holds the link: it must not touch it.

        To be asked as soon as model code has run, before anything is read, written or begun. Only
        the kernel knows: what runs at Python's own forks does not run at these.
        """
        if os.getpid() != self._pid:
            os._exit(70)

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (self.now() + delay_s, next(self._timer_ids), callback))

    def was_read(self, call: Call, took_s: float) -> None:
        cast(FrameReply, call.reply).read_s = took_s

    def was_written(self, call: Call, took_s: float) -> None:
        cast(FrameReply, call.reply).written_s = took_s

    def companions(self) -> Mapping[str, int]:
        return {"thread": len(os.listdir(TASKS)), "child": len(living_children())}

    def _next_due_s(self) -> float | None:
        return self._timers[0][0] - self.now() if self._timers else None
