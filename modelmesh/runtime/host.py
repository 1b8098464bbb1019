"""One host process, as the daemon sees it: a link, a journal page, captured output, and its end.

A host is dead when its process is. A link that ends earlier means that model code has closed it;
then the process is killed first, since only a dead process can begin nothing more: what the
journal says after that is final. A process that ends before its link (a copy of it may hold the
other end) is drained first: what it has answered is answered.
"""

import asyncio
import fcntl
import mmap
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from resource import RLIMIT_DATA, prlimit
from time import monotonic
from typing import Final

from modelmesh.errors import Failure
from modelmesh.pb.model_runtime_pb2 import UnloadModelRequest
from modelmesh.policy.tiering import Tier
from modelmesh.runtime.blame import Doom, Ran
from modelmesh.runtime.memory import queued_s
from modelmesh.runtime.output import Output
from modelmesh.runtime.silence import Counts, Silence
from modelmesh.runtime.zygote import HostProcess, ZygoteClient, how_it_ended, no_host
from modelmesh.wire import journal, kinds
from modelmesh.wire.framed import FramedLink
from modelmesh.wire.frames import NO_TIMES, Times
from modelmesh.wire.journal import JournalEntry
from modelmesh.wire.transport import NO_METADATA, Body, Call, Caller, Metadata, text

NOTHING: Final = JournalEntry(0, 0.0, ())
MOST_LEFT: Final = 4096  # calls that were cancelled while they may have been running
END_S: Final = 5.0  # a killed process is gone long before
STATUS_S: Final = 3.0  # how long a dead host's keeper may take to say how it died: a machine may
# stand still for two seconds. That a keeper has died too is said at once, so nobody waits for it.

Took = Callable[[str, Times], None]  # for which model


@dataclass(frozen=True, slots=True)
class Remains:
    """What a dead host leaves: what it was running, and every call that it had not answered."""

    running: JournalEntry
    unanswered: dict[int, Call]


class HostLink(FramedLink):
    """Remembers calls whose callers left: one of them may be what a host hangs on.

    Tells `took` what the host says of each call that it has decoded, once: with the answer, or
    when it sees that the caller has left. What goes on elsewhere is told by whoever answers it.
    """

    left: dict[int, Ran]
    owed: dict[int, str]  # whose times the host may still tell, though the caller has left: models
    took: Took
    withdrawn_count = 0

    @property
    def sent_count(self) -> int:
        """How many calls the host has had since its birth."""
        return self._last_id

    @property
    def unanswered_count(self) -> int:
        """How much the host has to do."""
        return len(self._waiting)

    @property
    def counts(self) -> Counts:
        """What a silence is told from; costs nothing for each call."""
        answered = self.sent_count - self.unanswered_count - self.withdrawn_count
        return Counts(answered, self.withdrawn_count, self.unanswered_count)

    def is_open(self, call_id: int) -> bool:
        """Whether the call still waits for its answer."""
        return call_id in self._waiting

    def withdraw(self, call_id: int) -> Call | None:
        call = super().withdraw(call_id)
        if call is not None:
            self.left[call_id] = ran(call)
            self.withdrawn_count += 1
            if len(self.left) > MOST_LEFT:
                del self.left[next(iter(self.left))]
        return call

    def _left(self, call_id: int) -> None:
        call = self.withdraw(call_id)
        if call is not None:
            self.owed[call_id] = text(call.header(kinds.MODEL_ID))
            if len(self.owed) > MOST_LEFT:
                del self.owed[next(iter(self.owed))]

    def timed(self, call_id: int, call: Call | None, times: Times) -> None:
        if times == NO_TIMES:
            return
        if call is not None:
            self.took(text(call.header(kinds.MODEL_ID)), times)
        elif call_id in self.owed:
            self.took(self.owed.pop(call_id), times)


class Host:
    """A living host. `on_end` is called once, synchronously, when it is dead and drained."""

    def __init__(
        self,
        number: int,
        process: HostProcess,
        sock: socket.socket,
        page: mmap.mmap,
        output: Output,
        on_end: "Callable[[Host, Remains], None]",
        took: Took,
    ) -> None:
        self.number = number
        self.tier = Tier.SHARED
        self.sole = ""  # the only model whose entries may run here ("" = any)
        self.models: dict[str, int] = {}  # bytes by model
        self.doom: Doom | None = None
        self.limit_s = 0.0
        self.leaving = False  # gets no more calls, and is retired when it has none left
        self.renewed = False  # another is to take its models over
        self.retired = False
        self.dead = False
        self.pid = process.pid
        self.born = monotonic()
        self._queued_s = 0.0  # when that was seen first
        self._seen: tuple[tuple[int, ...], float] = (), self.born  # what ran, since when we know
        self._process = process
        self._mapped = page
        self._page = memoryview(page)
        self._output = output
        self._on_end = on_end
        self._unanswered: dict[int, Call] = {}
        self._last = NOTHING
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.link = HostLink(sock, on_lost=self._link_lost)
        self.link.left, self.link.owed = {}, {}
        self.link.took = took
        self.silence = Silence(self.link.counts, self.born)
        self._loop.add_reader(process.pidfd, self._died)

    # --- what runs

    @property
    def usable(self) -> bool:
        """Whether calls may be sent to it."""
        return not self.link.closed

    def running(self) -> JournalEntry:
        """What the host says it runs now; what it said last, once it is dead."""
        return self._last if self.dead else journal.read(self._page)

    def held_s(self, entry: JournalEntry, now: float) -> float:
        """How long the entry has run: as the host says, but at least since it was seen first here.

        To be asked at every look. Entries are told apart by their calls: the daemon numbers those.
        """
        if entry.call_ids != self._seen[0]:
            self._seen = entry.call_ids, now
            self._queued_s = queued_s(self.pid)
        return now - max(self.born, min(entry.since, self._seen[1]))

    def starved_s(self) -> float:
        """How much of that time the machine had no CPU for it: no fault of the model's."""
        return queued_s(self.pid) - self._queued_s

    def what(self, entry: JournalEntry) -> Ran | None:
        """What an entry is about; None if none of its calls is known."""
        calls = self._unanswered or self.link.unanswered()
        for call_id in entry.call_ids:
            if call_id in calls:
                return ran(calls[call_id])
            if call_id in self.link.left:
                return self.link.left[call_id]
        return None

    def ask(self, now: float) -> None:
        """Put the question that any host answers which is not in the midst of an entry."""
        call_id = self.link.submit(Call(kinds.RUNTIME_STATUS, b"", Nobody()))
        self.silence = self.silence.with_question(call_id, now)

    def suspects(self) -> dict[int, Ran]:
        """By what the daemon knows alone: the calls one of which a silent host may be running.

        What was sent after the question never began: it would have been answered first.
        """
        more = self.link.withdrawn_count - self.silence.counts.withdrawn
        left = list(self.link.left.items())[-more:] if more else []
        calls = self._unanswered or self.link.unanswered()
        found = dict(left) | {call_id: ran(call) for call_id, call in calls.items()}
        return {call_id: found[call_id] for call_id in found if call_id < self.silence.question_id}

    def shut(self) -> JournalEntry:
        """Nothing that was sent so far begins any more, but for the entry returned."""
        highest = max((*self.link.unanswered(), *self.link.left), default=0)
        return journal.shut(self._page, highest)

    def reopen(self) -> None:
        """Undo `shut`, before anything was sent elsewhere."""
        journal.reopen(self._page)

    def limit_data(self, limit_bytes: int) -> None:
        """Bound what the host may allocate beyond what it has now."""
        with suppress(OSError, ValueError), open(f"/proc/{self.pid}/statm") as file:
            have = int(file.read().split()[5]) * mmap.PAGESIZE
            hard = prlimit(self.pid, RLIMIT_DATA)[1]
            limit = have + limit_bytes if hard < 0 else min(have + limit_bytes, hard)
            prlimit(self.pid, RLIMIT_DATA, (limit, limit))

    def discard(self, model_id: str) -> None:
        """Unload a model that nobody will ask for here, whenever the host comes to it."""
        discard(self.link, model_id)

    # --- its end

    def condemn(self, doom: Doom, limit_s: float = 0.0) -> None:
        """End it for what it is doing."""
        if self.doom is None:
            self.doom, self.limit_s = doom, limit_s
            self._process.kill()

    def kill(self) -> None:
        """End it now."""
        self._process.kill()

    async def retire(self) -> None:
        """Let it go: hang up, so that an idle host exits; one that is busy is killed."""
        if self.dead:
            return
        self.retired = True
        if self.running().call_ids:
            self._process.kill()
        await self.link.close()

    async def end(self, grace_s: float) -> None:
        """Retire it and wait until it is dead, by force after the grace."""
        await self.retire()
        await asyncio.wait([self.ended], timeout=grace_s)
        if not self.dead:
            self._process.kill()
            await asyncio.wait([self.ended], timeout=END_S)

    async def how_it_ended(self) -> str:
        """In words, once it has; bounded."""
        await asyncio.wait([self._process.status], timeout=STATUS_S)
        status = self._process.status
        return how_it_ended(status.result() if status.done() else None)

    def _link_lost(self, link: FramedLink) -> None:
        self._unanswered = link.unanswered()
        self._process.kill()

    def _died(self) -> None:
        self._loop.remove_reader(self._process.pidfd)
        if not self.link.closed:
            self.link.lose()
        self._last = self.running()
        self.dead = True
        self.ended.set_result(None)
        self._on_end(self, Remains(self._last, self._unanswered))
        self._process.close()
        self._output.close()
        self._page.release()
        self._mapped.close()


async def spawn(
    zygote: ZygoteClient,
    number: int,
    data_limit_bytes: int,
    on_end: Callable[[Host, Remains], None],
    took: Took,
) -> Host:
    """A new host. UNAVAILABLE where there is none to be had."""
    with ExitStack() as ours, ExitStack() as theirs:
        try:
            link, their_link = socket.socketpair()
            ours.callback(link.close)
            theirs.callback(their_link.close)
            page_fd = _sealed_page(number)
            theirs.callback(os.close, page_fd)
            read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
            theirs.callback(os.close, write_fd)
            page = mmap.mmap(page_fd, journal.SIZE_BYTES)
            ours.callback(page.close)
            output = _output(read_fd, number)
            ours.callback(output.close)
        except OSError as error:
            raise no_host(f"no means for a host: {error}") from None
        fds = their_link.fileno(), page_fd, write_fd
        process = await zygote.spawn(number, fds, data_limit_bytes, {"weigh": "allocator"})
        ours.pop_all()  # the host's from now on
        return Host(number, process, link, page, output, on_end, took)


def _output(read_fd: int, number: int) -> Output:
    try:
        return Output(read_fd, number)
    except OSError:
        os.close(read_fd)
        raise


def _sealed_page(number: int) -> int:
    """A page that the other side cannot shrink: that would be a SIGBUS here."""
    fd = os.memfd_create(f"mm-journal-{number}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, journal.SIZE_BYTES)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except OSError:
        os.close(fd)
        raise
    return fd


def ran(call: Call) -> Ran:
    """What remains of a call when its body is let go."""
    return Ran(call.kind, text(call.header(kinds.MODEL_ID)))


def named(model_id: str) -> Metadata:
    """Every call to a host says which model it is about."""
    return ((kinds.MODEL_ID, model_id),)


def discard(caller: Caller, model_id: str) -> None:
    """Ask for an unload, and wait for nothing."""
    body = UnloadModelRequest(modelId=model_id).SerializeToString()
    caller.start(Call(kinds.UNLOAD_MODEL, body, Nobody(), named(model_id)))


class Nobody:
    """The reply to a call whose answer nobody waits for."""

    gone = False
    slow = False

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        pass

    def send(self, message: Body) -> None:
        pass

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        pass

    def when_gone(self, callback: Callable[[], None]) -> None:
        pass

    def when_writable(self, callback: Callable[[], None]) -> None:
        pass
