"""Stores against a tiny model of what they promise, and watches against what was really changed."""

import asyncio
import contextlib
import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmesh.registry.store import (
    Change,
    Compacted,
    Compare,
    Delete,
    Entry,
    Event,
    Put,
    Store,
)
from modelmesh.registry.tables import TabledStore
from tests.registry.doors import DOORS, AnyDoor, Door, settle
from tests.registry.etcd_door import STORES

KEYS = ["r/a", "r/b", "r/c", "s/a"]
A_COMPARE = st.tuples(st.sampled_from(KEYS), st.sampled_from(["now", "absent", "stale"]))
A_CHANGE = st.tuples(st.sampled_from(KEYS), st.one_of(st.none(), st.binary(max_size=3)))
COMMITS = st.lists(
    st.tuples(
        st.lists(A_COMPARE, max_size=2),
        st.lists(A_CHANGE, max_size=3, unique_by=lambda change: change[0]),
    ),
    max_size=25,
)
Commits = list[tuple[list[tuple[str, str]], list[tuple[str, bytes | None]]]]


class Model:
    """The contract again, in twenty lines: a dictionary and a counter."""

    def __init__(self, revision: int) -> None:
        self.entries: dict[str, Entry] = {}
        self.revision = revision

    def commit(self, compares: list[Compare], changes: list[Change]) -> bool:
        for compare in compares:
            entry = self.entries.get(compare.key)
            if (entry.mod_revision if entry else 0) != compare.mod_revision:
                return False
        effective = [c for c in changes if isinstance(c, Put) or c.key in self.entries]
        self.revision += bool(effective)
        for change in effective:
            before = self.entries.pop(change.key, None)
            if isinstance(change, Put):
                created = before.create_revision if before else self.revision
                self.entries[change.key] = Entry(change.value, created, self.revision)
        return True


@pytest.mark.parametrize("name", list(STORES))
@settings(max_examples=60, deadline=None)
@given(commits=COMMITS)
def test_commits_do_what_the_model_does(
    name: str, commits: Commits, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def compare(store: Store, door: AnyDoor[Any]) -> None:
        base = (await store.page("")).revision
        model = Model(base)
        for wanted, changed in commits:
            entries = model.entries
            now = {key: entry.mod_revision for key, entry in entries.items()}
            compares = [
                Compare(key, {"now": now.get(key, 0), "absent": 0, "stale": base + 9999}[how])
                for key, how in wanted
            ]
            changes: list[Change] = [
                Delete(key) if value is None else Put(key, value) for key, value in changed
            ]
            done = await store.commit(compares, changes)
            assert done.succeeded == model.commit(compares, changes)
            assert done.revision == model.revision
            assert {*(await store.page("")).entries} == {*model.entries.items()}

    STORES[name](tmp_path_factory.mktemp("door")).run(compare)


@pytest.mark.parametrize("name", list(DOORS))
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_watchers_lose_and_repeat_nothing(
    name: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Watchers that start anywhere, any time, some slow: each sees the exact changes of its prefix
    from its revision on, whole revisions at a time, or is told that it cannot."""
    rng = random.Random(seed)

    async def follow(store: TabledStore, door: Door) -> None:
        truth: list[Event] = []
        store.table("").subscribe(truth.extend)
        seen: list[tuple[str, int, list[Event], list[bool]]] = []

        async def watcher(prefix: str, start: int) -> None:
            got: list[Event] = []
            compacted: list[bool] = []
            seen.append((prefix, start, got, compacted))
            watch = store.watch(prefix, start)
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    try:
                        events = await anext(watch)
                    except Compacted:
                        compacted.append(True)
                        return
                    assert events
                    assert not got or got[-1].revision < events[0].revision
                    got += events
                    for _ in range(rng.choice([0, 0, 0, 40])):
                        await asyncio.sleep(0)

        async def writer() -> None:
            for _ in range(20):
                keys = rng.sample(KEYS, rng.randint(1, 3))
                gone = rng.random() < 0.3
                changes = [
                    Delete(key) if gone else Put(key, b"%d" % rng.randrange(100)) for key in keys
                ]
                await store.commit([], changes)

        tasks: list[asyncio.Future[None]] = []
        writers = [asyncio.ensure_future(writer()) for _ in range(3)]
        while not all(task.done() for task in writers):
            if rng.random() < 0.2 and len(tasks) < 12:
                revision = (await store.page("")).revision
                start = rng.randint(0, revision + 2)
                tasks.append(asyncio.ensure_future(watcher(rng.choice(["", "r/", "s/"]), start)))
            await asyncio.sleep(0)
        await asyncio.gather(*writers)
        for _ in range(100):
            await settle()
        await store.close()
        await asyncio.gather(*tasks)
        for prefix, start, got, compacted in seen:
            whole = [e for e in truth if e.revision > start and e.key.startswith(prefix)]
            assert got == (whole[: len(got)] if compacted else whole)
        for earlier, later in itertools.pairwise(truth):
            assert earlier.revision <= later.revision

    door = DOORS[name](tmp_path_factory.mktemp("door"))
    door.history_events = 30
    door.run(follow)
