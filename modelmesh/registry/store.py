"""Door 1: the registry. Keys with revisions, compare-and-set, prefix watches and leases.

The shape is etcd's, because a fleet shares one; a daemon alone uses `memory` or `sqlite` behind the
same door, and all of them pass one contract suite (tests/registry/test_store_contract.py).

* Every successful commit that changes something takes the next revision; an entry remembers the
  revision that created it and the one that last changed it. Absent keys have mod_revision 0.
* A commit is atomic: all its compares hold and all its changes apply, or nothing happens.
* A commit that was acknowledged is durable as far as the store is (sqlite: on disk, flushed).
* A watch delivers every change after a given revision in order, batched by revision, and never
  loses one silently: a watcher that fell too far behind gets `Compacted` and lists again.
* A commit may raise `MeshError` UNAVAILABLE (store does not answer). It is never repeated blindly.

Synchronous reads of what the daemon knows are not here but in `tables`.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's value. Revisions start at 1; lease 0 means none."""

    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Compare:
    """Holds if the key's mod_revision is this one (0: the key does not exist)."""

    key: str
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Write a value, bound to a lease if one is given."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key (no change if it is absent)."""

    key: str


Change = Put | Delete


@dataclass(frozen=True, slots=True)
class Committed:
    """What came of a commit: whether the compares held, and the store's revision after it.

    When they did not hold, `current` has the entries of the compared keys as they are.
    """

    succeeded: bool
    revision: int
    current: tuple[tuple[str, Entry | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a listing, ordered by key, all as of one revision. `more`: the listing goes on."""

    entries: tuple[tuple[str, Entry], ...]
    revision: int
    more: bool


@dataclass(frozen=True, slots=True)
class Event:
    """One change: `entry` is None for a deletion."""

    key: str
    entry: Entry | None
    revision: int


class Compacted(Exception):
    """The watch cannot go on from its revision: list again, then watch from the list's revision."""


class Store(Protocol):
    """The registry's door. Instances are async context managers of their own making."""

    async def commit(self, compares: Sequence[Compare], changes: Sequence[Change]) -> Committed:
        """Apply all changes if all compares hold; durable when this returns."""

    async def get(self, key: str) -> Entry | None:
        """The newest entry (a linearizable read)."""

    async def page(self, prefix: str, after: str = "", limit: int = 1000) -> Page:
        """Entries whose key starts with `prefix` and sorts after `after`."""

    def watch(self, prefix: str, after_revision: int) -> AsyncIterator[list[Event]]:
        """Every change of that prefix with a revision above `after_revision`, in order."""

    async def grant(self, ttl_s: float) -> int:
        """A new lease; its keys vanish when it is not kept alive for `ttl_s`."""

    async def keep_alive(self, lease: int) -> bool:
        """Refresh a lease; False if it no longer exists."""

    async def revoke(self, lease: int) -> None:
        """End a lease at once and delete its keys."""

    async def close(self) -> None:
        """Flush and let go."""


# Where models lie, below the store's own root (ModelMesh's layout).
MODELS = "registry/"
VMODELS = "vmodels/"
INSTANCES = "instances/"
CONFIG = "config/"
LEADER = "leaderLatch/"
