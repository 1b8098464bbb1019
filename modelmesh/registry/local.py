"""What the stores of this process share: reads, watches, tables, and the clocks of leases.

A subclass says only how a change gets from decided to visible (`_change`). The loop is the clock:
leases run on `loop.time` and `loop.call_at`, so that a simulation's virtual loop moves them.

* A watcher holds nothing but a position; what it has not seen yet stands in the keyspace's bounded
  history, once for all watchers. A watcher that falls out of it gets `Compacted`.
* Listeners of tables are told after the change is visible and before its commit returns.
* After a restart every lease has its full time to live again, as after a change of etcd's leader.

Must never wait for a disk, and never let one listener's failure reach a commit or another listener.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar

import structlog

from modelmesh.errors import Code, Failure, Fault, MeshError, invalid
from modelmesh.observe.listeners import Listeners
from modelmesh.observe.tasks import spawn
from modelmesh.registry.keyspace import Draft, Keyspace, size_of, validate
from modelmesh.registry.store import Change, Committed, Compare, Entry, Event, Page

log = structlog.get_logger("registry")

T = TypeVar("T")
Listener = Callable[[list[Event]], None]

# How soon the deletion of an expired lease's keys is tried again when the store could not do it.
EXPIRY_RETRY_S: Final = 1.0


def unavailable(message: str, retry_after_s: float = 1.0) -> MeshError:
    """The store cannot answer now."""
    return MeshError(
        Failure(Code.UNAVAILABLE, message, fault=Fault.STORE, retry_after_s=retry_after_s)
    )


class LocalTable:
    """One prefix of a store in this process: a view of its keyspace, not a copy."""

    def __init__(self, space: Keyspace, prefix: str) -> None:
        self._space = space
        self._prefix = prefix
        self._listeners = Listeners[list[Event]](f"table {prefix}")

    @property
    def revision(self) -> int:
        return self._space.revision

    def __len__(self) -> int:
        return self._space.count(self._prefix)

    def get(self, name: str) -> Entry | None:
        return self._space.get(self._prefix + name)

    def names(self, prefix: str = "", after: str = "") -> Iterator[str]:
        """In order; safe to go on with while models come and go."""
        start = len(self._prefix)
        for key in self._space.keys(self._prefix + prefix, self._prefix + after if after else ""):
            yield key[start:]

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        return self._listeners.subscribe(listener)

    def deliver(self, events: list[Event]) -> None:
        """Tell the listeners what of this concerns them (the store calls it)."""
        mine = [event for event in events if event.key.startswith(self._prefix)]
        if mine:
            self._listeners.tell(mine)


class Watch:
    """An endless iterator of events; ends when the store is closed."""

    def __init__(self, store: "LocalStore", prefix: str, after_revision: int) -> None:
        self._store = store
        self._prefix = prefix
        self._after = after_revision

    def __aiter__(self) -> "Watch":
        return self

    async def __anext__(self) -> list[Event]:
        while not self._store.closed:
            events = self._store.space.events(self._prefix, self._after)
            self._after = max(self._after, self._store.space.revision)
            if events:
                return events
            await self._store.changed()
        raise StopAsyncIteration


class LocalStore(ABC):
    """A `Store` whose truth is a keyspace in this process."""

    def __init__(self, space: Keyspace) -> None:
        self.space = space
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._tables: dict[str, LocalTable] = {}
        self._watchers: dict[asyncio.Future[None], None] = {}  # in the order of their coming
        self._expiry: dict[int, float] = {}  # lease: when it ends, on the loop's clock
        self._timers: dict[int, asyncio.TimerHandle] = {}
        for lease in space.leases:
            self._start_clock(lease)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @abstractmethod
    async def _change(self, work: Callable[[Draft], T], size_bytes: int) -> T:
        """Decide `work` in a draft, make it durable, publish it, and say what came of it."""

    async def commit(self, compares: Sequence[Compare], changes: Sequence[Change]) -> Committed:
        validate(compares, changes)
        return await self._change(
            lambda draft: draft.commit(compares, changes), size_of(compares, changes)
        )

    async def get(self, key: str) -> Entry | None:
        self._check_open()
        return self.space.get(key)

    async def page(self, prefix: str, after: str = "", limit: int = 1000) -> Page:
        self._check_open()
        return self.space.page(prefix, after, limit)

    def watch(self, prefix: str, after_revision: int) -> Watch:
        return Watch(self, prefix, after_revision)

    def table(self, prefix: str) -> LocalTable:
        """What is known of that prefix, synchronously; the same table each time."""
        if prefix not in self._tables:
            self._tables[prefix] = LocalTable(self.space, prefix)
        return self._tables[prefix]

    async def grant(self, ttl_s: float) -> int:
        if not ttl_s > 0:
            raise invalid(f"a lease needs a time to live above 0 s, not {ttl_s}")
        return await self._change(lambda draft: draft.grant(ttl_s), 0)

    async def keep_alive(self, lease: int) -> bool:
        self._check_open()
        ends_at = self._expiry.get(lease)
        if ends_at is None or ends_at <= self._loop.time():
            return False
        self._expiry[lease] = self._loop.time() + self.space.leases[lease]
        return True

    async def revoke(self, lease: int) -> None:
        await self._change(lambda draft: draft.end_lease(lease), 0)

    async def close(self) -> None:
        self.closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._wake_watchers()

    async def changed(self) -> None:
        """Wait until something is published, or the store is closed (a watch's business)."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._watchers[waiter] = None
        try:
            await waiter
        finally:
            self._watchers.pop(waiter, None)

    def _publish(self, draft: Draft) -> None:
        """Make a draft visible: to readers, to lease clocks, to tables, to watchers."""
        self.space.apply(draft)
        for lease, ttl_s in draft.leases.items():
            if ttl_s is not None:
                self._start_clock(lease)
            else:
                self._stop_clock(lease)
        if draft.events:
            for table in self._tables.values():
                table.deliver(draft.events)
            self._wake_watchers()

    def _check_open(self) -> None:
        if self.closed:
            raise unavailable("the registry is closed")

    def _wake_watchers(self) -> None:
        for waiter in self._watchers:
            if not waiter.done():
                waiter.set_result(None)

    def _start_clock(self, lease: int) -> None:
        self._expiry[lease] = self._loop.time() + self.space.leases[lease]
        self._timers[lease] = self._loop.call_at(self._expiry[lease], self._on_timer, lease)

    def _stop_clock(self, lease: int) -> None:
        self._expiry.pop(lease, None)
        if (timer := self._timers.pop(lease, None)) is not None:
            timer.cancel()

    def _on_timer(self, lease: int) -> None:
        """The lease ends now, unless it was kept alive since the timer was set."""
        ends_at = self._expiry[lease]
        if ends_at > self._loop.time():
            self._timers[lease] = self._loop.call_at(ends_at, self._on_timer, lease)
        else:
            spawn(self._expire(lease), f"expire lease {lease}")

    async def _expire(self, lease: int) -> None:
        try:
            await self._change(lambda draft: draft.end_lease(lease), 0)
        except MeshError as error:
            if self.closed:
                return
            log.warning("an expired lease cannot be ended yet", lease=lease, why=str(error))
            again = self._loop.time() + EXPIRY_RETRY_S
            self._timers[lease] = self._loop.call_at(again, self._on_timer, lease)
