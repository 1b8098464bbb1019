"""Models that already lie on this machine: local paths and file:// URIs.

Fetching finds and measures; nothing is copied, and nothing is read but names and sizes.

* A relative path starts at `root`, or without one at the daemon's working directory, when the model
  is fetched. With a `root`, a model must lie inside it, wherever symbolic links lead.
* Links are followed (model hubs lay out their files as links): a linked file counts with its
  target's size, a linked folder is walked once, so a circle ends. The path handed on keeps the
  links' names, since loaders go by a file's name.
* The named file or folder must be readable. What cannot be read further inside is not counted and
  left to the runtime, which alone knows which files it needs.

Each look at the disk happens in a worker thread, few at a time and for a bounded time: a file
server that hangs costs some threads, never the loop. Must never open a model's file.
"""

import asyncio
import errno
import os
import stat
from itertools import islice
from typing import Final

from modelmesh.errors import Code, Failure, Fault, MeshError, Reason
from modelmesh.storage.door import LocalModel
from modelmesh.storage.paths import local_path, scheme_of, unsupported

# Files and folders of one model, and seconds to look at them.
MOST_ENTRIES: Final = 100_000
FETCH_TIMEOUT_S: Final = 30.0

# Looks at the disk that go on at once; a hung one keeps its place until it ends.
FETCHES: Final = 4

# Errors that say that the path is wrong; any other says that the disk is in trouble.
_FOR_GOOD = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG}
)


class LocalStorage:
    """Storage for the scheme `file` and for paths without one."""

    def __init__(
        self,
        root: str = "",
        *,
        most_entries: int = MOST_ENTRIES,
        timeout_s: float = FETCH_TIMEOUT_S,
    ) -> None:
        self._root = root
        self._most_entries = most_entries
        self._timeout_s = timeout_s
        self._places = asyncio.Semaphore(FETCHES)

    @property
    def schemes(self) -> tuple[str, ...]:
        return ("file",)

    def check(self, path: str) -> None:
        if scheme_of(path) not in self.schemes:
            raise unsupported(path, self.schemes)
        local_path(path)

    async def fetch(self, model_id: str, path: str, key: str) -> LocalModel:
        self.check(path)
        if not path:
            return LocalModel("", 0)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._find_in_thread(local_path(path))
        except TimeoutError:
            message = f"{path}: the file system did not answer within {self._timeout_s:g} s"
            raise _failed(Code.UNAVAILABLE, message) from None
        except OSError as error:
            code = Code.FAILED_PRECONDITION if error.errno in _FOR_GOOD else Code.UNAVAILABLE
            raise _failed(code, f"{path}: {error.strerror}") from error

    async def release(self, model_id: str) -> None:
        """Nothing to do: the files are the operator's."""

    async def _find_in_thread(self, path: str) -> LocalModel:
        await self._places.acquire()
        look = asyncio.get_running_loop().run_in_executor(None, self._find, path)
        look.add_done_callback(self._looked)
        return await asyncio.shield(look)

    def _looked(self, look: "asyncio.Future[LocalModel]") -> None:
        """The thread is free again, however late, and whoever still waits for it."""
        self._places.release()
        if not look.cancelled():
            look.exception()

    def _find(self, path: str) -> LocalModel:
        """In a thread: where the model is, and how large."""
        place = os.path.normpath(os.path.join(os.path.abspath(self._root), path))
        self._keep_inside(place)
        found = os.stat(place)
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise _failed(Code.FAILED_PRECONDITION, f"{path}: neither a file nor a folder")
        wanted = os.R_OK | os.X_OK if stat.S_ISDIR(found.st_mode) else os.R_OK
        if not os.access(place, wanted, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), place)
        if stat.S_ISREG(found.st_mode):
            return LocalModel(place, found.st_size)
        return LocalModel(place, self._measure(place))

    def _measure(self, folder: str) -> int:
        """The sizes of all regular files below, in bytes."""
        size_bytes = entries = 0
        walked: set[tuple[int, int]] = set()
        folders = [folder]
        while folders:
            for entry in self._listed(folders.pop(), walked):
                entries += 1
                if entries > self._most_entries:
                    message = f"{folder}: more than {self._most_entries} files"
                    raise _failed(Code.FAILED_PRECONDITION, message)
                try:
                    found = entry.stat()
                except OSError as error:
                    if error.errno in _FOR_GOOD:  # a link to nowhere, or gone since
                        continue
                    raise
                if entry.is_symlink():
                    self._keep_inside(entry.path)
                if stat.S_ISDIR(found.st_mode):
                    folders.append(entry.path)
                elif stat.S_ISREG(found.st_mode):
                    size_bytes += found.st_size
        return size_bytes

    def _listed(self, folder: str, walked: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
        """A folder's entries, unless it was walked before or cannot be read."""
        try:
            here = os.stat(folder)
            if (here.st_dev, here.st_ino) in walked:
                return []
            walked.add((here.st_dev, here.st_ino))
            with os.scandir(folder) as entries:
                return list(islice(entries, self._most_entries + 1))
        except OSError as error:
            if error.errno in _FOR_GOOD:
                return []
            raise

    def _keep_inside(self, place: str) -> None:
        """With a root: refuse what lies, or leads, outside it."""
        if not self._root:
            return
        root = os.path.realpath(self._root)
        if os.path.commonpath([root, os.path.realpath(place)]) != root:
            raise _failed(Code.FAILED_PRECONDITION, f"{place}: lies outside {self._root}")


def _failed(code: Code, message: str) -> MeshError:
    retry_after_s = 5.0 if code is Code.UNAVAILABLE else None
    return MeshError(
        Failure(code, message, Fault.MODEL, Reason.LOAD_FAILED, retry_after_s=retry_after_s)
    )
