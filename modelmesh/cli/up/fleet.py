"""The whole fleet from its start to its end: etcd first and last, daemons together between.

Starts all and says so once all are ready; shows what is where until somebody wants the end; ends
the daemons within their own bound, then etcd. A fleet that cannot start says why and leaves nothing
behind.
"""

import asyncio
import math
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from modelmesh.cli.up.children import Child
from modelmesh.cli.up.fleet_file import FleetFile, document
from modelmesh.cli.up.folder import refused
from modelmesh.cli.up.kept import Kept
from modelmesh.cli.up.looks import Looker
from modelmesh.cli.up.plan import Plan
from modelmesh.cli.up.restarts import GIVE_UP_AFTER
from modelmesh.cli.up.screen import Screen
from modelmesh.observe import tasks

ETCD_START_S: Final = 60.0
START_S: Final = 180.0  # two dozen daemons on two cores
ETCD_END_S: Final = 10.0
SHOW_EVERY_S: Final = 1.0
# One Ctrl-C may arrive twice (`timeout -s INT` signals the process and its group); nobody presses
# it twice within this.
AGAIN_S: Final = 0.3


@dataclass(slots=True)
class Signals:
    """What the person at the keyboard wants: the end, or the end at once."""

    ending: asyncio.Event = field(default_factory=asyncio.Event)
    killing: asyncio.Event = field(default_factory=asyncio.Event)
    _interrupted_at: float = math.inf

    def end(self) -> None:
        """SIGTERM: to say it twice means no more than to say it once."""
        self.ending.set()

    def interrupt(self, now: float) -> None:
        """Ctrl-C; the second one kills."""
        if now - self._interrupted_at >= AGAIN_S:
            self.killing.set()
        self._interrupted_at = min(self._interrupted_at, now)
        self.ending.set()


@dataclass(frozen=True, slots=True)
class Parts:
    """What a fleet consists of. `etcd` None: it is somebody else's."""

    plan: Plan
    etcd_url: str
    etcd: Child | None
    daemons: Sequence[Child]
    end_s: float  # longer than a daemon takes to end by itself


class Fleet:
    """One fleet; `run` it once."""

    def __init__(self, parts: Parts, file: FleetFile, screen: Screen) -> None:
        self._parts = parts
        self._file = file
        self._screen = screen
        self._news = asyncio.Event()
        self._complete = False  # has been ready as a whole
        self._etcd = [self._kept(parts.etcd)] if parts.etcd is not None else []
        self._pods = [self._kept(child) for child in parts.daemons]
        self._tasks: dict[Kept, asyncio.Task[None]] = {}

    def _kept(self, child: Child) -> Kept:
        return Kept(child, self._screen.say, self._changed)

    async def run(self, signals: Signals) -> None:
        """Until a signal. Raises CommandFailed if it cannot start, having ended what did."""
        self._file.remove()
        try:
            if await _unless(signals.ending, self._start()):
                await _unless(signals.ending, self._show())
        finally:
            await self._end(signals)

    async def _start(self) -> None:
        await self._keep(self._etcd, ETCD_START_S)
        await self._keep(self._pods, START_S)
        self._complete = True
        self._changed()
        pods = self._parts.plan.pods
        grpc = " ".join(f"{pod.id}={pod.grpc}" for pod in pods)
        rest = " ".join(f"{pod.id}={pod.rest}" for pod in pods)
        where = f"gRPC {grpc}, REST {rest}, etcd {self._parts.etcd_url}, {self._file.path}"
        self._screen.say(f"ready: {where}; Ctrl-C ends all")

    async def _keep(self, every: Sequence[Kept], within_s: float) -> None:
        """Start these; return when all are ready at the same time."""
        for kept in every:
            self._tasks[kept] = tasks.spawn(kept.keep(), f"keep-{kept.child.name}")
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not all(kept.ready for kept in every):
                    self._give_up_on(every)
                    self._news.clear()
                    await self._news.wait()
                return
        late = [kept for kept in every if not kept.ready]
        names = ", ".join(kept.child.name for kept in late)
        raise refused(f"not ready within {within_s:g} s: {names}", f"see {late[0].child.log}")

    def _give_up_on(self, every: Sequence[Kept]) -> None:
        for kept in every:
            if kept.failed_starts >= GIVE_UP_AFTER:
                said = kept.last_words().replace("\n", " | ")
                raise refused(f"{kept.child.name} does not start: {said}", f"see {kept.child.log}")

    def _changed(self) -> None:
        self._news.set()
        if self._complete:
            etcd_pid = self._etcd[0].pid if self._etcd else None
            pids = {kept.child.name: kept.pid or 0 for kept in self._pods}
            try:
                self._file.write(document(self._parts.plan, self._parts.etcd_url, etcd_pid, pids))
            except OSError as error:  # a full disk ends no fleet; the next change tries again
                self._screen.say(f"{self._file.path} is out of date: {error.strerror}")

    async def _show(self) -> None:
        pods = zip(self._parts.plan.pods, self._pods, strict=True)
        lookers = [Looker(pod, kept) for pod, kept in pods]
        while True:
            self._screen.show(await asyncio.gather(*(looker.look() for looker in lookers)))
            await asyncio.sleep(SHOW_EVERY_S)

    async def _end(self, signals: Signals) -> None:
        self._complete = False
        self._file.remove()
        if signals.ending.is_set():
            self._screen.close("ending; Ctrl-C again kills")
        await self._end_these(self._pods, self._parts.end_s, signals.killing)
        await self._end_these(self._etcd, ETCD_END_S, signals.killing)

    async def _end_these(
        self, every: Sequence[Kept], within_s: float, killing: asyncio.Event
    ) -> None:
        ends = [self._tasks[kept] for kept in every if kept in self._tasks]
        if not ends:
            return
        for kept in every:
            kept.end()
        in_time = False
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                in_time = await _unless(killing, asyncio.wait(ends))
        if not in_time:
            for kept in every:
                kept.kill()
            await asyncio.wait(ends, timeout=ETCD_END_S)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, Any]) -> bool:
    """Do `work`, but leave it when `stop` is set; whether it was done. Raises what it raises."""
    loop = asyncio.get_running_loop()  # no guarded tasks: whoever waits here hears of a failure
    working = loop.create_task(work, name="work")
    stopping = loop.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
            return True
        return False
    finally:
        await tasks.stop(working, stopping)
