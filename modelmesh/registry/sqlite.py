"""A store of one daemon that survives it: SQLite behind one writer thread, reads from memory.

Commits wait in a queue. When the writer is free, all of them (up to a bound) are decided in order
in one `Draft` and written as one transaction: 16 callers cost one flush of the disk, not 16. Once
it is durable the draft becomes visible and all its commits return, in one turn of the loop.

* A commit is decided against everything accepted before it. It is accepted only when its batch is
  formed, and there is one batch at a time: a failed transaction fails its own commits, whatever
  they compared (what they saw may never have been), and no others.
* Visible only after durable: nobody reads, watches or routes by what a crash could take back.
* A disk that does not answer within `stall_s` fails the commits that wait for it, outcome unknown;
  new ones are refused until it does. What is written late becomes visible late.

Must never make the loop wait for a disk: opening and closing happen in the thread too.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Self

from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.registry.database import Database
from modelmesh.registry.keyspace import HISTORY_EVENTS, Draft, Keyspace
from modelmesh.registry.local import LocalStore, T, log, unavailable

# Commits that wait for the writer, and their bytes. 2,000 at once must fit with ease.
WAITING_COMMITS: Final = 8192
WAITING_BYTES: Final = 64 << 20

# Commits of one transaction: bounds the loop's turn in which they are decided (about 10 us each).
BATCH_COMMITS: Final = 1024

# How long a disk may take for one transaction before its commits are given up.
STALL_S: Final = 10.0


@dataclass(eq=False, slots=True)
class _Waiting:
    """A change on its way: what to decide, and who wants to know."""

    work: Callable[[Draft], Any]
    size_bytes: int
    future: asyncio.Future[Any]
    outcome: Any = None
    error: MeshError | None = None


class SqliteStore(LocalStore):
    """Made by `open`."""

    def __init__(
        self,
        database: Database,
        space: Keyspace,
        writer: ThreadPoolExecutor,
        *,
        waiting_commits: int = WAITING_COMMITS,
        waiting_bytes: int = WAITING_BYTES,
        stall_s: float = STALL_S,
    ) -> None:
        super().__init__(space)
        self._database = database
        self._writer = writer
        self._waiting_commits = waiting_commits
        self._waiting_bytes = waiting_bytes
        self._stall_s = stall_s
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._flush_soon = False
        self._batch: list[_Waiting] = []
        self._draft: Draft | None = None  # on its way to the disk
        self._stall_timer: asyncio.TimerHandle | None = None
        self._stalled = False
        self._idle = asyncio.Event()
        self._idle.set()

    @classmethod
    async def open(
        cls,
        path: str,
        *,
        history_events: int = HISTORY_EVENTS,
        waiting_commits: int = WAITING_COMMITS,
        waiting_bytes: int = WAITING_BYTES,
        stall_s: float = STALL_S,
        database: Callable[[str], Database] = Database.open,
    ) -> Self:
        """Open or create the file, and read it. FAILED_PRECONDITION: in use, not ours, too new,
        out of reach; DATA_LOSS: damaged."""

        held: list[Database] = []

        def read() -> Keyspace:
            held.append(database(path))
            return held[0].load(history_events)

        def let_go() -> None:
            for each in held:
                each.close()

        writer = ThreadPoolExecutor(1, thread_name_prefix="registry")
        run = asyncio.get_running_loop().run_in_executor
        try:
            space = await run(writer, read)
        except asyncio.CancelledError:
            writer.submit(let_go)  # after `read`, which goes on alone
            writer.shutdown(wait=False)
            raise
        except BaseException:
            await run(writer, let_go)
            writer.shutdown(wait=False)
            raise
        log.info("registry opened", path=path, keys=space.count(""), revision=space.revision)
        return cls(
            held[0],
            space,
            writer,
            waiting_commits=waiting_commits,
            waiting_bytes=waiting_bytes,
            stall_s=stall_s,
        )

    async def close(self) -> None:
        """Refuse new commits, write those that wait, fold the log, let go of the lock."""
        if self.closed:
            return
        await super().close()
        try:
            await asyncio.wait_for(self._idle.wait(), self._stall_s)
        except TimeoutError:
            log.error("the registry's disk does not answer; its lock ends with the process")
        else:
            await self._loop.run_in_executor(self._writer, self._database.close)
        self._writer.shutdown(wait=False)

    async def _change(self, work: Callable[[Draft], T], size_bytes: int) -> T:
        self._check_open()
        if self._stalled:
            raise unavailable("the registry's disk does not answer")
        if (
            len(self._queue) >= self._waiting_commits
            or self._queued_bytes + size_bytes > self._waiting_bytes
        ):
            raise MeshError(
                Failure(
                    Code.RESOURCE_EXHAUSTED,
                    "too many registry changes wait for the disk",
                    fault=Fault.STORE,
                    retry_after_s=1.0,
                )
            )
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.append(_Waiting(work, size_bytes, future))
        self._queued_bytes += size_bytes
        self._idle.clear()
        self._flush_at_end_of_turn()
        return await future

    def _flush_at_end_of_turn(self) -> None:
        """All that commit in this turn of the loop share a transaction."""
        if self._draft is None and not self._flush_soon:
            self._flush_soon = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Decide what waits, and hand it to the writer."""
        self._flush_soon = False
        draft = Draft(self.space)
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_COMMITS))]
        for waiting in batch:
            self._queued_bytes -= waiting.size_bytes
            try:
                waiting.outcome = waiting.work(draft)
            except MeshError as error:
                waiting.error = error
        self._batch = batch
        if not draft.changed:
            self._settle(None)
            return
        self._draft = draft
        self._stall_timer = self._loop.call_later(self._stall_s, self._on_stall)
        written = self._loop.run_in_executor(self._writer, self._database.write, draft)
        written.add_done_callback(self._on_written)

    def _on_written(self, written: asyncio.Future[None]) -> None:
        """The transaction is durable, or has failed."""
        draft, self._draft = self._draft, None
        assert draft is not None
        assert self._stall_timer is not None
        self._stall_timer.cancel()
        self._stalled = False
        error = written.exception()
        if error is None:
            self._publish(draft)
        elif not isinstance(error, MeshError):
            log.error("the registry's writer failed", exc_info=error)
            error = unavailable(f"the registry's writer failed: {error!r}")
        else:
            log.error("registry changes failed", why=str(error), commits=len(self._batch))
        self._settle(error)

    def _settle(self, error: MeshError | None) -> None:
        """Tell the batch what came of it, and go on with what has come since."""
        batch, self._batch = self._batch, []
        for waiting in batch:
            _resolve(waiting, error or waiting.error)
        if self._queue:
            self._flush_at_end_of_turn()
        else:
            self._idle.set()

    def _on_stall(self) -> None:
        """Nobody waits longer for this disk; the transaction itself goes on."""
        self._stalled = True
        log.error("the registry's disk does not answer", seconds=self._stall_s)
        error = unavailable("the registry's disk does not answer; the outcome is unknown")
        for waiting in self._batch:
            _resolve(waiting, error)
        error = unavailable("the registry's disk does not answer; nothing was changed")
        while self._queue:
            _resolve(self._queue.popleft(), error)
        self._queued_bytes = 0


def _resolve(waiting: _Waiting, error: MeshError | None) -> None:
    if waiting.future.done():  # its caller has left, or was told of a stall
        return
    if error is not None:
        waiting.future.set_exception(error)
    else:
        waiting.future.set_result(waiting.outcome)
