"""Keeps one table in step with the store: lists it, watches it, and lists it again.

A watch brings changes within milliseconds but may lose, repeat or reorder them, or die without a
word; a listing brings everything. So there is a listing at the start, every minute or so, and at
once when the watch ended (however it ended), was compacted, or the store answers again. The watch
goes on beside a listing; it is begun anew, from the listing's revision, when the listing found
something that the watch should have brought.

A listing that lacks *suddenly* much of what the table has (everything, or more than half) is not
believed for these keys: the last known good entries stay until

* `confirm` (direct health of peers, given by the composition) names those that are gone; those that
  it does not name stay as long as it vouches for them; or
* where there is no such witness or it cannot tell (None), a second listing at least `doubt_s`
  later lacks them too.

Deletions that the watch brings are believed: somebody has made each of them.

Must never end by itself, list without pause, or let a failing store end it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import structlog

from modelmesh.errors import MeshError
from modelmesh.observe import collector
from modelmesh.observe.tasks import REST_S, rest, spawn, stop
from modelmesh.registry.availability import PATIENCE_S, Availability
from modelmesh.registry.history import History, Mark
from modelmesh.registry.remote_table import TOMBSTONES, Listing, RemoteTable, Restored
from modelmesh.registry.store import Compacted, Event, Page, Store

log = structlog.get_logger("registry")

# Told a prefix and names that a listing lacks suddenly: those that are known to be gone, or None if
# it cannot tell.
Confirm = Callable[[str, Sequence[str]], Awaitable[Collection[str] | None]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How a mirror paces itself. Tests turn these; nobody else should have to."""

    relist_s: float = 60.0  # with up to `relist_jitter_s` more: daemons must not list in step
    relist_jitter_s: float = 10.0
    page_entries: int = 1000  # of a first page
    turn_entries: int = 250  # taken in one turn of the loop: some 0.3 ms
    # etcd counts all that is left for every page, so few cost it least; what a page takes while it
    # is read stays with the process (1 KB an entry).
    most_page_entries: int = 3000
    page_s: float = 5.0  # a page may be a MiB on a slow link; small calls have `patience_s`
    patience_s: float = PATIENCE_S
    listing_gap_s: float = 1.0  # between the beginnings of two listings; grows when hurried
    last_gap_s: float = 15.0
    doubt_s: float = 10.0  # until a second listing may confirm what one lacked suddenly
    doubt_entries: int = 4  # from this size on, losing more than half counts as sudden
    confirm_s: float = 5.0
    tombstones: int = TOMBSTONES
    open_s: float = 5.0  # how long the store may bring nothing at start before the snapshot counts
    snapshot_s: float = 60.0
    offer_commits_per_s: float = 5.0  # of up to 100 entries each, by each daemon
    back_jitter_s: float = 1.0  # over this long daemons begin to list when the store is back


@dataclass(slots=True)
class Counts:
    """What happened since the start."""

    relists: int = 0
    pages: int = 0
    listings_failed: int = 0
    listings_doubted: int = 0
    events_applied: int = 0
    events_dropped: int = 0
    healed: int = 0  # differences that only a listing brought
    watch_starts: int = 0
    watch_failures: int = 0
    compactions: int = 0


def next_page_entries(entries: int, took_s: float, bounds: Bounds) -> int:
    """How many to ask for after a page of so many that took so long: more as long as twice as much
    is far from what a page may take."""
    if took_s > bounds.page_s / 10:
        return entries
    return min(2 * entries, max(entries, bounds.most_page_entries))


def parts(page: Page, entries: int) -> Iterator[Page]:
    """The page in parts of so many, each as of the page's revision."""
    for at in range(0, max(len(page.entries), 1), entries):
        end = at + entries
        yield Page(page.entries[at:end], page.revision, page.more or end < len(page.entries))


def is_sudden(had: int, missing: int, doubt_entries: int) -> bool:
    """Whether a listing that lacks `missing` of `had` entries is too bad to be believed at once."""
    if not missing:
        return False
    return missing >= had or (had >= doubt_entries and 2 * missing > had)


class Follower:
    """One table's connection to the store. `start`, then `stop`.

    `keep_old`: after a restore, what the store lacks is kept (registrations) and not judged.
    """

    def __init__(
        self,
        store: Store,
        table: RemoteTable,
        availability: Availability,
        history: History,
        rng: Random,
        *,
        bounds: Bounds,
        keep_old: bool,
        confirm: Confirm | None,
        on_restored: Callable[[str, Mark], None],
    ) -> None:
        self.table = table
        self.counts = Counts()
        self.listed = asyncio.Event()  # once, ever
        self.caught_up = asyncio.Event()  # since the last restore
        self._store = store
        self._availability = availability
        self._history = history
        self._rng = rng
        self._bounds = bounds
        self._keep_old = keep_old
        self._confirm = confirm
        self._on_restored = on_restored
        self._loop = asyncio.get_running_loop()
        self._wanted = asyncio.Event()
        self._gap_s = bounds.listing_gap_s
        self._page_entries = bounds.page_entries  # of the next page; as at first after a failure
        self._failures = 0
        self._doubts: dict[str, float] = {}  # key: since when a listing lacks it
        self._listing: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._listing = spawn(self._keep_listing(), f"list {self.table.prefix}", eternal=True)

    async def stop(self) -> None:
        await stop(self._listing, self._watching)

    def want(self) -> None:
        """List soon."""
        self._wanted.set()

    def begin_history(self) -> None:
        """The store was restored: what is under way belongs to the past."""
        self._stop_watching()
        self._doubts = {}
        self.caught_up.clear()
        self.table.begin_history()
        self.want()

    # --- listing

    async def _keep_listing(self) -> None:
        while True:
            self._wanted.clear()
            began = self._loop.time()
            pause_s = await self._round()
            await self._pause(began, pause_s)

    async def _round(self) -> float:
        """List once, whatever comes; how long to wait for the next if nobody wants it sooner."""
        mark = self._history.mark()
        bounds = self._bounds
        try:
            await self._list(mark)
        except Restored as restored:
            self._on_restored(str(restored), mark)
            return bounds.listing_gap_s
        except Exception as error:
            self.counts.listings_failed += 1
            if self._availability.answers or not isinstance(error, MeshError):
                log.warning("a listing failed", prefix=self.table.prefix, why=repr(error))
            self._failures = min(self._failures + 1, 10)
            return min(bounds.relist_s, 2.0**self._failures) * self._rng.uniform(0.5, 1.0)
        self._failures = 0
        if self._doubts:
            return bounds.doubt_s
        return bounds.relist_s + self._rng.uniform(0.0, bounds.relist_jitter_s)

    async def _pause(self, began: float, pause_s: float) -> None:
        """Wait until a listing is due or wanted, and at least for the gap, which grows as long as
        listings are wanted in haste."""
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._wanted.wait()
        passed_s = self._loop.time() - began
        bounds = self._bounds
        if passed_s < self._gap_s:
            await asyncio.sleep(self._gap_s - passed_s)
            self._gap_s = min(bounds.last_gap_s, 2 * self._gap_s)
        elif passed_s > 2 * bounds.last_gap_s:
            self._gap_s = bounds.listing_gap_s

    async def _list(self, mark: Mark) -> None:
        await self._identify()
        listing = Listing(self.table)
        after: str | None = ""
        while after is not None:
            after = await self._next(listing, after, mark)
            if not self._history.same(mark):
                self.want()
                return
            self.counts.pages += 1
        await self._finish(listing, mark)

    async def _next(self, listing: Listing, after: str, mark: Mark) -> str | None:
        """Take the next page, in turns; what to go on after, or None at the end or once the history
        has. Apart from `_list`, so that no page is held while the next one comes."""
        with collector.still():  # nearly all of it is as it was, and dropped
            return await self._take(listing, after, mark)

    async def _take(self, listing: Listing, after: str, mark: Mark) -> str | None:
        asked = self._history.mark()
        page = await self._page(after)
        if why := self._history.contradiction(asked, page.revision):
            raise Restored(why)
        reached: str | None = after
        for number, part in enumerate(parts(page, self._bounds.turn_entries)):
            if number:
                await rest(REST_S if self.listed.is_set() else 0.0)
            if reached is None or not self._history.same(mark):
                return None
            self._history.saw(page.revision)
            reached = listing.add(reached, part)
        return reached

    async def _page(self, after: str) -> Page:
        entries, self._page_entries = self._page_entries, self._bounds.page_entries
        began = self._loop.time()
        page = await self._availability.call(
            lambda: self._store.page(self.table.prefix, after, entries),
            patience_s=self._bounds.page_s,
        )
        took_s = self._loop.time() - began
        self._page_entries = next_page_entries(entries, took_s, self._bounds)
        return page

    async def _identify(self) -> None:
        """Raise `Restored` if the store says that it is another one."""
        ask: Callable[[], Awaitable[str]] | None = getattr(self._store, "identity", None)
        if ask is None:
            return
        mark = self._history.mark()
        identity = await self._availability.call(ask)
        if self._history.same(mark) and (why := self._history.identify(identity)):
            raise Restored(why)

    async def _finish(self, listing: Listing, mark: Mark) -> None:
        missing = listing.missing(self._keep_old)
        gone, held = await self._judge(missing) if missing else (missing, ())
        if not self._history.same(mark):
            self.want()
            return
        still = listing.missing(self._keep_old)
        listing.finish({key: at for key, at in still.items() if key in gone}, held)
        self.counts.relists += 1
        if self.listed.is_set():
            self.counts.healed += listing.healed
        watched = self._watching is not None and not self._watching.done()
        if listing.healed or not watched:
            self._watch_from(listing.first_revision)
        if self.table.doubtful:
            self.want()
        self.listed.set()
        self.caught_up.set()

    async def _judge(self, missing: dict[str, int]) -> tuple[Collection[str], Collection[str]]:
        """Which of the missing keys are gone, and which are kept for now."""
        bounds, table = self._bounds, self.table
        if not is_sudden(len(table), len(missing), bounds.doubt_entries):
            self._doubts = {}
            return missing, ()
        self.counts.listings_doubted += 1
        log.warning("a listing lacks most of a table", prefix=table.prefix, keys=len(missing))
        known = await self._ask_witness([*missing])
        if known is not None:
            self._doubts = {}
            gone = {key for key in missing if key.removeprefix(table.prefix) in known}
            return gone, missing.keys() - gone
        now = self._loop.time()
        since = {key: self._doubts.get(key, now) for key in missing}
        gone = {key for key, began in since.items() if now - began >= bounds.doubt_s}
        self._doubts = {key: began for key, began in since.items() if key not in gone}
        return gone, self._doubts

    async def _ask_witness(self, keys: list[str]) -> Collection[str] | None:
        if self._confirm is None:
            return None
        names = [key.removeprefix(self.table.prefix) for key in keys]
        try:
            async with asyncio.timeout(self._bounds.confirm_s):
                return await self._confirm(self.table.prefix, names)
        except Exception as error:
            log.warning("nobody could confirm a loss", prefix=self.table.prefix, why=repr(error))
            return None

    # --- watching

    def _watch_from(self, revision: int) -> None:
        self._stop_watching()
        self.counts.watch_starts += 1
        self._watching = spawn(self._watch(revision), f"watch {self.table.prefix}")

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def _watch(self, after_revision: int) -> None:
        """Take events until the watch ends; then a listing is due, which begins the next watch."""
        prefix = self.table.prefix
        try:
            async for events in self._store.watch(prefix, after_revision):
                self._on_events(events)
            log.info("a watch of the registry ended", prefix=prefix)
        except Compacted:
            self.counts.compactions += 1
        except Exception as error:
            self.counts.watch_failures += 1
            log.warning("a watch of the registry failed", prefix=prefix, why=repr(error))
        self.want()

    def _on_events(self, events: Sequence[Event]) -> None:
        applied = self.table.apply(events)
        self.counts.events_applied += applied
        self.counts.events_dropped += len(events) - applied
        newest = max((event.revision for event in events), default=0)
        self.table.revision = max(self.table.revision, newest)
        self._history.saw(newest)
        if self.table.doubtful:
            self.want()
