"""What every store promises (modelmesh/registry/store.py), over every implementation."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from modelmesh.errors import Code, MeshError
from modelmesh.registry.keyspace import COMMIT_BYTES, COMMIT_OPERATIONS
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
from tests.registry.doors import (
    AnyDoor,
    Door,
    next_events,
    over_every_store,
    scenario,
    settle,
)


async def put(store: Store, key: str, value: bytes = b"v", lease: int = 0) -> int:
    done = await store.commit([], [Put(key, value, lease)])
    assert done.succeeded
    return done.revision


async def entry_at(store: Store, key: str) -> Entry:
    entry = await store.get(key)
    assert entry is not None
    return entry


# --- commits


@over_every_store
async def test_a_put_is_read_back_with_its_revisions(store: Store, door: AnyDoor[Any]) -> None:
    first = await put(store, "a", b"1")
    second = await put(store, "a", b"2")
    assert second > first
    assert await store.get("a") == Entry(b"2", first, second)


@over_every_store
async def test_an_absent_key_has_revision_0(store: Store, door: AnyDoor[Any]) -> None:
    assert await store.get("a") is None
    assert (await store.commit([Compare("a", 0)], [Put("a", b"1")])).succeeded
    refused = await store.commit([Compare("a", 0)], [Put("a", b"2")])
    assert not refused.succeeded
    assert refused.current == (("a", await store.get("a")),)
    assert (await entry_at(store, "a")).value == b"1"


@over_every_store
async def test_a_commit_is_all_or_nothing(store: Store, door: AnyDoor[Any]) -> None:
    revision = await put(store, "a")
    done = await store.commit(
        [Compare("a", revision), Compare("b", 7)], [Put("c", b""), Delete("a")]
    )
    assert not done.succeeded
    assert [key for key, _ in done.current] == ["a", "b"]
    assert await store.get("c") is None
    assert await store.get("a") is not None
    done = await store.commit(
        [Compare("a", revision), Compare("b", 0)], [Put("c", b""), Delete("a")]
    )
    assert done.succeeded
    assert await store.get("a") is None
    assert (await entry_at(store, "c")).mod_revision == done.revision


@over_every_store
async def test_a_commit_that_changes_nothing_takes_no_revision(
    store: Store, door: AnyDoor[Any]
) -> None:
    revision = await put(store, "a")
    assert (await store.commit([Compare("a", revision)], [])).revision == revision
    assert (await store.commit([], [Delete("absent")])).revision == revision
    assert (await store.commit([Compare("a", 0)], [Put("a", b"")])).revision == revision
    assert await put(store, "b") == revision + 1


@over_every_store
async def test_a_key_that_came_back_is_created_anew(store: Store, door: AnyDoor[Any]) -> None:
    first = await put(store, "a")
    await store.commit([], [Delete("a")])
    again = await put(store, "a")
    assert await store.get("a") == Entry(b"v", again, again)
    assert not (await store.commit([Compare("a", first)], [Delete("a")])).succeeded


@over_every_store
async def test_of_many_that_compare_the_same_one_wins(store: Store, door: AnyDoor[Any]) -> None:
    async def count(times: int) -> None:
        for _ in range(times):
            while True:
                entry = await store.get("counter")
                seen = entry.mod_revision if entry else 0
                value = int(entry.value) + 1 if entry else 1
                commit = store.commit([Compare("counter", seen)], [Put("counter", b"%d" % value)])
                if (await commit).succeeded:
                    break

    await asyncio.gather(*(count(10) for _ in range(8)))
    assert (await entry_at(store, "counter")).value == b"80"


@over_every_store
async def test_commits_that_go_on_together_all_count(store: Store, door: AnyDoor[Any]) -> None:
    done = await asyncio.gather(
        *(store.commit([Compare(f"k{n}", 0)], [Put(f"k{n}", b"%d" % n)]) for n in range(500))
    )
    assert all(each.succeeded for each in done)
    assert len({each.revision for each in done}) == 500
    for n in range(500):
        assert (await entry_at(store, f"k{n}")).value == b"%d" % n


@pytest.mark.parametrize(
    "changes",
    [
        [Put("a", b"1"), Put("a", b"2")],
        [Put("a", b"1"), Delete("a")],
        [Put("a\ud800", b"")],
        [Put("a", b"x" * (1 << 20))],
        [Put(f"a{n}", b"") for n in range(COMMIT_OPERATIONS + 1)],
    ],
    ids=["twice", "put and delete", "half a character", "too large", "too many"],
)
def test_what_no_store_takes_is_refused(any_door: AnyDoor[Any], changes: Sequence[Change]) -> None:
    async def refused(store: Store, door: AnyDoor[Any]) -> None:
        with pytest.raises(MeshError) as caught:
            await store.commit([], changes)
        assert caught.value.failure.code is Code.INVALID_ARGUMENT
        assert (await store.page("")).entries == ()

    any_door.run(refused)


@pytest.mark.parametrize("name", ["..", "a\0b", "\r\n", "x" * 10_000, "🦊", " ", "a/b//", "%s"])
def test_keys_may_hold_any_characters(any_door: AnyDoor[Any], name: str) -> None:
    async def kept(store: Store, door: AnyDoor[Any]) -> None:
        await put(store, "registry/" + name, b"\0\xff")
        assert (await entry_at(store, "registry/" + name)).value == b"\0\xff"
        assert [key for key, _ in (await store.page("registry/")).entries] == ["registry/" + name]

    any_door.run(kept)


@over_every_store
async def test_a_commit_may_be_as_large_as_it_says(store: Store, door: AnyDoor[Any]) -> None:
    keys = [f"k{n}" for n in range(COMMIT_OPERATIONS)]
    compares = [Compare(key, 0) for key in keys]
    value = b"x" * (COMMIT_BYTES // COMMIT_OPERATIONS - 20)
    assert (await store.commit(compares, [Put(key, value) for key in keys])).succeeded
    refused = await store.commit(compares, [Put(key, b"") for key in keys])
    assert [key for key, entry in refused.current if entry] == keys


# --- listings


@over_every_store
async def test_pages_are_sorted_and_go_on_after_the_last_key(
    store: Store, door: AnyDoor[Any]
) -> None:
    keys = [f"p/{n:03}" for n in range(250)] + ["p/🦊", "p/~"]
    for key in (*keys, "o", "p", "q", "p0"):
        await put(store, key)
    listed: list[str] = []
    more = True
    while more:
        page = await store.page("p/", listed[-1] if listed else "", limit=100)
        listed += [key for key, _ in page.entries]
        more = page.more
    assert listed == sorted(keys)
    assert (await store.page("p/", limit=252)).more is False
    assert (await store.page("p/", limit=251)).more is True
    assert (await store.page("none/")).entries == ()
    assert (await store.page("", after="p/~")).entries[0][0] == "p/🦊"


# --- tables


@scenario
async def test_a_table_shows_its_prefix_without_it(store: TabledStore, door: Door) -> None:
    table = store.table("registry/")
    for name in ("b", "a", "ab", "c"):
        await put(store, "registry/" + name, name.encode())
    last = await put(store, "vmodels/a")
    assert len(table) == 4
    assert len(store.table("")) == 5
    assert list(table.names()) == ["a", "ab", "b", "c"]
    assert list(table.names("a")) == ["a", "ab"]
    assert list(table.names("", "ab")) == ["b", "c"]
    assert table.get("ab") == await entry_at(store, "registry/ab")
    assert table.get("x") is None
    assert table.revision == last


@scenario
async def test_names_can_be_walked_while_they_come_and_go(store: TabledStore, door: Door) -> None:
    everything = ["a" * n for n in range(1, 601)]
    await asyncio.gather(*(put(store, f"r/{name}") for name in everything))
    names = store.table("r/").names()
    seen = [next(names)]
    await asyncio.gather(*(store.commit([], [Delete(f"r/{name}")]) for name in everything[1::2]))
    seen += names
    assert set(everything[::2]) <= set(seen)
    assert seen == sorted(set(seen))


@scenario
async def test_subscribers_are_told_once_and_after_the_fact(store: TabledStore, door: Door) -> None:
    table = store.table("registry/")
    told: list[tuple[Event, Entry | None]] = []

    def listen(events: list[Event]) -> None:
        told.extend((each, table.get(each.key.removeprefix("registry/"))) for each in events)

    stop = table.subscribe(listen)
    revision = await put(store, "registry/a", b"1")
    await put(store, "other/a")
    entry = Entry(b"1", revision, revision)
    assert told == [(Event("registry/a", entry, revision), entry)]
    gone = await store.commit([], [Delete("registry/a")])
    assert told[1:] == [(Event("registry/a", None, gone.revision), None)]
    stop()
    stop()
    await put(store, "registry/a")
    assert len(told) == 2


@scenario
async def test_a_failing_listener_harms_nobody(store: TabledStore, door: Door) -> None:
    table = store.table("")
    told: list[Event] = []

    def fail(events: list[Event]) -> None:
        raise RuntimeError("a listener's own trouble")

    table.subscribe(fail)
    table.subscribe(told.extend)
    await put(store, "a")
    assert len(told) == 1


# --- watches


@over_every_store
async def test_a_watch_gets_what_came_after_its_revision(store: Store, door: AnyDoor[Any]) -> None:
    first = await put(store, "r/a")
    second = await put(store, "r/b")
    await put(store, "x/a")
    watch = store.watch("r/", first)
    assert [(e.key, e.revision) for e in await next_events(watch)] == [("r/b", second)]
    waiting = asyncio.ensure_future(next_events(watch))
    await settle()
    assert not waiting.done()
    await put(store, "x/b")
    done = await store.commit([], [Put("r/c", b""), Delete("r/a")])
    events = await waiting
    assert [(e.key, e.entry is None) for e in events] == [("r/c", False), ("r/a", True)]
    assert {e.revision for e in events} == {done.revision}


@over_every_store
async def test_a_watch_from_the_future_waits_for_it(store: Store, door: AnyDoor[Any]) -> None:
    revision = await put(store, "a")
    waiting = asyncio.ensure_future(next_events(store.watch("", revision + 1)))
    await settle()
    await put(store, "b")
    await settle()
    assert not waiting.done()
    await put(store, "c")
    assert [event.key for event in await waiting] == ["c"]


@over_every_store
async def test_one_watcher_that_leaves_does_not_disturb_another(
    store: Store, door: AnyDoor[Any]
) -> None:
    leaving = asyncio.ensure_future(next_events(store.watch("", 0)))
    staying = asyncio.ensure_future(next_events(store.watch("", 0)))
    await settle()
    leaving.cancel()
    await put(store, "a")
    assert [event.key for event in await staying] == ["a"]
    with pytest.raises(asyncio.CancelledError):
        await leaving


def test_a_watcher_that_lags_too_far_is_told(any_door: AnyDoor[Any]) -> None:
    async def lag(store: Store, door: AnyDoor[Any]) -> None:
        start = await put(store, "a")
        watch = store.watch("", start)
        for n in range(100):
            await put(store, f"b{n}")
        await door.forget(store)
        with pytest.raises(Compacted):
            await next_events(watch)
        again = store.watch("", (await store.page("")).revision)
        await put(store, "c")
        assert [event.key for event in await next_events(again)] == ["c"]

    any_door.history_events = 8
    any_door.run(lag)


@over_every_store
async def test_closing_ends_a_watch(store: Store, door: AnyDoor[Any]) -> None:
    waiting = asyncio.ensure_future(next_events(store.watch("", 0)))
    await settle()
    await store.close()
    with pytest.raises(StopAsyncIteration):
        await waiting


# --- leases


@over_every_store
async def test_keys_vanish_with_their_lease_as_one_revision(
    store: Store, door: AnyDoor[Any]
) -> None:
    began = door.now()
    lease = await store.grant(door.ttl_s)
    await put(store, "i/a", lease=lease)
    revision = await put(store, "i/b", lease=lease)
    found = await store.get("i/b")
    watch = store.watch("i/", revision)
    await door.elapse(0.5 * door.ttl_s)
    await settle()
    later = await store.get("i/a")
    door.lives(began)
    assert found is not None
    assert (found.lease, later is None) == (lease, False)
    await door.elapse(0.6 * door.ttl_s)
    events = await next_events(watch)
    assert [(event.key, event.entry, event.revision) for event in events] == [
        ("i/a", None, revision + 1),
        ("i/b", None, revision + 1),
    ]
    assert await store.keep_alive(lease) is False
    with pytest.raises(MeshError) as caught:
        await put(store, "i/c", lease=lease)
    assert caught.value.failure.code is Code.NOT_FOUND


@over_every_store
async def test_a_lease_kept_alive_lives_on(store: Store, door: AnyDoor[Any]) -> None:
    began = door.now()
    lease = await store.grant(door.ttl_s)
    revision = await put(store, "a", lease=lease)
    for _ in range(3):
        await door.elapse(0.6 * door.ttl_s)
        before, began = began, door.now()
        kept = await store.keep_alive(lease)
        door.lives(before)
        assert kept is True
        await settle()
    found = await store.get("a")
    door.lives(began)
    assert found is not None
    await door.elapse(1.1 * door.ttl_s)
    assert await store.keep_alive(lease) is False  # due, even where nobody has noticed yet
    assert [event.key for event in await next_events(store.watch("", revision))] == ["a"]


@over_every_store
async def test_a_revoked_lease_takes_its_own_keys_only(store: Store, door: AnyDoor[Any]) -> None:
    mine, other = await store.grant(60), await store.grant(60)
    assert mine != other
    await put(store, "a", lease=mine)
    await put(store, "b", lease=other)
    await put(store, "moved", lease=mine)
    await put(store, "moved", lease=other)
    await put(store, "freed", lease=mine)
    await put(store, "freed")
    await store.revoke(mine)
    await store.revoke(mine)
    assert [key for key, _ in (await store.page("")).entries] == ["b", "freed", "moved"]
    assert await store.keep_alive(mine) is False
    assert await store.keep_alive(other) is True
    assert await store.keep_alive(999) is False


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, float("nan")])
def test_a_lease_without_a_life_is_refused(any_door: AnyDoor[Any], ttl_s: float) -> None:
    async def refused(store: Store, door: AnyDoor[Any]) -> None:
        with pytest.raises(MeshError):
            await store.grant(ttl_s)

    any_door.run(refused)


# --- closed


@over_every_store
async def test_a_closed_store_is_unavailable(store: Store, door: AnyDoor[Any]) -> None:
    await store.close()
    for work in (store.get("a"), store.page(""), store.commit([], [Put("a", b"")]), store.grant(1)):
        with pytest.raises(MeshError) as caught:
            await work
        assert caught.value.failure.code is Code.UNAVAILABLE
