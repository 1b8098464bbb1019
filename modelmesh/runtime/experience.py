"""What this daemon has measured of model files, so that the next load of the same needs no trial.

Weights are remembered by what was registered (an estimate may be wrong); measurements that decide a
tier by the files themselves: their names, sizes and times of change, since a file may change under
its name. That is weaker than a digest of their bytes, and the daemon never opens a model. Only
files above the size that shares anyway, and below the weight that never does, are worth a look.
Bounded.
"""

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cachetools import LRUCache

from modelmesh.policy.tiering import Measured, TierLimits
from modelmesh.runtime.door import LoadRequest

MOST_FILES: Final = 10_000
LOOK_S: Final = 5.0  # a file system that takes longer has other troubles than a trial


class Experience:
    """Weights and measurements by files."""

    def __init__(self, limits: TierLimits) -> None:
        self._limits = limits
        self._sizes: LRUCache[tuple[str, str, str, int], int] = LRUCache(MOST_FILES)
        self._measured: LRUCache[str, Measured] = LRUCache(MOST_FILES)

    def size_bytes(self, request: LoadRequest) -> int:
        """What the model weighed when it was last loaded; 0 = unknown."""
        return int(self._sizes.get(_named(request), 0))

    def weighed(self, request: LoadRequest, size_bytes: int) -> None:
        """The model weighs this."""
        self._sizes[_named(request)] = size_bytes

    async def digest(self, request: LoadRequest) -> str:
        """Names the model's files as they are; "" where size decides, or they cannot be seen."""
        limits = self._limits
        if not limits.shared_file_bytes < request.file_bytes <= limits.small_bytes:
            return ""
        try:
            async with asyncio.timeout(LOOK_S):
                return await asyncio.to_thread(_digest, request)
        except TimeoutError:
            return ""

    def measured(self, digest: str) -> Measured | None:
        """What was seen of this content."""
        found: Measured | None = self._measured.get(digest) if digest else None
        return found

    def saw(self, digest: str, measured: Measured) -> None:
        """This was seen."""
        if digest:
            self._measured[digest] = measured


def _named(request: LoadRequest) -> tuple[str, str, str, int]:
    return request.type, request.path, request.key, request.file_bytes


def _digest(request: LoadRequest) -> str:
    state = hashlib.blake2b(f"{request.type}\0{request.key}".encode(), digest_size=16)
    try:
        for name, file in _files(Path(request.path)):
            seen = file.stat()
            facts = f"\0{name}\0{seen.st_dev}:{seen.st_ino}:{seen.st_size}:{seen.st_mtime_ns}"
            state.update(facts.encode("utf-8", "surrogateescape"))
    except OSError:
        return ""  # the load will say what is wrong
    return state.hexdigest()


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    if not path.is_dir():
        yield "", path
        return
    for file in sorted(path.rglob("*")):
        if not file.is_dir():
            yield str(file.relative_to(path)), file
