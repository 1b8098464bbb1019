"""The contents of a store in this process: sorted keys, revisions, leases and recent events.

Memory and sqlite keep the same `Keyspace`. A change is first decided in a `Draft`, which lies over
the keyspace and sees the changes decided before it, and becomes visible when the draft is applied.
A store that needs a disk puts many commits into one draft, writes it, and applies it once it is
durable; if the writing fails it forgets the draft, and nothing has happened.

A registered model is held once: one key (shared by the sorted list, the dictionary and the event),
one value, one `Entry`; the two revisions of a new entry are one int.

Must never wait, touch a disk or know an event loop.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import attrgetter
from typing import Final

from sortedcontainers import SortedDict

from modelmesh.errors import Code, Failure, MeshError, invalid
from modelmesh.registry.store import (
    Change,
    Committed,
    Compacted,
    Compare,
    Entry,
    Event,
    Page,
    Put,
)

# As in etcd, where a request may have 1.5 MiB: what fits here fits there.
COMMIT_BYTES: Final = 1 << 20

# Compares, and changes, of one commit: etcd's default (--max-txn-ops).
COMMIT_OPERATIONS: Final = 128

# Events kept for watchers that lag; together with their keys a few hundred KiB.
HISTORY_EVENTS: Final = 4096

_CHUNK: Final = 256
_revision_of = attrgetter("revision")


def size_of(compares: Sequence[Compare], changes: Sequence[Change]) -> int:
    """What a commit weighs in bytes, at most."""
    size = sum(key_bytes(compare.key) for compare in compares)
    for change in changes:
        size += key_bytes(change.key) + (len(change.value) if isinstance(change, Put) else 0)
    return size


def key_bytes(key: str) -> int:
    """How many bytes a key has, at most."""
    return len(key) if key.isascii() else 4 * len(key)


def validate(compares: Sequence[Compare], changes: Sequence[Change]) -> None:
    """Refuse (INVALID_ARGUMENT) what no store takes: etcd has the same limits."""
    if size_of(compares, changes) > COMMIT_BYTES:
        raise invalid(f"a registry change may have at most {COMMIT_BYTES} bytes")
    if max(len(compares), len(changes)) > COMMIT_OPERATIONS:
        raise invalid(f"a registry change may have at most {COMMIT_OPERATIONS} parts")
    if len({change.key for change in changes}) < len(changes):
        raise invalid("a registry change names a key twice")
    for keyed in (*compares, *changes):
        if not is_utf8(keyed.key):
            raise invalid("a registry key is not valid Unicode")


def is_utf8(text: str) -> bool:
    """Whether the text can be encoded (a JSON escape may have smuggled in half a character)."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


class Keyspace:
    """Keys in order with their entries, as of `revision`; changed only by applying drafts."""

    def __init__(
        self,
        entries: Mapping[str, Entry] | None = None,
        revision: int = 0,
        leases: Mapping[int, float] | None = None,
        last_lease: int = 0,
        history_events: int = HISTORY_EVENTS,
    ) -> None:
        self.revision = revision
        self.leases: dict[int, float] = dict(leases or {})  # lease: time to live in seconds
        self.last_lease = last_lease
        self._entries = SortedDict(entries or {})
        self._lease_keys: dict[int, set[str]] = {lease: set() for lease in self.leases}
        for key, entry in self._entries.items():
            if entry.lease:
                self._lease_keys.setdefault(entry.lease, set()).add(key)
        self._history: list[Event] = []
        self._history_events = history_events
        self._compacted = revision

    def get(self, key: str) -> Entry | None:
        entry: Entry | None = self._entries.get(key)
        return entry

    def count(self, prefix: str) -> int:
        """How many keys start with `prefix`."""
        if not prefix:
            return len(self._entries)
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        return int(self._entries.bisect_left(end) - self._entries.bisect_left(prefix))

    def keys(self, prefix: str, after: str = "") -> Iterator[str]:
        """Keys that start with `prefix` and sort after `after`; safe while keys come and go."""
        while chunk := list(islice(self._keys(prefix, after), _CHUNK)):
            yield from chunk
            after = chunk[-1]

    def page(self, prefix: str, after: str, limit: int) -> Page:
        keys = list(islice(self._keys(prefix, after), limit + 1))
        entries = tuple((key, self._entries[key]) for key in keys[:limit])
        return Page(entries, self.revision, len(keys) > limit)

    def events(self, prefix: str, after_revision: int) -> list[Event]:
        """Changes of that prefix since then, whole revisions; raises `Compacted`."""
        if after_revision < self._compacted:
            raise Compacted
        start = bisect_right(self._history, after_revision, key=_revision_of)
        return [event for event in self._history[start:] if event.key.startswith(prefix)]

    def keys_of_lease(self, lease: int) -> Iterable[str]:
        return self._lease_keys.get(lease, ())

    def apply(self, draft: "Draft") -> None:
        """Make a draft of this keyspace visible."""
        for lease, ttl_s in draft.leases.items():
            self._set_lease(lease, ttl_s)
        for key, entry in draft.entries.items():
            self._set_entry(key, entry)
        self.revision = draft.revision
        self.last_lease = draft.last_lease
        self._remember(draft.events)

    def _keys(self, prefix: str, after: str) -> Iterator[str]:
        if after >= prefix:
            keys = self._entries.irange(minimum=after, inclusive=(False, True))
        else:
            keys = self._entries.irange(minimum=prefix)
        for key in keys:
            if not key.startswith(prefix):
                return
            yield key

    def _set_lease(self, lease: int, ttl_s: float | None) -> None:
        if ttl_s is None:
            self.leases.pop(lease, None)
            self._lease_keys.pop(lease, None)
        else:
            self.leases[lease] = ttl_s
            self._lease_keys.setdefault(lease, set())

    def _set_entry(self, key: str, entry: Entry | None) -> None:
        before = self.get(key)
        if before is not None and before.lease in self._lease_keys:
            self._lease_keys[before.lease].discard(key)
        if entry is None:
            self._entries.pop(key, None)
            return
        self._entries[key] = entry
        if entry.lease in self._lease_keys:
            self._lease_keys[entry.lease].add(key)

    def _remember(self, events: list[Event]) -> None:
        history = self._history
        history += events
        surplus = len(history) - self._history_events
        if surplus < max(1, self._history_events // 4):
            return
        self._compacted = history[surplus - 1].revision
        del history[:surplus]


class Draft:
    """Changes decided in order over a keyspace, and not visible before they are applied."""

    def __init__(self, space: Keyspace) -> None:
        self._space = space
        self.first_revision = space.revision
        self.revision = space.revision
        self.entries: dict[str, Entry | None] = {}  # None: deleted
        self.leases: dict[int, float | None] = {}  # None: ended
        self.last_lease = space.last_lease
        self.events: list[Event] = []

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.events or self.leases)

    def get(self, key: str) -> Entry | None:
        """The entry as of the changes decided so far."""
        return self.entries[key] if key in self.entries else self._space.get(key)

    def has_lease(self, lease: int) -> bool:
        if lease in self.leases:
            return self.leases[lease] is not None
        return lease in self._space.leases

    def commit(self, compares: Sequence[Compare], changes: Sequence[Change]) -> Committed:
        """Decide one validated commit. A put on an unknown lease is NOT_FOUND."""
        current = tuple((compare.key, self.get(compare.key)) for compare in compares)
        held = all(
            (entry.mod_revision if entry else 0) == compare.mod_revision
            for compare, (_, entry) in zip(compares, current, strict=True)
        )
        if not held:
            return Committed(False, self.revision, current)
        for change in changes:
            if isinstance(change, Put) and change.lease and not self.has_lease(change.lease):
                raise MeshError(Failure(Code.NOT_FOUND, f"lease {change.lease} does not exist"))
        self._change(changes)
        return Committed(True, self.revision)

    def grant(self, ttl_s: float) -> int:
        self.last_lease += 1
        self.leases[self.last_lease] = ttl_s
        return self.last_lease

    def end_lease(self, lease: int) -> None:
        """Delete the lease's keys, as one revision; nothing if it does not exist."""
        if not self.has_lease(lease):
            return
        keys = {*self._space.keys_of_lease(lease), *self.entries}
        revision = self.revision + 1
        for key in sorted(keys):
            entry = self.get(key)
            if entry is not None and entry.lease == lease:
                self._set(key, None, revision)
        self.leases[lease] = None

    def _change(self, changes: Sequence[Change]) -> None:
        revision = self.revision + 1
        for change in changes:
            before = self.get(change.key)
            if isinstance(change, Put):
                created = before.create_revision if before else revision
                entry = Entry(change.value, created, revision, change.lease)
                self._set(change.key, entry, revision)
            elif before is not None:
                self._set(change.key, None, revision)

    def _set(self, key: str, entry: Entry | None, revision: int) -> None:
        self.revision = revision
        self.entries[key] = entry
        self.events.append(Event(key, entry, revision))
