"""A mirror over a store whose network a test holds in its hands; time is virtual throughout."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Fault, MeshError
from modelmesh.registry.follower import Bounds
from modelmesh.registry.local import LocalStore
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.models import Models, Registration
from modelmesh.registry.sqlite import SqliteStore
from modelmesh.registry.store import MODELS, Compacted, Compare, Delete, Event, Put
from tests.registry.doors import settle
from tests.registry.faulty import Faulty, comes, elapse
from tests.registry.mirrors import faulty_with, fill, models, opened, period, virtual

# --- tables


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@virtual
async def test_a_mirror_is_ready_when_it_is_open(kind: str, tmp_path: Path) -> None:
    inner = MemoryStore() if kind == "memory" else await SqliteStore.open(str(tmp_path / "db"))
    faulty = await faulty_with("a", "b", "vmodels/v", "config/c", inner=inner)
    async with await opened(faulty, bounds=Bounds(page_entries=1)) as mirror:
        assert mirror.ready
        assert models(mirror) == ["a", "b"]
        assert mirror.table("vmodels/").get("v") is not None
        await mirror.commit([Compare(MODELS + "c", 0)], [Put(MODELS + "c", b"{}")])
        assert models(mirror) == ["a", "b", "c"]


@virtual
async def test_a_lost_event_is_healed_within_a_period() -> None:
    faulty = await faulty_with("a", "b", "c")
    async with await opened(faulty) as mirror:
        told: list[Event] = []
        mirror.table(MODELS).subscribe(told.extend)
        faulty.lose = 1.0
        await faulty.inner.commit([], [Put(MODELS + "d", b"{}"), Delete(MODELS + "a")])
        await settle()
        assert faulty.struck["lost"] == 2
        assert models(mirror) == ["a", "b", "c"]
        faulty.lose = 0.0
        await period(mirror)
        assert models(mirror) == ["b", "c", "d"]
        assert [event.key for event in told] == [MODELS + "d", MODELS + "a"]
        assert mirror.counts[MODELS].healed == 2
        assert mirror.total("relists") >= 6


@virtual
async def test_a_watch_that_died_without_a_word_is_begun_anew() -> None:
    faulty = await faulty_with("a")
    async with await opened(faulty) as mirror:
        faulty.deaf = True
        await fill(faulty.inner, "b")
        await settle()
        assert faulty.struck["deaf"]
        faulty.deaf = False
        await fill(faulty.inner, "c")
        await settle()
        assert models(mirror) == ["a"]
        await period(mirror)
        assert models(mirror) == ["a", "b", "c"]
        await fill(faulty.inner, "d")
        await settle()  # no period this time
        assert models(mirror) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("error", [Compacted(), ConnectionError("cut")])
@virtual
async def test_a_watch_that_ends_is_followed_by_a_listing_at_once(error: Exception) -> None:
    faulty = await faulty_with("a")
    async with await opened(faulty) as mirror:
        await elapse(3.0)
        faulty.lose = 1.0
        await fill(faulty.inner, "b")
        await settle()
        faulty.lose = 0.0
        faulty.interrupt(error)
        await settle()
        assert models(mirror) == ["a", "b"]
        counts = mirror.counts[MODELS]
        assert (counts.compactions, counts.watch_failures) in [(1, 0), (0, 1)]
        await fill(faulty.inner, "c")
        await settle()
        assert models(mirror) == ["a", "b", "c"]


@virtual
async def test_watches_that_end_all_the_time_cost_no_storm_of_listings() -> None:
    faulty = await faulty_with("a")
    async with await opened(faulty) as mirror:
        before = mirror.counts[MODELS].relists
        for _ in range(240):
            faulty.interrupt(Compacted())
            await elapse(0.25)
        assert 4 <= mirror.counts[MODELS].relists - before <= 10


# --- sudden losses


@virtual
async def test_a_sudden_loss_is_believed_after_a_second_listing() -> None:
    faulty = await faulty_with("a", "b", "c", "d", "e")
    async with await opened(faulty) as mirror:
        faulty.lose = 1.0
        await faulty.inner.commit([], [Delete(MODELS + name) for name in "abc"])
        await settle()
        faulty.lose = 0.0
        faulty.interrupt(Compacted())
        await elapse(2.0)
        assert mirror.counts[MODELS].listings_doubted == 1
        assert models(mirror) == [*"abcde"]
        assert await comes(mirror.get(MODELS + "a"), 1.0) is None
        assert models(mirror) == [*"abcde"]  # nor does a look at one of them end it
        await elapse(mirror.bounds.doubt_s + 1.0)
        assert models(mirror) == [*"de"]


@virtual
async def test_a_sudden_loss_is_judged_by_direct_health() -> None:
    asked: list[tuple[str, list[str]]] = []
    dead = {"x"}

    async def confirm(prefix: str, names: Any) -> set[str]:
        asked.append((prefix, sorted(names)))
        return dead

    faulty = await faulty_with("instances/x", "instances/y", "instances/z")
    async with await opened(faulty, confirm) as mirror:
        table = mirror.table("instances/")
        faulty.lose = 1.0
        await faulty.inner.commit([], [Delete(f"instances/{name}") for name in "xyz"])
        await settle()
        faulty.lose = 0.0
        await period(mirror)
        assert asked[0] == ("instances/", ["x", "y", "z"])
        assert [*table.names()] == ["y", "z"]
        await period(mirror)
        assert [*table.names()] == ["y", "z"]  # as long as somebody vouches for them
        dead |= {"y", "z"}
        await period(mirror)
        assert [*table.names()] == []


@pytest.mark.parametrize("witness", ["cannot tell", "fails", "hangs"])
@virtual
async def test_a_witness_that_says_nothing_leaves_it_to_the_second_listing(witness: str) -> None:
    async def confirm(prefix: str, names: Any) -> None:
        if witness == "fails":
            raise ValueError(prefix)
        if witness == "hangs":
            await asyncio.get_running_loop().create_future()

    faulty = await faulty_with("instances/x", "instances/y")
    async with await opened(faulty, confirm) as mirror:
        faulty.lose = 1.0
        await faulty.inner.commit([], [Delete(f"instances/{name}") for name in "xy"])
        await settle()
        faulty.lose = 0.0
        faulty.interrupt(Compacted())
        await elapse(7.0)
        assert len(mirror.table("instances/")) == 2
        await elapse(25.0)
        assert len(mirror.table("instances/")) == 0


# --- a store that does not answer


@pytest.mark.parametrize("network", ["silent", "mute", "refused"])
@virtual
async def test_while_the_store_does_not_answer_nobody_waits(network: str) -> None:
    faulty = await faulty_with("a")
    async with await opened(faulty) as mirror:
        told: list[bool] = []
        mirror.availability.subscribe(told.append)
        faulty.be(network)
        with pytest.raises(MeshError) as refused:
            await comes(mirror.commit([], [Put(MODELS + "b", b"{}")]), 1.1, 0.1)
        assert faulty.struck[network]
        assert refused.value.failure.code is Code.UNAVAILABLE
        assert refused.value.failure.fault is Fault.STORE
        assert refused.value.failure.retry_after_s
        assert not mirror.answers
        before = faulty.calls["commit"]
        with pytest.raises(MeshError):  # without a turn of the clock, and without asking
            await mirror.commit([], [Put(MODELS + "c", b"{}")])
        assert faulty.calls["commit"] == before
        assert await mirror.look(MODELS + "nobody") is None
        assert models(mirror) == ["a"]
        await elapse(60.0)
        assert 20 <= faulty.calls["get"] <= 60  # probes, with pauses
        faulty.be("good")
        await elapse(3.5)
        assert mirror.answers
        assert told == [False, True]
        assert (MODELS + "b" in dict((await faulty.inner.page("")).entries)) == (network == "mute")
        assert ("b" in models(mirror)) == (network == "mute")  # what was done unheard is found
        await mirror.commit([], [Put(MODELS + "c", b"{}")])


@virtual
async def test_keeping_a_lease_alive_is_tried_all_the_same() -> None:
    faulty = await faulty_with()
    async with await opened(faulty) as mirror:
        lease = await mirror.grant(30.0)
        faulty.be("refused")
        with pytest.raises(MeshError):
            await mirror.keep_alive(lease)
        assert not mirror.answers
        faulty.be("good")
        assert await mirror.keep_alive(lease)
        assert mirror.answers
        await elapse(5.0)
        assert faulty.calls["get"] == 0  # the probe was no longer needed
        await mirror.revoke(lease)
        assert not await mirror.keep_alive(lease)


# --- looks


@virtual
async def test_looks_share_a_read_and_remember_a_miss_for_a_second() -> None:
    faulty = await faulty_with()
    async with await opened(faulty) as mirror:
        looks = [asyncio.ensure_future(mirror.look(MODELS + "a")) for _ in range(50)]
        assert await asyncio.gather(*looks) == [None] * 50
        assert faulty.calls["get"] == 1
        assert await mirror.look(MODELS + "a") is None
        assert faulty.calls["get"] == 1
        await elapse(1.1)
        faulty.deaf = True
        await fill(faulty.inner, "a")
        found = await mirror.look(MODELS + "a")
        assert found is not None
        assert faulty.calls["get"] == 2
        assert models(mirror) == ["a"]
        assert await mirror.look(MODELS + "a") == found
        assert faulty.calls["get"] == 2


@virtual
async def test_a_miss_is_forgotten_when_the_watch_brings_the_key() -> None:
    faulty = await faulty_with()
    async with await opened(faulty) as mirror:
        assert await mirror.look(MODELS + "a") is None
        await fill(faulty.inner, "a")
        await settle()
        assert await mirror.look(MODELS + "a") is not None
        await faulty.inner.commit([], [Delete(MODELS + "a")])
        await settle()
        await fill(faulty.inner, "b")
        assert await mirror.look(MODELS + "a") is None
        assert faulty.calls["get"] == 2  # the earlier miss no longer counted


@virtual
async def test_a_look_that_hangs_says_what_the_table_says_after_a_second() -> None:
    faulty = await faulty_with()
    async with await opened(faulty) as mirror:
        faulty.be("silent")
        assert await comes(mirror.look(MODELS + "a"), 1.1, 0.1) is None
        assert not mirror.answers


# --- restore


async def restored_fleet() -> tuple[Faulty, LocalStore]:
    """A store, and an older state of it: without c and d, with b as it was, with gone again."""
    faulty = await faulty_with("a", "b", "gone")
    older = MemoryStore()
    await fill(older, "a", "b", "gone")
    await fill(faulty.inner, "b", value=b'{"later":1}')
    await fill(faulty.inner, "c", "d", "instances/x", value=b'{"n":1}')
    await faulty.inner.commit([], [Delete(MODELS + "gone")])
    return faulty, older


@pytest.mark.parametrize("name", ["one", "another"])
@virtual
async def test_a_restored_store_gets_back_what_it_lost(name: str) -> None:
    faulty, older = await restored_fleet()
    async with await opened(faulty) as mirror:
        times: list[int] = []
        mirror.subscribe_restored(lambda: times.append(mirror.restores))
        faulty.restore(older, name)
        faulty.interrupt(ConnectionError("the old one is gone"))
        seen = set()
        for _ in range(40):
            await elapse(0.25)
            seen |= {tuple(sorted({*"abcd"} - {*models(mirror)}))}
        assert seen == {()}  # at no time was any of them missing
        # When it was found out, when the tables showed what the store has, and when it had all.
        assert times == [1, 1, 1]
        assert not mirror.restored
        in_store = dict((await older.page(MODELS)).entries)
        assert {key.removeprefix(MODELS) for key in in_store} == {"a", "b", "c", "d", "gone"}
        assert in_store[MODELS + "c"].value == b'{"n":1}'
        assert in_store[MODELS + "b"].value == b"{}"  # the store wins
        await elapse(30.0)
        assert {name: mirror.table(MODELS).entry(name) for name in in_store} == in_store
        assert len(mirror.table("instances/")) == 0  # owners publish anew
        await fill(older, "e")
        await settle()
        assert "e" in models(mirror)


@virtual
async def test_a_restore_that_went_on_is_told_by_what_it_contradicts() -> None:
    faulty, older = await restored_fleet()
    async with await opened(faulty) as mirror:
        for number in range(20):  # beyond the revision that the mirror knows
            await fill(older, "config/x", value=b"%d" % number)
        faulty.restore(older)
        await period(mirror)
        assert mirror.restores == 1
        assert models(mirror) == ["a", "b", "c", "d", "gone"]


@virtual
async def test_what_cannot_be_offered_back_is_kept_until_somebody_speaks() -> None:
    faulty, older = await restored_fleet()
    async with await opened(faulty) as mirror:
        faulty.full = True
        faulty.restore(older)
        faulty.interrupt(Compacted())
        await elapse(10.0)
        assert faulty.struck["full"]
        assert mirror.restores == 1
        assert mirror.restored
        assert mirror.kept == 2
        assert models(mirror) == ["a", "b", "c", "d", "gone"]
        mirror.accept_restore()
        assert models(mirror) == ["a", "b", "gone"]
        assert not mirror.restored


@virtual
async def test_offers_are_bounded_and_do_not_overwrite() -> None:
    faulty = await faulty_with(*(f"m{number:04}" for number in range(1000)))
    older = MemoryStore()
    await fill(older, "m0000", value=b'{"mine":1}')
    async with await opened(faulty) as mirror, await opened(faulty) as other:
        faulty.restore(older)
        faulty.interrupt(Compacted())
        before = faulty.calls["commit"]
        await elapse(2.0)
        assert mirror.restores == other.restores == 1
        assert faulty.calls["commit"] - before <= 2 * 2 * 10
        await elapse(20.0)
        assert not mirror.restored
        assert not other.restored
        assert len(mirror.table(MODELS)) == len(other.table(MODELS)) == 1000
        entries = dict((await older.page(MODELS, limit=2000)).entries)
        assert len(entries) == 1000
        assert entries[MODELS + "m0000"].value == b'{"mine":1}'


# --- the rooms above


@virtual
async def test_models_work_over_a_mirror() -> None:
    faulty = await faulty_with()
    async with await opened(faulty) as mirror:
        registered = Models(mirror)
        record = ModelRecord("sklearn", "/p")
        assert await registered.register("m", record) is Registration.CREATED
        assert registered.get("m") == record
        assert await registered.register("m", record) is Registration.SAME
        assert await registered.unregister("m")
        assert "m" not in registered
        await settle()
        assert mirror.counts[MODELS].events_applied == 0  # all known before the watch said so
        assert mirror.counts[MODELS].events_dropped == 2
