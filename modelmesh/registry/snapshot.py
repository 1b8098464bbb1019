"""What the tables knew, on disk: lets a daemon start while the store does not answer.

The file is a header of 8 bytes, a zlib stream, and a checksum (BLAKE2b, 16 bytes) of both. In the
stream: the length of a JSON object, that object (`revision`, `identity`), then each entry as the
lengths of key and value, the revisions of its creation and last change, key, value; key length 0
ends it. Entries bound to a lease are left out, since their owners speak for themselves.

It is written beside its place, flushed and renamed, so that there is always a whole one; it holds
the keys of models' storage, so only the owner may read it. Entries are taken from the tables a
few at a time while the loop goes on: each is right as of some moment since `revision`, which is all
that a table needs, because the first listing corrects the rest.

Everything here but `Saver` blocks, and runs in a thread. Must never be trusted over the store.
"""

import asyncio
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from modelmesh.registry.remote_table import RemoteTable
from modelmesh.registry.store import Entry

log = structlog.get_logger("registry")

T = TypeVar("T")
Item = tuple[str, Entry]

MAGIC: Final = b"MMregis1"
_DIGEST_BYTES: Final = 16
_LENGTH: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<IIqq")

# A disk that takes longer is left alone until it is done.
WRITE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a file held."""

    revision: int
    identity: str
    items: list[Item]


class Writer:
    """A snapshot in the making; `finish` puts it into place, `abandon` does not."""

    def __init__(self, path: Path, revision: int, identity: str) -> None:
        self._path = path
        self._beside = path.with_name(path.name + ".new")
        self._digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self._stream = zlib.compressobj(1)
        self._beside.unlink(missing_ok=True)
        opened = os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = os.fdopen(opened, "wb")
        about = json.dumps({"revision": revision, "identity": identity}).encode()
        self._write(MAGIC)
        self._write(self._stream.compress(_LENGTH.pack(len(about)) + about))

    def add(self, items: Sequence[Item]) -> None:
        parts: list[bytes] = []
        for key, entry in items:
            if entry.lease:
                continue
            name = key.encode()
            head = _ENTRY.pack(
                len(name), len(entry.value), entry.create_revision, entry.mod_revision
            )
            parts += (head, name, entry.value)
        self._write(self._stream.compress(b"".join(parts)))

    def finish(self) -> None:
        self._write(self._stream.compress(_ENTRY.pack(0, 0, 0, 0)) + self._stream.flush())
        with self._file:
            self._file.write(self._digest.digest())
            self._file.flush()
            os.fsync(self._file.fileno())
        self._beside.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def abandon(self) -> None:
        self._file.close()
        self._beside.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)


def read(path: Path) -> Snapshot:
    """What the file holds. FileNotFoundError if there is none, ValueError if it is damaged."""
    data = path.read_bytes()
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if not body.startswith(MAGIC):
        raise ValueError("not a snapshot of this version")
    if hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest:
        raise ValueError("the checksum does not match")
    try:
        content = zlib.decompress(memoryview(body)[len(MAGIC) :])
        (length,) = _LENGTH.unpack_from(content)
        about = json.loads(content[_LENGTH.size : _LENGTH.size + length])
        items = [*_items(content, _LENGTH.size + length)]
        return Snapshot(int(about["revision"]), str(about["identity"]), items)
    except (zlib.error, struct.error, KeyError, TypeError) as error:
        raise ValueError(f"cannot be read: {error!r}") from error


def _items(content: bytes, at: int) -> Iterator[Item]:
    while True:
        key_length, value_length, created, modified = _ENTRY.unpack_from(content, at)
        if not key_length:
            return
        at += _ENTRY.size
        key = content[at : at + key_length].decode()
        at += key_length
        value = content[at : at + value_length]
        at += value_length
        yield key, Entry(value, created, modified)


class Saver:
    """Writes snapshots of some tables to one place, one at a time, without stopping the loop."""

    def __init__(
        self, path: Path, tables: Sequence[RemoteTable], about: Callable[[], tuple[int, str]]
    ) -> None:
        self.saved = 0
        self._path = path
        self._tables = tables
        self._about = about
        self._saved_changes = -1
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._hung: asyncio.Future[Any] | None = None

    async def read(self) -> Snapshot | None:
        """What was saved before; None, with a line in the log, if that is of no use."""
        try:
            return await self._run(partial(read, self._path))
        except FileNotFoundError:
            log.info("there is no snapshot of the registry", path=str(self._path))
        except (OSError, ValueError, TimeoutError) as error:
            log.warning("a snapshot is ignored", path=str(self._path), why=repr(error))
        return None

    async def save(self) -> None:
        """Write one if anything has changed. What fails is logged: the last one stays."""
        changes = sum(table.changes for table in self._tables)
        if changes == self._saved_changes or (self._hung and not self._hung.done()):
            return
        try:
            await self._save()
        except (OSError, TimeoutError) as error:
            log.warning("no snapshot of the registry", path=str(self._path), why=repr(error))
        else:
            self._saved_changes = changes
            self.saved += 1

    def close(self) -> None:
        self._thread.shutdown(wait=False)

    async def _save(self) -> None:
        writer = await self._run(partial(Writer, self._path, *self._about()))
        try:
            for table in self._tables:
                for items in table.items():
                    await self._run(partial(writer.add, items))
            await self._run(writer.finish)
        except BaseException:
            self._thread.submit(writer.abandon)
            raise

    async def _run(self, work: Callable[[], T]) -> T:
        """In the thread; a disk that hangs keeps the thread, and is not given more to do."""
        running = asyncio.get_running_loop().run_in_executor(self._thread, work)
        self._hung = running
        async with asyncio.timeout(WRITE_S):
            return await asyncio.shield(running)
