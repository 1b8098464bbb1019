"""Whatever a network does to watches and calls: a mirror never goes back, and ends as the store."""

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from modelmesh.errors import MeshError
from modelmesh.registry.follower import Bounds
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.mirror import PREFIXES, Mirror
from modelmesh.registry.store import Compacted, Compare, Delete, Entry, Event, Put
from tests.registry.doors import settle
from tests.registry.faulty import Faulty, comes, elapse
from tests.registry.virtual_loop import VirtualLoop

KEYS = ["registry/a", "registry/b", "registry/c", "instances/x"]
A_CHANGE = st.tuples(st.sampled_from(KEYS), st.one_of(st.none(), st.binary(max_size=2)))
CHANGES = st.lists(A_CHANGE, min_size=1, max_size=3, unique_by=lambda change: change[0])
COMMITS = st.tuples(st.sampled_from(["mine", "theirs", "theirs", "theirs, unseen"]), CHANGES)
STEP = st.one_of(
    *[COMMITS] * 8,
    st.tuples(st.sampled_from(["silent", "mute", "refused"]), st.sampled_from([0.5, 3.0])),
    st.tuples(st.just("interrupt"), st.booleans()),
    st.tuples(st.just("deaf"), st.booleans()),
    st.tuples(st.just("hold pages"), CHANGES),
    st.tuples(st.just("look"), st.sampled_from(KEYS)),
    st.tuples(st.just("pass"), st.sampled_from([0.0, 0.5, 3.0, 75.0])),
)


# How much of what a watch brings is lost, repeated, delayed.
SHARES = st.tuples(*[st.sampled_from([0.0, 0.2, 0.6])] * 3)


def run(test: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(test)


class Reader:
    """What somebody sees who only listens: the table again, and that no key ever goes back.

    A listener's own failure reaches nobody, so what is wrong is noted and raised by `check`.
    """

    def __init__(self, mirror: Mirror) -> None:
        self.entries: dict[str, Entry] = {}
        self.shown: dict[str, int] = {}
        self.wrong: list[str] = []
        for prefix in PREFIXES:
            table = mirror.table(prefix)
            self.entries |= {key: entry for items in table.items() for key, entry in items}
            table.subscribe(self.hear)
        self.shown = {key: entry.mod_revision for key, entry in self.entries.items()}

    def hear(self, events: list[Event]) -> None:
        for event in events:
            if event.revision <= self.shown.get(event.key, 0):
                self.wrong.append(f"{event} after revision {self.shown[event.key]}")
            if event.entry is None and event.key not in self.entries:
                self.wrong.append(f"{event} is no change")
            self.shown[event.key] = event.revision
            if event.entry is None:
                self.entries.pop(event.key, None)
            else:
                self.entries[event.key] = event.entry

    def check(self, mirror: Mirror) -> None:
        assert not self.wrong
        assert {key: entry.value for key, entry in self.entries.items()} == {
            key: entry.value for key, entry in contents(mirror).items()
        }


def contents(mirror: Mirror) -> dict[str, Entry]:
    return {
        prefix + name: entry
        for prefix in PREFIXES
        for name in mirror.table(prefix).names()
        if (entry := mirror.table(prefix).get(name)) is not None
    }


async def commit(store: Any, changes: list[tuple[str, bytes | None]]) -> int:
    """Compare-and-set of these keys, as all writers do; the revision, or 0 if it did not happen."""
    compares = []
    for key, _ in changes:
        entry = await store.get(key)
        compares.append(Compare(key, entry.mod_revision if entry else 0))
    done = await store.commit(
        compares, [Delete(key) if value is None else Put(key, value) for key, value in changes]
    )
    return done.revision if done.succeeded else 0


async def mine(mirror: Mirror, changes: list[tuple[str, bytes | None]]) -> None:
    """A commit through the mirror: whoever has committed reads what he wrote."""
    try:
        revision = await commit(mirror, changes)
    except MeshError:
        return
    for key, value in changes if revision else []:
        entry = contents(mirror).get(key)
        assert (entry.value if entry else None) == value
        assert entry is None or entry.mod_revision == revision


async def step(faulty: Faulty, mirror: Mirror, what: str, how: Any) -> None:
    if what == "mine":
        await comes(mine(mirror, how), 3.0)
    elif what.startswith("theirs"):
        await commit(faulty.inner, how)
        if "unseen" not in what:
            await settle()
    elif what in ("silent", "mute", "refused"):
        faulty.be(what)
        waiting = asyncio.ensure_future(mine(mirror, [(KEYS[0], what.encode())]))
        await elapse(how)
        faulty.be("good")
        await comes(waiting, 2.5)
    elif what == "interrupt":
        faulty.interrupt(Compacted() if how else ConnectionError("cut"))
        await settle()
    elif what == "look":
        await comes(mirror.look(how), 1.5)
    elif what == "pass":
        await elapse(how, 0.5)
    elif what == "hold pages":
        await commit_between_pages(faulty, how)
    else:
        setattr(faulty, what, how)


async def commit_between_pages(faulty: Faulty, changes: list[tuple[str, bytes | None]]) -> None:
    """A listing that takes its time, while others go on."""
    faulty.hold_pages = asyncio.Event()
    faulty.interrupt(Compacted())
    await elapse(1.5)
    for change in changes:
        await commit(faulty.inner, [change])
        await settle()
        faulty.hold_pages.set()
        faulty.hold_pages = asyncio.Event()
        await settle()
    faulty.hold_pages.set()
    faulty.hold_pages = None
    await settle()


@settings(max_examples=100, deadline=None, phases=(Phase.generate,))
@given(steps=st.lists(STEP, min_size=15, max_size=40), shares=SHARES, seed=st.integers(0, 2**32))
def test_a_mirror_never_goes_back_and_ends_as_the_store(
    steps: list[tuple[str, Any]], shares: tuple[float, float, float], seed: int
) -> None:
    async def follow() -> None:

        faulty = Faulty(MemoryStore(history_events=20), Random(seed))
        await commit(faulty.inner, [(KEYS[0], b"0"), (KEYS[-1], b"1")])
        pages = {"page_entries": 1 + seed % 3, "most_page_entries": 1 + seed % 7}
        bounds = Bounds(**pages, tombstones=2)
        mirror = await comes(Mirror.open(faulty, Random(seed), bounds=bounds), 5.0)
        reader = Reader(mirror)
        faulty.lose, faulty.repeat, faulty.delay = shares
        for what, how in steps:
            await step(faulty, mirror, what, how)
            reader.check(mirror)
        faulty.lose = faulty.repeat = faulty.delay = 0.0
        faulty.deaf = False
        faulty.be("good")
        await elapse(bounds.relist_s + bounds.relist_jitter_s + bounds.doubt_s + 2.0, 1.0)
        reader.check(mirror)
        truth = dict((await faulty.inner.page("", limit=100)).entries)
        assert contents(mirror) == truth
        assert mirror.answers
        assert not mirror.restores
        await mirror.close()

    run(follow())
