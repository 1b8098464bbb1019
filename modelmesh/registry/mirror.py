"""A store elsewhere, mirrored: its tables are read here without asking, its calls are bounded.

`Mirror` makes a `TabledStore` of any remote `Store`. Each table has a `Follower` (listing, watch,
listing again); commits, reads and leases go through to the store, no longer than it may take to
answer, and what comes of them is shown to the tables before the caller hears of it: whoever has
committed reads what he wrote.

The store does not answer (`answers`, `availability`): commits, reads and grants fail at once with
UNAVAILABLE; the tables stay as they are; `look` says what they say. Keeping a lease alive is always
tried. When it answers again all tables are listed, spread over a second.

The daemon starts while the store does not answer: MODELS and VMODELS come from the snapshot, which
is written at most once a minute, and at the end. Without one, the tables are empty and `ready` is
False until the store was listed.

The store was restored: its revision went back, it names itself otherwise (`identity`), or a
listing contradicts what was seen. Then

* MODELS and VMODELS keep every entry. What the store has replaces what was known, though its
  revision may be lower. What it lacks stays readable, with the revisions of before, and is offered
  back: created if absent, in bounded bulks. Until then `restored` is True. The store's own later
  word (a deletion by anybody, also of a key that it lacks) ends an entry, and `accept_restore`
  ends all of them: the operator wants the store as it is.
* INSTANCES, CONFIG and LEADER follow the store. What it lacks is not dropped at once where that is
  most of the table (`follower`). Their owners publish anew: `subscribe_restored` tells them.
* Leases of before may be gone; `keep_alive` says so.

A restore that comes to light by nothing of this (the store went on beyond the revision that was
known here, as the same one, without a contradiction) looks like ordinary changes.
Must never repeat a commit, and never hold a caller longer than the store's patience.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Final, Self

import structlog

from modelmesh.observe.listeners import Listeners
from modelmesh.observe.tasks import every, spawn, stop
from modelmesh.registry.availability import Availability
from modelmesh.registry.follower import Bounds, Confirm, Counts, Follower
from modelmesh.registry.history import History, Mark
from modelmesh.registry.looks import Looks
from modelmesh.registry.offers import offer_back
from modelmesh.registry.remote_table import RemoteTable
from modelmesh.registry.snapshot import Saver
from modelmesh.registry.store import (
    CONFIG,
    INSTANCES,
    LEADER,
    MODELS,
    VMODELS,
    Change,
    Committed,
    Compare,
    Delete,
    Entry,
    Event,
    Page,
    Put,
    Store,
)

log = structlog.get_logger("registry")

PREFIXES: Final = (MODELS, VMODELS, INSTANCES, CONFIG, LEADER)

# Registrations: kept and offered back after a restore, and saved in the snapshot.
KEPT: Final = (MODELS, VMODELS)


class Mirror:
    """Made by `open`. Owns the store: `close` closes both."""

    def __init__(
        self,
        store: Store,
        rng: Random,
        *,
        snapshot_path: str | None = None,
        confirm: Confirm | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        self.bounds = bounds or Bounds()
        self.restores = 0
        self.from_snapshot = False
        self._store = store
        self._rng = rng
        self.confirm = confirm
        self._loop = asyncio.get_running_loop()
        self._history = History()
        self.availability = Availability(lambda: store.get(INSTANCES), rng, self.bounds.patience_s)
        self.availability.subscribe(self._on_answers)
        self._followers: dict[str, Follower] = {}
        self._looks = Looks(self._known, self.get, lambda: self.answers)
        self._restore_listeners = Listeners[None]("restores")
        self._offering: asyncio.Task[None] | None = None
        for prefix in PREFIXES:
            self._follow(prefix)
        self._saver = self._make_saver(snapshot_path)
        self._saving: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        store: Store,
        rng: Random,
        *,
        snapshot_path: str | None = None,
        confirm: Confirm | None = None,
        bounds: Bounds | None = None,
    ) -> Self:
        """Follow the store; returns when it was listed, or, when it brings nothing within
        `bounds.open_s`, with what the snapshot has (`from_snapshot`), going on to try."""
        mirror = cls(store, rng, snapshot_path=snapshot_path, confirm=confirm, bounds=bounds)
        try:
            await mirror._begin()
        except BaseException:
            await mirror.close()
            raise
        return mirror

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # --- what is known

    @property
    def answers(self) -> bool:
        """Whether the store answers, as far as anybody has asked."""
        return self.availability.answers

    @property
    def ready(self) -> bool:
        """Whether the tables can be served from: listed, or taken from a snapshot."""
        return self.from_snapshot or self.listed

    @property
    def listed(self) -> bool:
        """Whether every table was listed since the start."""
        return all(follower.listed.is_set() for follower in self._followers.values())

    @property
    def restored(self) -> bool:
        """Whether there are entries of before a restore that the store has not got back."""
        return self.kept > 0

    @property
    def kept(self) -> int:
        """How many such entries."""
        return sum(self._followers[prefix].table.old for prefix in KEPT)

    @property
    def counts(self) -> Mapping[str, Counts]:
        """What happened since the start, by prefix."""
        return {prefix: follower.counts for prefix, follower in self._followers.items()}

    @property
    def reads(self) -> int:
        """How often `look` had to ask the store."""
        return self._looks.reads

    def total(self, name: str) -> int:
        """One of the counts over all tables."""
        return sum(int(asdict(each)[name]) for each in self.counts.values())

    def table(self, prefix: str) -> RemoteTable:
        """What is known of that prefix; the same table each time. One that is not of the daemon's
        five is followed from now on, and fills up soon."""
        if prefix not in self._followers:
            self._follow(prefix).start()
        return self._followers[prefix].table

    async def look(self, key: str) -> Entry | None:
        """What the tables know, or else what the store knows now, if it answers."""
        return await self._looks.look(key)

    def subscribe_restored(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Be told that the store was restored, again when the tables show what it has, and again
        when it has got back what it lacked; returns the way to stop."""
        return self._restore_listeners.subscribe(lambda _nothing: listener())

    def accept_restore(self) -> int:
        """Somebody has spoken: what the restored store lacks shall be gone; how much that is."""
        kept = self.kept
        for prefix in KEPT:
            self._followers[prefix].table.drop_old()
        return kept

    async def save(self) -> None:
        """Write the snapshot, if there is something new to write and a place for it."""
        if self._saver is not None and self.ready:
            await self._saver.save()

    # --- the store's own calls

    async def commit(self, compares: Sequence[Compare], changes: Sequence[Change]) -> Committed:
        mark = self._history.mark()
        done = await self.availability.call(lambda: self._store.commit(compares, changes))
        self._show_commit(mark, compares, changes, done)
        return done

    async def get(self, key: str) -> Entry | None:
        mark = self._history.mark()
        entry = await self.availability.call(lambda: self._store.get(key))
        if self._history.same(mark):
            self._show(key, entry, mark.revision)
        return entry

    async def page(self, prefix: str, after: str = "", limit: int = 1000) -> Page:
        return await self.availability.call(
            lambda: self._store.page(prefix, after, limit), patience_s=self.bounds.page_s
        )

    def watch(self, prefix: str, after_revision: int) -> AsyncIterator[list[Event]]:
        return self._store.watch(prefix, after_revision)

    async def grant(self, ttl_s: float) -> int:
        return await self.availability.call(lambda: self._store.grant(ttl_s))

    async def keep_alive(self, lease: int) -> bool:
        return await self.availability.call(lambda: self._store.keep_alive(lease), guarded=False)

    async def revoke(self, lease: int) -> None:
        await self.availability.call(lambda: self._store.revoke(lease))

    async def close(self) -> None:
        """Save, let go, and close the store."""
        await stop(self._saving, self._offering)
        await asyncio.gather(*(follower.stop() for follower in self._followers.values()))
        await self.availability.close()
        if self._saver is not None:
            await self.save()
            self._saver.close()
        await self._store.close()

    # --- beginning

    def _follow(self, prefix: str) -> Follower:
        table = RemoteTable(prefix, self.bounds.tombstones)
        table.subscribe(self._looks.forget)
        follower = self._followers[prefix] = Follower(
            self._store,
            table,
            self.availability,
            self._history,
            self._rng,
            bounds=self.bounds,
            keep_old=prefix in KEPT,
            confirm=self.confirm,
            on_restored=self._on_restored,
        )
        return follower

    def _make_saver(self, path: str | None) -> Saver | None:
        if path is None:
            return None
        tables = [self._followers[prefix].table for prefix in KEPT]
        return Saver(Path(path), tables, lambda: (self._history.revision, self._history.identity))

    async def _begin(self) -> None:
        for follower in self._followers.values():
            follower.start()
        pages = -1
        while not self.listed and pages < self.total("pages"):
            pages = self.total("pages")
            await self._until_listed()
        if self._saver is None:
            return
        if not self.listed:
            await self._load(self._saver)
        self._saving = every(self.bounds.snapshot_s, self.save, "save the registry's snapshot")

    async def _until_listed(self) -> None:
        """Wait for the listings, as long as a store may bring nothing."""
        waiting = [spawn(each.listed.wait(), "be listed") for each in self._followers.values()]
        await asyncio.wait(waiting, timeout=self.bounds.open_s)
        await stop(*waiting)

    async def _load(self, saver: Saver) -> None:
        """Take the snapshot, unless the store has said that it is of another history."""
        snapshot = await saver.read()
        if snapshot is None:
            return
        history = self._history
        identity = snapshot.identity or history.identity
        if history.revision > snapshot.revision or history.identity not in ("", identity):
            log.warning("a snapshot is ignored", why="the store answered, and is another one")
            return
        history.saw(snapshot.revision)
        history.identify(snapshot.identity)
        for at in range(0, len(snapshot.items), 1000):
            items = snapshot.items[at : at + 1000]
            for prefix in KEPT:
                mine = [item for item in items if item[0].startswith(prefix)]
                self._followers[prefix].table.load(mine)
            await asyncio.sleep(0)
        self.from_snapshot = True
        log.warning("the registry is served from its snapshot", entries=len(snapshot.items))

    # --- what replies say

    def _known(self, key: str) -> Entry | None:
        for prefix, follower in self._followers.items():
            if key.startswith(prefix):
                return follower.table.entry(key)
        return None

    def _show_commit(
        self,
        mark: Mark,
        compares: Sequence[Compare],
        changes: Sequence[Change],
        done: Committed,
    ) -> None:
        """Let the tables see what came of a commit, each before anybody else hears of it."""
        history = self._history
        if not history.same(mark) or history.contradiction(mark, done.revision):
            self._want_all()
            return
        history.saw(done.revision)
        if not done.succeeded:
            for key, entry in done.current:
                self._show(key, entry, done.revision)
            return
        compared = {compare.key: compare.mod_revision for compare in compares}
        events = [self._event(change, compared, done.revision) for change in changes]
        for prefix, follower in self._followers.items():
            follower.table.apply([each for each in events if each.key.startswith(prefix)])

    def _event(self, change: Change, compared: Mapping[str, int], revision: int) -> Event:
        if isinstance(change, Delete):
            return Event(change.key, None, revision)
        created = self._created(change, compared.get(change.key), revision)
        return Event(change.key, Entry(change.value, created, revision, change.lease), revision)

    def _created(self, put: Put, compared: int | None, revision: int) -> int:
        """When a key that was just put was created; where that is a guess, the watch mends it."""
        if compared == 0:
            return revision
        known = self._known(put.key)
        return known.create_revision if known else compared or revision

    def _show(self, key: str, entry: Entry | None, revision: int) -> None:
        """Let the tables see what the store has under a key, as of `revision` at least."""
        if entry is not None:
            self._history.saw(entry.mod_revision)
        for prefix, follower in self._followers.items():
            if not key.startswith(prefix):
                continue
            if entry is None:
                follower.table.absent(key, revision)
            else:
                follower.table.apply([Event(key, entry, entry.mod_revision)])

    # --- what happens to the store

    def _want_all(self) -> None:
        for follower in self._followers.values():
            follower.want()

    def _on_answers(self, answers: bool) -> None:
        if not answers:
            return
        jitter_s = self.bounds.back_jitter_s
        for follower in self._followers.values():
            self._loop.call_later(self._rng.uniform(0.0, jitter_s), follower.want)

    def _on_restored(self, why: str, mark: Mark) -> None:
        """A follower has found out; the first one counts."""
        if not self._history.same(mark):
            return
        self.restores += 1
        log.error("the registry's store was restored", why=why)
        self._history.begin()
        for follower in self._followers.values():
            follower.begin_history()
        self._looks.clear()
        if self._offering is not None:
            self._offering.cancel()
        self._offering = spawn(self._offer_back(), "offer registrations back")
        self._restore_listeners.tell(None)

    async def _offer_back(self) -> None:
        """Once it is known what the store lacks, have it created again."""
        for prefix in KEPT:
            await self._followers[prefix].caught_up.wait()
        self._restore_listeners.tell(None)
        kept = self.kept
        tables: list[RemoteTable] = [self._followers[prefix].table for prefix in KEPT]
        commits = await offer_back(tables, self.commit, self._rng, self.bounds.offer_commits_per_s)
        log.warning("registrations were offered back", entries=kept, commits=commits)
        if kept:
            self._restore_listeners.tell(None)
