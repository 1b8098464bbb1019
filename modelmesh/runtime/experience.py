"""What this daemon has measured of model files, so that the next load of the same needs no trial.

Weights are remembered by what was registered (an estimate may be wrong); measurements that decide a
tier by the digest of the files, since a file may change under its name. Only files above the size
that shares anyway, and below the weight that never does, are worth a digest. Bounded.
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
READ_BYTES: Final = 1 << 20


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
        """Names the model's content; "" where its size decides, or it cannot be read."""
        limits = self._limits
        if not limits.shared_file_bytes < request.file_bytes <= limits.small_bytes:
            return ""
        return await asyncio.to_thread(_digest, request, limits.small_bytes)

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


def _digest(request: LoadRequest, most_bytes: int) -> str:
    state = hashlib.blake2b(f"{request.type}\0{request.key}".encode(), digest_size=16)
    left = most_bytes
    try:
        for name, file in _files(Path(request.path)):
            state.update(b"\0" + name.encode("utf-8", "surrogateescape") + b"\0")
            with file.open("rb") as stream:
                while block := stream.read(READ_BYTES):
                    state.update(block)
                    left -= len(block)
                    if left < 0:
                        return ""
    except OSError:
        return ""  # the load will say what is wrong
    return state.hexdigest()


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield "", path
        return
    for file in sorted(path.rglob("*")):
        if file.is_file():
            yield str(file.relative_to(path)), file
