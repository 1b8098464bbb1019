"""The file under the sqlite store: opened, locked, read once, then only written to.

Everything here blocks and runs in the store's one writer thread. A batch is one transaction
(WAL, synchronous=FULL), and each transaction starts by moving the stored revision from the one that
memory has to the one that it will have: if the file is not where memory thinks it is, nothing is
written. `<file>.lock` is held with flock for as long as the file is open, so a second daemon is
refused, and the kernel lets go when the process dies, however it dies.

A file that is not ours is left as it was found: its header is read before sqlite sees it.
Must never be called from the loop, and never hold a second copy of the values.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.registry.keyspace import HISTORY_EVENTS, Draft, Keyspace
from modelmesh.registry.store import Entry

APPLICATION_ID: Final = 0x4D4D7367  # "MMsg", as `file` shows it
SCHEMA_VERSION: Final = 1

# Pages that sqlite may keep, in KiB: every read comes from memory, so it needs few.
CACHE_KIB: Final = 256

_HEADER_BYTES: Final = 100

_SCHEMA = f"""
BEGIN;
CREATE TABLE entries (
  key BLOB PRIMARY KEY, value BLOB NOT NULL,
  created INTEGER NOT NULL, modified INTEGER NOT NULL, lease INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE leases (id INTEGER PRIMARY KEY, ttl_s REAL NOT NULL);
CREATE TABLE position (revision INTEGER NOT NULL, last_lease INTEGER NOT NULL);
INSERT INTO position VALUES (0, 0);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


def _refused(path: Path, why: str, code: Code = Code.FAILED_PRECONDITION) -> MeshError:
    return MeshError(Failure(code, f"registry {path}: {why}", fault=Fault.STORE))


class Database:
    """One open file."""

    def __init__(self, path: Path, lock: int, connection: sqlite3.Connection) -> None:
        self._path = path
        self._lock = lock
        self.connection = connection

    @classmethod
    def open(cls, path: str) -> Self:
        """Open or create; `MeshError` says why not (in use, not ours, too new, damaged)."""
        file = Path(path)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = _lock(file)
        except OSError as error:
            raise _refused(file, f"cannot be opened: {error.strerror}") from error
        try:
            return cls(file, lock, _connect(file))
        except BaseException:
            os.close(lock)
            raise

    def load(self, history_events: int = HISTORY_EVENTS) -> Keyspace:
        """Everything that the file holds."""
        try:
            entries = dict(_entries(self.connection))
            leases = dict(self.connection.execute("SELECT id, ttl_s FROM leases"))
            ((revision, last_lease),) = self.connection.execute("SELECT * FROM position")
        except (sqlite3.Error, ValueError) as error:
            raise _unreadable(self._path, error) from error
        return Keyspace(entries, revision, leases, last_lease, history_events)

    def write(self, draft: Draft) -> None:
        """Make the draft durable, all or nothing. UNAVAILABLE if the disk does not take it."""
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            self._write(draft)
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise MeshError(
                Failure(
                    Code.UNAVAILABLE,
                    f"registry {self._path} cannot be written: {error}",
                    fault=Fault.STORE,
                    retry_after_s=1.0,
                )
            ) from error
        finally:
            if self.connection.in_transaction:
                with suppress(sqlite3.Error):
                    self.connection.execute("ROLLBACK")

    def close(self) -> None:
        """Fold the log into the file and let others in."""
        try:
            self.connection.close()
        finally:
            os.close(self._lock)

    def _write(self, draft: Draft) -> None:
        execute, many = self.connection.execute, self.connection.executemany
        moved = execute(
            "UPDATE position SET revision = ?, last_lease = ? WHERE revision = ?",
            (draft.revision, draft.last_lease, draft.first_revision),
        )
        if moved.rowcount != 1:
            raise sqlite3.DatabaseError("the file is not at the revision that was last written")
        many(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)",
            (
                (key.encode(), entry.value, entry.create_revision, entry.mod_revision, entry.lease)
                for key, entry in draft.entries.items()
                if entry is not None
            ),
        )
        gone = ((key.encode(),) for key, entry in draft.entries.items() if entry is None)
        many("DELETE FROM entries WHERE key = ?", gone)
        for lease, ttl_s in draft.leases.items():
            if ttl_s is None:
                execute("DELETE FROM leases WHERE id = ?", (lease,))
            else:
                execute("INSERT INTO leases VALUES (?, ?)", (lease, ttl_s))


def _lock(file: Path) -> int:
    """Take the lock beside the file, or say that somebody has it."""
    lock = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise _refused(file, "in use by another process; give each daemon its own") from error
    except OSError:
        os.close(lock)
        raise
    return lock


def _connect(file: Path) -> sqlite3.Connection:
    """A connection to a file that is ours, new or old."""
    connection = None
    try:
        _check_header(file)
        connection = sqlite3.connect(file, isolation_level=None, cached_statements=16)
        _prepare(connection)
        return connection
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, OSError):
            raise _refused(file, f"cannot be opened: {error.strerror}") from error
        if isinstance(error, sqlite3.Error):
            raise _unreadable(file, error) from error
        raise


def _check_header(file: Path) -> None:
    """Refuse what is not ours, without asking sqlite, which would recover and fold its log."""
    with suppress(FileNotFoundError):
        with file.open("rb") as opened:
            head = opened.read(_HEADER_BYTES)
        if not head:
            return
        if len(head) < _HEADER_BYTES or not head.startswith(b"SQLite format 3\0"):
            raise _refused(file, "is damaged or not a registry", Code.DATA_LOSS)
        version, application = (int.from_bytes(head[at : at + 4]) for at in (60, 68))
        if application != APPLICATION_ID:
            raise _refused(file, "is a database of another program; choose another path")
        if version > SCHEMA_VERSION:
            known = f"this version knows {SCHEMA_VERSION}"
            raise _refused(file, f"has schema {version}, {known}; use a newer modelmesh")


def _prepare(connection: sqlite3.Connection) -> None:
    """Set up the connection, make a new file ours, and leave an old one as it is."""
    _set(connection, "locking_mode = EXCLUSIVE")  # nobody else reads it: no shared memory file
    ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_schema")
    if not tables:  # before the log exists, so that the header names us from the first moment
        connection.executescript(_SCHEMA)
    _set(connection, "journal_mode = WAL")
    _set(connection, "synchronous = FULL")
    _set(connection, f"cache_size = -{CACHE_KIB}")


def _set(connection: sqlite3.Connection, pragma: str) -> None:
    connection.execute(f"PRAGMA {pragma}").close()


def _unreadable(file: Path, error: Exception) -> MeshError:
    """Whether the file is damaged, or only out of reach now."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
        return _refused(file, f"is damaged or not a registry: {error}", Code.DATA_LOSS)
    return _refused(file, f"cannot be opened: {error}")


def _entries(connection: sqlite3.Connection) -> Iterator[tuple[str, Entry]]:
    """All rows, in the order of the file's tree: a key out of order is a damaged tree."""
    before = b""
    for key, value, created, modified, lease in connection.execute(
        "SELECT key, value, created, modified, lease FROM entries ORDER BY key"
    ):
        if before and key <= before:
            raise ValueError("keys are not in order")
        before = key
        both = created if created == modified else modified  # one int object where they agree
        yield key.decode(), Entry(value, created, both, lease)
