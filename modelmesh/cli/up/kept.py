"""One child, kept alive: started, asked until it is ready, started again when it ends.

It stays itself through all its lives: the same name, ports and place. Only `end` lets it rest. What
it writes goes to its log and nowhere else.
"""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Final

from modelmesh.cli.leash import leashed
from modelmesh.cli.up import asking, restarts
from modelmesh.cli.up.children import Child
from modelmesh.observe import tasks

ASK_EVERY_S: Final = 0.05  # while it starts: a person waits
ANSWER_S: Final = 1.0
_LAST_BYTES: Final = 4096

Told = Callable[[str], None]


class Kept:
    """Give it a task that runs `keep`. `told` hears of ends, `changed` of every change."""

    def __init__(self, child: Child, told: Told, changed: Callable[[], None]) -> None:
        self.child = child
        self.pid: int | None = None  # of the last life, if it has ended
        self.ready = False  # has been ready in this life
        self.restarts = 0
        self.failed_starts = 0  # in a row
        self._told = told
        self._changed = changed
        self._ending = asyncio.Event()
        self._process: Process | None = None

    async def keep(self) -> None:
        """One life after the other, until `end`."""
        while not self._ending.is_set():
            how = await self._live()
            if self._ending.is_set():
                return
            pause_s = restarts.pause_s(self.failed_starts)
            when = f"in {pause_s:g} s" if pause_s else "at once"
            self._told(f"{self.child.name} {how}; it is started again {when}")
            self._changed()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause_s)
            self.restarts += 1

    def end(self) -> None:
        """Ask it to end, now or as soon as it has started."""
        self._ending.set()
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it without asking, and what shares its process group."""
        self._ending.set()
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def last_words(self, lines: int = 5) -> str:
        """The end of its log: what a daemon says of its own end, or the last lines."""
        try:
            with self.child.log.open("rb") as log:
                log.seek(max(log.seek(0, os.SEEK_END) - _LAST_BYTES, 0))
                said = log.read().decode(errors="replace")
        except OSError:
            return ""
        return restarts.end_of(said, lines)

    async def _live(self) -> str:
        """Start it and wait for its end; how it ended."""
        try:
            process = await self._start()
        except OSError as error:
            self.failed_starts += 1
            return f"cannot be started ({error.strerror})"
        asked = tasks.spawn(self._until_ready(), f"{self.child.name}-ready")
        try:
            status = await process.wait()  # without a bound: it is a life
        finally:
            await tasks.stop(asked)
        self.failed_starts = 0 if self.ready else self.failed_starts + 1
        self.ready = False
        said = self.last_words(1) if self.failed_starts else ""
        return restarts.how(status) + (f" ({said})" if said else "")

    async def _start(self) -> Process:
        with self.child.log.open("ab") as log:
            process = self._process = await self._spawned(log)
        self.pid = process.pid
        self._changed()
        if self._ending.is_set():
            self.end()
        return process

    async def _spawned(self, log: IO[bytes]) -> Process:
        return await asyncio.create_subprocess_exec(
            *leashed(self.child.argv),
            stdin=DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(self.child.environment),
            process_group=0,  # Ctrl-C is for `up`, which ends its children in their order
        )

    async def _until_ready(self) -> None:
        while True:  # it is another process: nothing wakes us
            if await self.answers():
                break
            await asyncio.sleep(ASK_EVERY_S)
        self.ready = True
        self._changed()

    async def answers(self) -> bool:
        """Whether it says now that it is ready."""
        answer = await asking.get(self.child.port, self.child.ready_path, ANSWER_S)
        return answer is not None and answer.status == 200

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
