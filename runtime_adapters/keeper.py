"""The life of one host process, and of the keeper that stands over it: what happens after a fork.

The zygote forks a *keeper*, the keeper forks the *host*. The keeper is thrown away with its host:
it exists so that a model that kills its parent costs one host and not the zygote, and so that
whatever a model leaves behind (children, daemons of daemons) ends with the host: the keeper is a
subreaper and waits for nothing else. Should the daemon die, even by SIGKILL, the control socket
hangs up and the keeper ends its host; should the keeper die, the kernel ends the host (PDEATHSIG)
and the zygote ends the strays.

A host gets a session of its own, closes everything but its link, its journal page and its captured
output, and can neither dump core nor outgrow its data limit. A copy of it that model code makes by
`os.fork` has no link and no page, so it can neither answer for the host nor forge its journal.

Must never: start a thread, run an event loop, import a library that does.
"""

import ctypes
import gc
import json
import mmap
import os
import random
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
OOM_SCORE_ADJ = 500
PAGE_BYTES = 4096

HostMain = Callable[[socket.socket, memoryview, dict[str, Any]], None]

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Birth:
    """What one host is born with: three inherited descriptors, and its options as JSON data."""

    host: int
    link_fd: int
    journal_fd: int
    output_fd: int
    data_limit_bytes: int  # beyond what it has at birth; 0 = none
    options: dict[str, Any]


class Children:
    """Wakes a poll when a child ends, and says what lives. For single-threaded processes."""

    def __init__(self) -> None:
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    @property
    def fd(self) -> int:
        """Readable when a child may have ended."""
        return self._wake_read

    @property
    def fds(self) -> tuple[int, int]:
        """What must stay open."""
        return self._wake_read, self._wake_write

    def ended(self) -> list[tuple[int, int]]:
        """The children that have ended since, as (pid, wait status)."""
        with suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        found = []
        with suppress(ChildProcessError):
            while (end := os.waitpid(-1, os.WNOHANG))[0]:
                found.append(end)
        return found

    def forget(self) -> None:
        """In a forked child: back to a process that has no children."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._wake_read)
        os.close(self._wake_write)


def prctl(option: int, argument: Any) -> None:
    """One prctl(2); raises OSError."""
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def name_process(name: str) -> None:
    """What `ps` shows (15 characters)."""
    prctl(PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]))


def living_children() -> list[int]:
    """The pids of this process's children, those adopted as a subreaper included."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]


def keep(control: socket.socket, birth: Birth, main: HostMain) -> None:
    """The keeper's whole life: fork the host, report it, wait, end what it leaves. Then exit."""
    name_process(f"mm-keeper-{birth.host}")
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    children = Children()
    keeper = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        _report(control, {"host": birth.host, "error": f"cannot fork: {error.strerror}"})
        return
    if pid == 0:
        children.forget()
        _be_host(keeper, birth, main)
    pidfd = os.pidfd_open(pid)
    _report(control, {"host": birth.host, "pid": pid}, pidfd)
    os.close(pidfd)
    close_all_but({0, 1, 2, control.fileno(), *children.fds})
    status = _await_end(control, children, pid)
    if status is not None:
        _report(control, {"host": birth.host, "status": status})
    _end_children()


def _report(control: socket.socket, message: dict[str, Any], *fds: int) -> None:
    with suppress(OSError):  # the daemon is gone: `_await_end` sees that too
        socket.send_fds(control, [json.dumps(message).encode()], fds)


def _await_end(control: socket.socket, children: Children, pid: int) -> int | None:
    """The host's wait status; None if the daemon went first."""
    poll = select.poll()
    poll.register(control, 0)  # hang-up only: what is said on it is for the zygote
    poll.register(children.fd, select.POLLIN)
    while True:
        for ended, status in children.ended():
            if ended == pid:
                return status
        for fd, _ in poll.poll():
            if fd == control.fileno():
                return None


def _end_children() -> None:
    """Kill and reap until nobody is left, whoever forks meanwhile."""
    while True:
        for pid in living_children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _be_host(keeper: int, birth: Birth, main: HostMain) -> None:
    """The host's whole life. Never returns."""
    status = 70
    try:
        link, page = _settle_in(keeper, birth)
        main(link, page, birth.options)
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _settle_in(keeper: int, birth: Birth) -> tuple[socket.socket, memoryview]:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(70)
    os.setsid()
    name_process(f"mm-host-{birth.host}")
    for standard in (1, 2):
        os.dup2(birth.output_fd, standard)
    close_all_but({0, 1, 2, birth.link_fd, birth.journal_fd})
    page = mmap.mmap(birth.journal_fd, PAGE_BYTES)
    os.close(birth.journal_fd)
    page.madvise(mmap.MADV_DONTFORK)
    os.set_inheritable(birth.link_fd, False)
    os.register_at_fork(after_in_child=lambda: _lose(birth.link_fd))
    _lower_limits(birth.data_limit_bytes)
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
    gc.freeze()
    return socket.socket(fileno=birth.link_fd), memoryview(page)


def close_all_but(keep_fds: set[int]) -> None:
    """Close every descriptor of this process except these."""
    with os.scandir("/proc/self/fd") as entries:
        fds = [int(entry.name) for entry in entries]
    for fd in fds:
        if fd not in keep_fds:
            with suppress(OSError):  # the folder's own descriptor
                os.close(fd)


def _lose(link_fd: int) -> None:
    """In a copy of the host: the link leads nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(nowhere, link_fd, inheritable=False)
    os.close(nowhere)


def _lower_limits(data_limit_bytes: int) -> None:
    # 1, not 0: it also keeps the kernel from starting a core handler behind a pipe
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(OOM_SCORE_ADJ))
    if data_limit_bytes:
        _, already = resource.getrlimit(resource.RLIMIT_DATA)  # the daemon may have been quicker
        limit = _data_bytes() + data_limit_bytes
        if already == resource.RLIM_INFINITY or limit < already:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _data_bytes() -> int:
    """Writable private memory of this process, as RLIMIT_DATA counts it."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0
