"""The fleet's folder, which only one `up` may use, and the ports, which nobody else may have."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from modelmesh.cli.exits import CommandFailed
from modelmesh.cli.up.children import HOST
from modelmesh.errors import Code, Failure

LOCK: Final = "up.lock"


def refused(message: str, hint: str) -> CommandFailed:
    """The machine is not as the command needs it."""
    return CommandFailed(Failure(Code.FAILED_PRECONDITION, message), hint=hint)


@contextmanager
def taken(data_dir: Path) -> Iterator[None]:
    """The folder, made if need be, is ours meanwhile; raises CommandFailed.

    The kernel frees the lock when this process ends, however it ends. Children do not inherit it.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise refused(f"{data_dir}: {error.strerror}", "choose another --data-dir") from None
    try:
        _lock(lock, data_dir)
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(lock)


def _lock(lock: int, data_dir: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 20).decode(errors="replace").strip()
        raise refused(
            f"{data_dir} is in use by another `modelmesh up` (process {holder or '?'})",
            "stop it, or choose another --data-dir and --base-port",
        ) from None


def check_free(ports: Iterable[tuple[int, str]]) -> None:
    """Raises CommandFailed for the first port that somebody has, before anything is started."""
    for port, use in ports:
        try:
            socket.create_server((HOST, port)).close()
        except OSError as error:
            taken_already = error.errno == errno.EADDRINUSE
            why = "is in use" if taken_already else f"cannot be used ({error.strerror})"
            message = f"port {port}, for {use}, {why}"
            raise refused(message, "choose another --base-port") from None
