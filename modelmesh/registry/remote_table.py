"""One prefix of a store elsewhere, held here: what may enter it, and what may leave it.

A table is fed from three sides that know nothing of each other: a watch, listings, and what came
of this daemon's own commits. Each may be late, repeated or out of order, so an entry changes only
by something newer than what the table has for its key, and never by the order of arrival.

What keeps an old put from bringing a deleted key back, without a tombstone for ever:

* `_floor`: the table knows every key as of this revision. A put of a key that it lacks and that is
  not newer has been deleted since. A finished listing lifts the floor to its first page's revision.
* `_gone`: deletions above the floor, so many at most. When there are more, the oldest is dropped
  and lifts the floor instead; a put that this floor (and no listing) turns away might be a good
  one, so the table asks for a listing (`doubtful`).

Pages of a listing are as of their own revisions; each speaks only for the keys between its first
and its last, as of its own revision. What a listing lacks is named by it and dropped by whoever
judges it (`follower`).

After a restore (`begin_history`) revisions cannot be compared with those of before: every key is
*old* until the store shows or deletes it. Old keys that a listing lacks stay: they are offered
back (`offers`), or dropped when somebody says so.

A key costs its string, its value, an `Entry` whose two revisions are one int where they are equal,
and its place in a dictionary and a sorted list; strings and entries are kept as the store gave
them, so simulated daemons over one store share them.

Must never wait, know a clock, or let a listener's failure reach whoever brought the change.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

import structlog
from sortedcontainers import SortedDict

from modelmesh.observe.listeners import Listeners
from modelmesh.registry.store import Entry, Event, Page

log = structlog.get_logger("registry")

Listener = Callable[[list[Event]], None]

# Deletions remembered since the last listing: more than a fleet makes in one relist period in
# ordinary life; what a bulk deletion goes beyond costs one further listing.
TOMBSTONES: Final = 4096

_CHUNK: Final = 256


class Restored(Exception):
    """The store is not in the history that this table has followed."""


def packed(entry: Entry) -> Entry:
    """The same entry, with one int where both revisions are equal."""
    revision = entry.mod_revision
    if entry.create_revision != revision or entry.create_revision is revision:
        return entry
    return Entry(entry.value, revision, revision, entry.lease)


def news(event: Event, before: Entry | None) -> list[Event]:
    """What to tell of it: where a key went and came again unheard, that it went as well, since
    under one name there is another thing now."""
    entry = event.entry
    if entry is None or before is None or entry.create_revision == before.create_revision:
        return [event]
    return [Event(event.key, None, max(entry.create_revision - 1, before.mod_revision)), event]


class RemoteTable:
    """Keys that start with `prefix`, as far as they are known here."""

    def __init__(self, prefix: str, tombstones: int = TOMBSTONES) -> None:
        self.prefix = prefix
        self.revision = 0
        self.doubtful = False  # something may have been turned away wrongly: list
        self.changes = 0  # how often anything changed, ever
        self._entries = SortedDict()
        self._floor = 0
        self._gone: dict[str, int] = {}
        self._tombstones = tombstones
        self._old: dict[str, None] = {}  # in order
        self._held: set[str] = set()  # missing in a listing, but not believed to be gone
        self._listeners = Listeners[list[Event]](f"table {prefix}")

    # --- reading

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: str) -> Entry | None:
        return self.entry(self.prefix + name)

    def entry(self, key: str) -> Entry | None:
        """The entry of a key in full."""
        entry: Entry | None = self._entries.get(key)
        return entry

    def names(self, prefix: str = "", after: str = "") -> Iterator[str]:
        """In order; safe to go on with while models come and go."""
        start, position = self.prefix + prefix, self.prefix + after if after else ""
        while chunk := list(islice(self._keys(start, position), _CHUNK)):
            for key in chunk:
                yield key[len(self.prefix) :]
            position = chunk[-1]

    def items(self) -> Iterator[list[tuple[str, Entry]]]:
        """Everything, in order, in lists of bounded length; each as of when it is taken."""
        position = ""
        while chunk := list(islice(self._keys(self.prefix, position), 4 * _CHUNK)):
            yield [(key, self._entries[key]) for key in chunk]
            position = chunk[-1]

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        return self._listeners.subscribe(listener)

    # --- changes that somebody tells of

    def apply(self, events: Iterable[Event]) -> int:
        """Take what is newer, tell the listeners of it; how many that were."""
        taken = 0
        told: list[Event] = []
        for event in events:
            before = self._before(event.key)
            if self._take(event):
                taken += 1
                told += news(event, before)
        self._tell(told)
        return taken

    def absent(self, key: str, revision: int) -> None:
        """The store, asked, had no such key as of `revision` or later. Says nothing of keys that
        are kept although the store lacks them."""
        known = self.entry(key)
        if known is None or known.mod_revision > revision:
            return
        if key not in self._old and key not in self._held:
            # It was deleted some time after its last change; that is all one knows.
            self.apply([Event(key, None, max(revision, known.mod_revision + 1))])

    def load(self, items: Iterable[tuple[str, Entry]]) -> None:
        """Entries from a snapshot, before anything is listed."""
        self.apply([Event(key, entry, entry.mod_revision) for key, entry in items])

    # --- a restored store

    @property
    def old(self) -> int:
        """How many keys date from before the restore and have not been seen in the store since."""
        return len(self._old)

    def begin_history(self) -> None:
        """The store was restored: revisions of before mean nothing any more."""
        self._old = dict.fromkeys(self._entries)
        self._floor = 0
        self._gone = {}
        self._held = set()
        self.revision = 0

    def old_items(self) -> Iterator[tuple[str, Entry]]:
        """What could be offered back; take few and ask again, it shrinks meanwhile."""
        for key in self._old:
            yield key, self._entries[key]

    def drop_old(self) -> None:
        """Somebody has spoken: what the restored store lacks is gone."""
        self.apply([Event(key, None, self.revision) for key in sorted(self._old)])

    # --- inside

    def _keys(self, prefix: str, after: str) -> Iterator[str]:
        if after >= prefix:
            keys = self._entries.irange(minimum=after, inclusive=(False, True))
        else:
            keys = self._entries.irange(minimum=prefix)
        for key in keys:
            if not key.startswith(prefix):
                return
            yield key

    def _take(self, event: Event) -> bool:
        if event.entry is None:
            return self._remove(event.key, event.revision)
        known = self._entries.get(event.key)
        if event.key in self._old:
            return self._set(event.key, event.entry)
        if known is not None:
            return self._replace(event.key, known, event.entry)
        if event.entry.mod_revision <= self._gone.get(event.key, 0):
            return False
        if event.entry.mod_revision <= self._floor:
            self.doubtful = self.doubtful or self._floor > self.revision
            return False
        return self._set(event.key, event.entry)

    def _before(self, key: str) -> Entry | None:
        """What stood there, if the coming history knows of it."""
        return self._entries.get(key) if key not in self._old else None

    def _replace(self, key: str, known: Entry, entry: Entry) -> bool:
        if entry.mod_revision > known.mod_revision:
            return self._set(key, entry)
        if entry == known:
            return False
        if entry.mod_revision == known.mod_revision and entry.value == known.value:
            self._entries[key] = packed(entry)  # its creation may have been a guess
        return False

    def _set(self, key: str, entry: Entry) -> bool:
        changed = self.entry(key) != entry
        self._entries[key] = packed(entry)
        self._gone.pop(key, None)
        self._old.pop(key, None)
        self._held.discard(key)
        return changed

    def _remove(self, key: str, revision: int) -> bool:
        known = self._entries.get(key)
        if known is not None and key not in self._old and known.mod_revision > revision:
            return False
        self._bury(key, revision)
        if known is None:
            return False
        del self._entries[key]
        self._old.pop(key, None)
        self._held.discard(key)
        return True

    def _bury(self, key: str, revision: int) -> None:
        revision = max(revision, self._gone.pop(key, 0))
        if revision <= self._floor:
            return
        self._gone[key] = revision
        if len(self._gone) > self._tombstones:
            self._floor = max(self._floor, self._gone.pop(next(iter(self._gone))))

    def _tell(self, events: list[Event]) -> None:
        if events:
            self.changes += len(events)
            self._listeners.tell(events)


class Listing:
    """One pass over the store's keys of a table: pages in, differences out."""

    def __init__(self, table: RemoteTable) -> None:
        self.first_revision = 0
        self.healed = 0  # differences that only the listing has brought
        self._table = table
        self._missing: dict[str, int] = {}  # key: as of which revision
        self._pages = 0

    def add(self, after: str, page: Page) -> str | None:
        """Take a page that was asked for with `after`; the next `after`, or None at the end.

        Raises `Restored` where the page contradicts what the table has seen.
        """
        if not self._pages:
            self.first_revision = page.revision
        self._pages += 1
        last = page.entries[-1][0] if page.more and page.entries else None
        self._note_missing(after, last, page)
        told: list[Event] = []
        try:
            self._take_all(page, told)
        finally:
            self._table._tell(told)
        return last

    def missing(self, keep_old: bool) -> dict[str, int]:
        """Keys of the table that the store does not have, unless somebody has put them since.

        `keep_old`: keys of before a restore are not among them.
        """
        table = self._table
        return {
            key: revision
            for key, revision in self._missing.items()
            if (entry := table.entry(key)) is not None
            and ((not keep_old) if key in table._old else entry.mod_revision <= revision)
        }

    def finish(self, gone: dict[str, int], held: Iterable[str]) -> None:
        """The pass is complete: drop what is gone, remember what is held nevertheless."""
        table = self._table
        table._held = {key for key in held if table.entry(key) is not None}
        self.healed += table.apply([Event(key, None, gone[key]) for key in gone])
        table._floor = max(table._floor, self.first_revision)
        table._gone = {
            key: revision for key, revision in table._gone.items() if revision > table._floor
        }
        table.revision = max(table.revision, self.first_revision)
        table.doubtful = table._floor > table.revision

    def _note_missing(self, after: str, last: str | None, page: Page) -> None:
        table = self._table
        listed = {key for key, _ in page.entries}
        for key in table._keys(table.prefix, after):
            if last is not None and key > last:
                return
            if key in listed:
                continue
            self._missing[key] = page.revision
            if key not in table._old and table._entries[key].mod_revision == page.revision:
                raise Restored(f"{key} is gone as of the revision that put it")

    def _take_all(self, page: Page, told: list[Event]) -> None:
        """Take the page's entries. Nearly all are new to a table that has forgotten nothing, or as
        they were; these are told apart here, since this runs for every model once a minute."""
        table = self._table
        entries, held = table._entries, table._held
        plain = not (table._gone or table._old) and page.revision >= table._floor
        for key, entry in page.entries:
            known = entries.get(key)
            if plain and known is None:
                entries[key] = packed(entry)
                self.healed += 1
                told.append(Event(key, entry, entry.mod_revision))
            elif plain and known == entry:
                held.discard(key)
            else:
                self._take_one(key, entry, page.revision, told)

    def _take_one(self, key: str, entry: Entry, revision: int, told: list[Event]) -> None:
        before = self._table._before(key)
        if self._take(key, entry, revision):
            self.healed += 1
            told += news(Event(key, entry, entry.mod_revision), before)

    def _take(self, key: str, entry: Entry, revision: int) -> bool:
        """Whether the page's entry is news. What the table knows from after it is left alone."""
        table = self._table
        known = table.entry(key)
        if key in table._old:
            return table._set(key, entry)
        if known is None:
            return self._take_new(key, entry, revision)
        table._held.discard(key)
        if _contradicts(known, entry, revision):
            raise Restored(f"{key} is as it was before its last change")
        return table._replace(key, known, entry)

    def _take_new(self, key: str, entry: Entry, revision: int) -> bool:
        table = self._table
        gone = table._gone.get(key, 0)
        if gone > revision:
            return False
        if entry.mod_revision <= gone:
            raise Restored(f"{key} is back as it was before it was deleted")
        if entry.mod_revision <= table._floor and revision < table._floor:
            table.doubtful = True
            return False
        return table._set(key, entry)


def _contradicts(known: Entry, listed: Entry, revision: int) -> bool:
    """Whether one history cannot hold both: what was seen before, and a listing as of later."""
    if listed.mod_revision == known.mod_revision:
        return listed.value != known.value
    return listed.mod_revision < known.mod_revision <= revision
