"""A configuration file that may change while the daemon runs, looked at again and again.

A mounted ConfigMap is changed by putting another folder behind a symlink, an editor puts another
file in the old one's place, a script writes into it: all are seen in what `stat` says of the path,
links followed, which needs no watch on folders and works on every file system. What cannot be read
or makes no sense is said once and changes nothing: the rules of before stay.

Must never touch the loop with a file: a volume that hangs holds a thread, one, and no caller.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from modelmesh.errors import Code, Failure, MeshError
from modelmesh.observe.tasks import every

PERIOD_S: Final = 2.0  # a look is two system calls; kubelet itself takes up to a minute
MOST_BYTES: Final = 1 << 20  # of a ConfigMap

log = structlog.get_logger("tasks")

_Signature = tuple[int, ...] | None


class ConfigFile:
    """One such file. `apply` takes its text, and raises ValueError if that makes no sense."""

    def __init__(self, path: str, what: str, apply: Callable[[str], None]) -> None:
        self._path = path
        self._what = what
        self._apply = apply
        self._seen: _Signature = None

    def load(self) -> None:
        """At the start, when it has to be right; MeshError says what is wrong."""
        self._seen, text, why = _read(self._path, None)
        if not why:
            try:
                self._apply(text or "")
            except ValueError as error:
                why = str(error)
        if why:
            message = f"{self._what} {self._path}: {why}"
            raise MeshError(Failure(Code.FAILED_PRECONDITION, message))

    def watch(self, period_s: float = PERIOD_S) -> asyncio.Task[None]:
        """Look again every so often, until the task is cancelled."""
        return every(period_s, self.look, f"watch {self._what}")

    async def look(self) -> None:
        """Apply what is there if it is another one."""
        seen, text, why = await asyncio.to_thread(_read, self._path, self._seen)
        if seen == self._seen:
            return
        self._seen = seen
        if text is not None:
            try:
                self._apply(text)
            except ValueError as error:
                why = str(error)
        if why:
            log.error("a file is ignored", what=self._what, path=self._path, why=why)
        else:
            log.info("a file was read again", what=self._what, path=self._path)


def _read(path: str, seen: _Signature) -> tuple[_Signature, str | None, str]:
    """What the file is like now, its text if it is not as `seen`, and why it could not be read."""
    try:
        stat = os.stat(path)
        signature = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if signature == seen:
            return signature, None, ""
        if stat.st_size > MOST_BYTES:
            return signature, None, f"it has more than {MOST_BYTES:,} bytes"
        return signature, Path(path).read_text("utf-8"), ""
    except OSError as error:
        return (error.errno or 0,), None, error.strerror or str(error)
    except UnicodeDecodeError:
        return signature, None, "it is not UTF-8"
