"""A real etcd that is killed, stopped, compacted, emptied and filled up while it is used."""

import asyncio
import dataclasses
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from modelmesh.cli.etcd_process import Place
from modelmesh.errors import Code, Fault, MeshError
from modelmesh.registry.etcd.config import EtcdConfig
from modelmesh.registry.etcd.store import EtcdStore
from modelmesh.registry.etcd.watch import EtcdWatch
from modelmesh.registry.store import Compacted, Compare, Delete, Event, Put
from tests.registry.etcd_server import PROGRAMS, EtcdServer, cluster, free_ports
from tests.registry.patient import PatientStore
from tests.registry.waiting import BOUND_S, until

pytestmark = pytest.mark.timeout(2 * BOUND_S)

KEYS = 5000  # etcd brings up to 1,000 revisions of the past in one answer
CHANGES = 100


@asynccontextmanager
async def opened(config: EtcdConfig, silence_s: float = 1.0) -> AsyncIterator[EtcdStore]:
    async with asyncio.timeout(BOUND_S), PatientStore(config, silence_s=silence_s) as store:
        yield store


@asynccontextmanager
async def impatient(config: EtcdConfig) -> AsyncIterator[EtcdStore]:
    """As a daemon has it: for what an etcd that stands still is to end."""
    async with asyncio.timeout(BOUND_S), EtcdStore(config, silence_s=1.0) as store:
        yield store


async def write(store: EtcdStore, first: int, last: int) -> int:
    """Numbered keys, many in one revision."""
    revision = 0
    for start in range(first, last, CHANGES):
        puts = [Put(f"r/{n:06}", b"%d" % n) for n in range(start, min(last, start + CHANGES))]
        revision = (await store.commit([], puts)).revision
    return revision


async def write_apart(store: EtcdStore, first: int, last: int) -> None:
    """Numbered keys, each in a revision of its own."""
    numbers = iter(range(first, last))

    async def one_by_one() -> None:
        for n in numbers:
            await store.commit([], [Put(f"r/{n:06}", b"")])

    await asyncio.gather(*(one_by_one() for _ in range(64)))


async def answers(store: EtcdStore) -> bool:
    try:
        await store.identity()
    except MeshError:
        return False
    return True


async def collect(watch: EtcdWatch, events: list[Event], last_key: str) -> None:
    while not events or events[-1].key != last_key:
        events += await anext(watch)


# --- watches


async def test_no_event_is_lost_when_etcd_is_killed_while_a_watch_catches_up(
    etcd: EtcdServer,
) -> None:
    async with opened(etcd.config()) as store:
        await write_apart(store, 0, KEYS)
        events: list[Event] = []
        watch = store.watch("r/", 0)
        for _ in range(3):
            events += await anext(watch)
            assert len(events) < KEYS, "the watch had caught up: nothing to lose"
            killed = etcd.process.pid
            etcd.kill()
            etcd.start()
            assert etcd.process.pid != killed
        await until(lambda: answers(store))
        await write_apart(store, KEYS, KEYS + 500)
        await store.commit([], [Put("r/last", b"")])
        await collect(watch, events, "r/last")
    assert sorted(event.key for event in events[:-1]) == [f"r/{n:06}" for n in range(KEYS + 500)]
    revisions = [event.revision for event in events]
    assert revisions == sorted(set(revisions))


async def test_events_written_through_another_way_during_an_outage_are_seen(
    etcd: EtcdServer,
) -> None:
    async with opened(etcd.config()) as store:
        revision = await write(store, 0, 1)
        watch = store.watch("r/", revision)
        waiting = asyncio.ensure_future(anext(watch))
        await until(lambda: answers(store))
        with moved(etcd):
            async with opened(etcd.config()) as other:
                await write(other, 1, 300)
        events = await waiting
        await collect(watch, events, "r/000299")
    assert [event.key for event in events] == [f"r/{n:06}" for n in range(1, 300)]


async def test_compaction_during_a_cut_is_told(etcd: EtcdServer) -> None:
    async with opened(etcd.config()) as store:
        revision = await write(store, 0, 1)
        waiting = asyncio.ensure_future(anext(store.watch("r/", revision)))
        await until(lambda: answers(store))
        with moved(etcd):
            async with opened(etcd.config()) as other:
                await other.commit([], [Delete("r/000000")])
                etcd.compact(await write(other, 1, 300))
        with pytest.raises(Compacted):
            await waiting
        page = await store.page("r/", limit=1000)
        assert len(page.entries) == 299
        watch = store.watch("r/", page.revision)
        await store.commit([], [Put("r/new", b"")])
        assert [event.key for event in await anext(watch)] == ["r/new"]


async def test_a_store_that_was_emptied_is_told(etcd: EtcdServer) -> None:
    """etcd would let the watch wait for revisions that the new data may reach in years."""
    async with opened(etcd.config()) as store:
        revision = await write(store, 0, 300)
        watch = store.watch("r/", 0)
        events: list[Event] = []
        await collect(watch, events, "r/000299")
        waiting = asyncio.ensure_future(anext(watch))
        etcd.kill()
        shutil.rmtree(etcd.place.folder / "data")
        etcd.start()
        with pytest.raises(Compacted):
            await waiting
        assert (await store.page("")).revision < revision


async def test_a_watch_goes_on_when_etcd_was_stopped(etcd: EtcdServer) -> None:
    async with opened(etcd.config(), silence_s=0.1) as store:
        revision = await write(store, 0, 1)
        watch = store.watch("r/", revision)
        waiting = asyncio.ensure_future(anext(watch))
        await until(lambda: answers(store))
        stream = watch.stream
        etcd.pause()
        await until(lambda: _is_gone(watch, stream))  # silence was noticed
        etcd.resume()
        await until(lambda: answers(store))
        await write(store, 1, 2)
        assert [event.key for event in await waiting] == ["r/000001"]


async def _is_gone(watch: EtcdWatch, stream: object) -> bool:
    return watch.stream is not stream


# --- changes whose outcome is unknown


async def test_a_change_that_a_stopped_etcd_got_is_not_sent_again(etcd: EtcdServer) -> None:
    async with impatient(etcd.config()) as store:
        await until(lambda: puts(store, "a", b"0"))
        etcd.pause()
        with pytest.raises(MeshError) as caught:
            await store.commit([], [Put("a", b"1")])
        failure = caught.value.failure
        assert (failure.code, failure.fault) == (Code.UNAVAILABLE, Fault.STORE)
        assert failure.executed
        etcd.resume()
        await until(lambda: puts(store, "z", b""))  # behind whatever was on its way
        written = etcd.ask("kv/range", {"key": "L3Rlc3QvYQ=="})["kvs"][0]
        assert int(written["version"]) <= 2


async def puts(store: EtcdStore, key: str, value: bytes) -> bool:
    """Whether it is written, by this attempt or an earlier one, and once."""
    try:
        await store.commit([Compare(key, 0)], [Put(key, value)])
    except MeshError:
        return False
    return True


async def test_a_stopped_etcd_holds_no_reader_for_long(etcd: EtcdServer) -> None:
    async with impatient(etcd.config()) as store:
        await store.get("a")
        etcd.pause()
        reads = [store.get("a"), store.page(""), store.identity(), store.keep_alive(7)]
        for error in await asyncio.gather(*reads, return_exceptions=True):
            assert isinstance(error, MeshError)
            assert error.failure.code is Code.UNAVAILABLE
            assert not error.failure.executed
        etcd.resume()
        await until(lambda: answers(store))


async def test_nothing_was_done_where_nobody_listened(tmp_path: Path) -> None:
    config = EtcdConfig((f"127.0.0.1:{free_ports(1)[0]}",), "/test/")
    async with impatient(config) as store:
        for _ in range(3):
            changes = [store.commit([], [Put("a", b"")]), store.keep_alive(7), store.revoke(7)]
            errors = await asyncio.gather(*changes, return_exceptions=True)
            failures = [error.failure for error in errors if isinstance(error, MeshError)]
            assert [failure.code for failure in failures] == [Code.UNAVAILABLE] * 3
            if not any(failure.executed for failure in failures):
                return  # else the time was up while it was still connecting
    pytest.fail("the outcome was unknown each time")


async def test_a_full_etcd_refuses_changes_and_goes_on_reading(
    etcd: EtcdServer,
) -> None:
    etcd.stop()
    etcd.flags = ("--quota-backend-bytes=300000",)
    etcd.start()
    async with opened(etcd.config()) as store:
        with pytest.raises(MeshError) as caught:
            await fill(store)
        assert caught.value.failure.code is Code.RESOURCE_EXHAUSTED
        assert not caught.value.failure.executed
        assert await store.get("a0") is not None


async def fill(store: EtcdStore) -> None:
    for n in range(1000):
        await store.commit([], [Put(f"a{n}", b"x" * 100_000)])


# --- leases


async def test_a_lease_that_somebody_revoked_is_noticed(etcd: EtcdServer) -> None:
    async with opened(etcd.config()) as store:
        lease = await store.grant(60)
        await store.commit([], [Put("i/me", b"", lease)])
        assert await store.keep_alive(lease)
        etcd.ask("lease/revoke", {"ID": lease})
        assert not await store.keep_alive(lease)
        assert await store.get("i/me") is None


async def test_a_lease_outlives_a_restart_of_etcd(etcd: EtcdServer) -> None:
    async with opened(etcd.config()) as store:
        lease = await store.grant(60)
        etcd.kill()
        etcd.start()
        await until(lambda: answers(store))
        assert await store.keep_alive(lease)


# --- three members


@pytest.fixture(params=list(PROGRAMS))
def members(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[EtcdServer]]:
    servers = cluster(PROGRAMS[request.param], tmp_path, 3)
    yield servers
    for server in servers:
        server.stop()


def _together(members: list[EtcdServer]) -> EtcdConfig:
    addresses = [endpoint for each in members for endpoint in each.config().endpoints]
    return dataclasses.replace(members[0].config(), endpoints=tuple(addresses))


async def _count(store: EtcdStore, stop: asyncio.Event) -> tuple[int, int]:
    """Count by compare-and-set until told to stop: acknowledged changes, and unknown ones."""
    acknowledged = unknown = 0
    while not stop.is_set():
        try:
            entry = await store.get("counter")
            revision, value = (entry.mod_revision, int(entry.value)) if entry else (0, 0)
            puts = [Put("counter", b"%d" % (value + 1))]
            acknowledged += (await store.commit([Compare("counter", revision)], puts)).succeeded
        except MeshError as error:
            if error.failure.code is not Code.UNAVAILABLE:
                raise
            unknown += error.failure.executed
    return acknowledged, unknown


@pytest.mark.parametrize("blow", ["kill", "pause"])
async def test_any_member_may_fail_and_no_change_is_lost_or_doubled(
    members: list[EtcdServer], blow: str
) -> None:
    """Each in turn, so that one of them leads and one is the one that is asked."""
    async with impatient(_together(members)) as store:
        stop = asyncio.Event()
        watch = store.watch("counter", 0)
        seen: list[int] = []

        async def listen() -> None:
            while True:
                seen.extend(int(e.entry.value) for e in await anext(watch) if e.entry)

        listening = asyncio.ensure_future(listen())
        counting = [asyncio.ensure_future(_count(store, stop)) for _ in range(4)]
        for member in members:
            await until_more(seen, len(seen) + 50)
            member.kill() if blow == "kill" else member.pause()
            await until_more(seen, len(seen) + 50)
            member.start() if blow == "kill" else member.resume()
        stop.set()
        counts = await asyncio.gather(*counting)
        acknowledged, unknown = map(sum, zip(*counts, strict=True))
        await until(lambda: answers(store))
        entry = await store.get("counter")
        assert entry is not None
        total = int(entry.value)
        assert acknowledged <= total <= acknowledged + unknown
        await until_more(seen, total)
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
        assert seen == list(range(1, total + 1))


async def until_more(seen: list[int], count: int) -> None:
    async def enough() -> bool:
        return len(seen) >= count

    await until(enough)


class moved:
    """etcd lives on at other ports for a while: whoever used it is cut off, its data is not."""

    def __init__(self, server: EtcdServer) -> None:
        self._server = server
        self._home = server.place

    def __enter__(self) -> None:
        self._server.kill()
        away = dataclasses.replace(self._home, client_port=free_ports(1)[0])
        self._restart_at(away)

    def __exit__(self, *error: object) -> None:
        self._server.stop()
        self._restart_at(self._home)

    def _restart_at(self, place: Place) -> None:
        self._server.place = place
        self._server.start()
