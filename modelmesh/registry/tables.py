"""What the daemon knows of the registry without asking: synchronous, in memory, kept up by events.

A `Table` is one prefix of the store. For stores in this process (memory, sqlite) it is a view of
the store's own dictionary, so a registered model is held once; a remote store will feed a table of
its own from a watch and a periodic relist. Readers cannot tell.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from modelmesh.registry.store import Entry, Event, Store


class Table(Protocol):
    """One prefix of the registry. Names are keys without the prefix."""

    @property
    def revision(self) -> int:
        """The store's revision that this table has caught up with."""

    def __len__(self) -> int: ...

    def get(self, name: str) -> Entry | None:
        """The entry, or None."""

    def names(self, prefix: str = "", after: str = "") -> Iterator[str]:
        """Names that start with `prefix` and sort after `after`, in order."""

    def subscribe(self, listener: Callable[[list[Event]], None]) -> Callable[[], None]:
        """Be told of changes after they are applied (keys in full); returns the way to stop."""


class TabledStore(Store, Protocol):
    """A store that also tells synchronously what it knows."""

    def table(self, prefix: str) -> Table:
        """The table of that prefix; the same one each time."""
