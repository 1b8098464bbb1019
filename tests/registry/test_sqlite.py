"""What only the durable store promises: it survives restarts, refuses what is not its own, and
fails only what it could not write. Faults of the disk are real: a small file system, a
limit of the kernel. The kill is in test_crash.py."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from modelmesh.errors import Code, Fault, MeshError
from modelmesh.registry.database import SCHEMA_VERSION, Database
from modelmesh.registry.keyspace import Draft
from modelmesh.registry.sqlite import SqliteStore
from modelmesh.registry.store import Compacted, Compare, Delete, Entry, Put
from tests.registry.doors import settle
from tests.registry.virtual_loop import VirtualLoop


def run(test: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(test)


def refusal(path: Path) -> MeshError:
    """How opening this file fails."""

    async def opened() -> None:
        async with await SqliteStore.open(str(path)):
            pass

    with pytest.raises(MeshError) as caught:
        run(opened())
    assert caught.value.failure.fault is Fault.STORE
    assert str(path) in str(caught.value)
    return caught.value


def contents(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.iterdir() if each.suffix != ".lock"}


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "folder" / "registry.db")

    async def restarts() -> None:
        async with await SqliteStore.open(path) as store:
            lease = await store.grant(10)
            await store.commit([], [Put("a\0🦊", b"\0\xff"), Put("b", b"1"), Put("c", b"1")])
            await store.commit([], [Put("b", b"2"), Delete("c"), Put("l", b"", lease)])
            before = await store.page("")
        async with await SqliteStore.open(path) as store:
            assert await store.page("") == before
            assert await store.get("b") == Entry(b"2", 1, 2)
            assert (await store.commit([Compare("b", 2)], [Put("b", b"3")])).revision == 3
            with pytest.raises(Compacted):
                await anext(store.watch("", 1))
            assert await store.grant(10) > lease

    run(restarts())


def test_a_lease_has_its_full_life_after_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "registry.db")

    async def restarts() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        async with await SqliteStore.open(path) as store:
            lease = await store.grant(10)
            await store.commit([], [Put("a", b"", lease)])
            loop.advance(9)
        async with await SqliteStore.open(path) as store:
            loop.advance(9)
            await settle()
            assert await store.keep_alive(lease)
            watch = store.watch("", store.table("").revision)
            loop.advance(11)
            assert [event.key for event in await anext(watch)] == ["a"]
        async with await SqliteStore.open(path) as store:
            assert await store.get("a") is None
            assert await store.keep_alive(lease) is False

    run(restarts())


def test_it_flushes_each_transaction_and_keeps_few_pages(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "registry.db"))
    setting = {
        pragma: database.connection.execute(f"PRAGMA {pragma}").fetchone()[0]
        for pragma in ("journal_mode", "synchronous", "cache_size")
    }
    database.close()
    assert setting == {"journal_mode": "wal", "synchronous": 2, "cache_size": -256}


# --- one daemon a folder

HOLD = """
import asyncio, sys
from modelmesh.registry.sqlite import SqliteStore
async def hold():
    async with await SqliteStore.open(sys.argv[1]):
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(hold())
"""


def test_a_second_process_is_refused_until_the_first_has_died(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert b"open\n" in iter(child.stdout.readline, b"")
        error = refusal(path)
        assert error.failure.code is Code.FAILED_PRECONDITION
        assert "in use" in str(error)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    run(opens(path))


async def opens(path: Path) -> None:
    async with await SqliteStore.open(str(path)) as store:
        await store.commit([], [Put("a", b"")])


def test_a_store_that_failed_to_open_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.write_bytes(b"no database at all, but long enough to be one" * 100)
    refusal(path)
    path.unlink()
    run(opens(path))


# --- files that are not ours


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    for content in (b"x", b"hello world\n" * 1000):
        path = tmp_path / "registry.db"
        path.write_bytes(content)
        assert refusal(path).failure.code is Code.DATA_LOSS
        assert path.read_bytes() == content


def test_a_database_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("CREATE TABLE entries (key, value)")
    before = contents(tmp_path)
    assert "another program" in str(refusal(path))
    assert contents(tmp_path) == before
    other.close()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    run(opens(path))
    newer = sqlite3.connect(path)
    newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    newer.close()
    assert "newer" in str(refusal(path))


def overwrite_pages(content: bytes) -> bytes:
    return content[:8192] + os.urandom(8192) + content[16384:]


def move_a_key(content: bytes) -> bytes:
    assert content.count(b"k250") == 1
    return content.replace(b"k250", b"z250")


@pytest.mark.parametrize("damage", [overwrite_pages, move_a_key])
def test_a_damaged_file_is_found_at_open(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "registry.db"

    async def fill() -> None:
        async with await SqliteStore.open(str(path)) as store:
            await asyncio.gather(
                *(store.commit([], [Put(f"k{n}", b"x" * 100)]) for n in range(500))
            )

    run(fill())
    path.write_bytes(damage(path.read_bytes()))
    error = refusal(path)
    assert error.failure.code is Code.DATA_LOSS
    assert "damaged" in str(error)


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "registry.db").mkdir()
    assert refusal(tmp_path / "registry.db").failure.code is Code.FAILED_PRECONDITION
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file" / "x.db").failure.code is Code.FAILED_PRECONDITION


def test_a_file_moved_under_it_is_not_written_to(tmp_path: Path) -> None:
    """A transaction starts from the revision that memory has, or fails."""
    path = str(tmp_path / "registry.db")
    database = Database.open(path)
    space = database.load()
    first, second = Draft(space), Draft(space)
    first.commit([], [Put("a", b"1")])
    second.commit([], [Put("a", b"2")])
    database.write(first)
    with pytest.raises(MeshError) as caught:
        database.write(second)
    assert "revision" in str(caught.value)
    third = Draft(database.load())
    assert third.get("a") == Entry(b"1", 1, 1)
    third.commit([], [Put("a", b"3")])
    database.write(third)
    database.close()


# --- the queue before a slow disk


class SlowDisk(Database):
    """The real file behind a gate: a disk that answers when the test says so."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.gate = threading.Event()
        self.batches: list[int] = []

    def write(self, draft: Draft) -> None:
        self.batches.append(len(draft.events))
        assert self.gate.wait(60)
        super().write(draft)


class Slow:
    """A store on a slow disk."""

    def __init__(self, store: SqliteStore, disk: SlowDisk) -> None:
        self.store = store
        self.disk = disk

    @classmethod
    async def open(cls, folder: Path, **limits: Any) -> Self:
        disks: list[SlowDisk] = []

        def slow(path: str) -> Database:
            disks.append(SlowDisk.open(path))
            return disks[0]

        store = await SqliteStore.open(str(folder / "registry.db"), database=slow, **limits)
        return cls(store, disks[0])

    def put(self, key: str, *compares: Compare, value: bytes = b"") -> "asyncio.Future[Any]":
        return asyncio.ensure_future(self.store.commit(compares, [Put(key, value)]))


def test_what_waits_for_the_writer_is_one_transaction(tmp_path: Path) -> None:
    async def waits() -> None:
        slow = await Slow.open(tmp_path)
        first = slow.put("first")
        await settle()
        rest = [slow.put(f"k{n}") for n in range(100)]
        await settle()
        assert not first.done()
        assert await slow.store.get("first") is None  # not durable, not visible
        slow.disk.gate.set()
        done = await asyncio.gather(first, *rest)
        assert [each.revision for each in done] == list(range(1, 102))
        assert slow.disk.batches == [1, 100]
        await slow.store.close()

    run(waits())


def test_commits_in_one_transaction_see_those_before_them(tmp_path: Path) -> None:
    async def pipeline() -> None:
        slow = await Slow.open(tmp_path)
        slow.disk.gate.set()
        put = slow.put("a", Compare("a", 0)), slow.put("a", Compare("a", 0))
        then = slow.put("a", Compare("a", 1)), slow.put("b", Compare("a", 2))
        done = [await each for each in (*put, *then)]
        assert [each.succeeded for each in done] == [True, False, True, True]
        assert done[1].current == (("a", Entry(b"", 1, 1)),)
        assert await slow.store.get("a") == Entry(b"", 1, 2)
        assert slow.disk.batches == [3]
        await slow.store.close()

    run(pipeline())


@pytest.mark.parametrize("limit", [{"waiting_commits": 10}, {"waiting_bytes": 1000}])
def test_the_queue_has_a_limit(tmp_path: Path, limit: dict[str, int]) -> None:
    async def overflow() -> None:
        slow = await Slow.open(tmp_path, **limit)
        first = slow.put("first")
        await settle()
        waiting = [slow.put(f"k{n}", value=b"x" * 98) for n in range(10)]
        beyond = slow.put("beyond", value=b"x" * 98)
        with pytest.raises(MeshError) as caught:
            await beyond
        assert caught.value.failure.code is Code.RESOURCE_EXHAUSTED
        assert caught.value.failure.retry_after_s is not None
        slow.disk.gate.set()
        await asyncio.gather(first, *waiting)
        await slow.put("beyond")
        await slow.store.close()

    run(overflow())


def test_a_stalled_disk_is_given_up_and_taken_back(tmp_path: Path) -> None:
    async def stall() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        slow = await Slow.open(tmp_path, stall_s=5)
        late = slow.put("late")
        await settle()
        waiting = slow.put("waiting")
        await settle()
        loop.advance(6)
        for commit in (lambda: late, lambda: waiting, lambda: slow.put("refused")):
            with pytest.raises(MeshError) as caught:
                await commit()
            assert caught.value.failure.code is Code.UNAVAILABLE
            assert caught.value.failure.fault is Fault.STORE
        watch = slow.store.watch("", 0)
        slow.disk.gate.set()
        assert [event.key for event in await anext(watch)] == ["late"]
        await slow.put("again")
        assert [key for key, _ in (await slow.store.page("")).entries] == ["again", "late"]
        await slow.store.close()

    run(stall())


def test_closing_writes_what_waits(tmp_path: Path) -> None:
    async def close() -> None:
        slow = await Slow.open(tmp_path)
        first = slow.put("first")
        await settle()
        second = slow.put("second")
        await settle()
        closing = asyncio.ensure_future(slow.store.close())
        await settle()
        with pytest.raises(MeshError):
            await slow.put("late")
        slow.disk.gate.set()
        await asyncio.gather(first, second, closing)
        async with await SqliteStore.open(str(tmp_path / "registry.db")) as store:
            assert [key for key, _ in (await store.page("")).entries] == ["first", "second"]

    run(close())


def test_a_caller_that_leaves_does_not_stop_its_batch(tmp_path: Path) -> None:
    async def leave() -> None:
        slow = await Slow.open(tmp_path)
        left, stayed = slow.put("left"), slow.put("stayed")
        await settle()
        left.cancel()
        slow.disk.gate.set()
        assert (await stayed).succeeded
        assert await slow.store.get("left") is not None
        await slow.store.close()

    run(leave())


def test_an_open_that_is_cancelled_lets_go(tmp_path: Path) -> None:
    gate, opened = threading.Event(), threading.Event()
    path = str(tmp_path / "registry.db")

    def slow(path: str) -> Database:
        opened.set()
        assert gate.wait(60)
        return Database.open(path)

    async def cancel() -> None:
        opening = asyncio.ensure_future(SqliteStore.open(path, database=slow))
        await asyncio.to_thread(opened.wait)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        gate.set()

    run(cancel())
    for thread in threading.enumerate():
        if thread.name.startswith("registry"):
            thread.join()
    run(opens(Path(path)))


# --- the disk refuses


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount).returncode:
        pytest.skip("mounting a small file system needs root; RLIMIT_FSIZE stands in for it")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing_acknowledged(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (512 << 10))

    def grow() -> None:
        assert os.statvfs(small_disk).f_bavail < 8  # the fault bit: no page is left
        filler.unlink()

    run(until_it_fails(small_disk / "registry.db", "full", grow))


async def until_it_fails(path: Path, why: str, repair: Callable[[], None]) -> None:
    """Write until the disk refuses, repair it, write on; all that was acknowledged is there."""
    kept: dict[str, bytes] = {}
    async with await SqliteStore.open(str(path)) as store:

        async def put(key: str) -> None:
            await store.commit([Compare(key, 0)], [Put(key, key.encode() * 500)])
            kept[key] = key.encode() * 500

        failures: list[BaseException] = []
        for wave in range(200):
            outcomes = await asyncio.gather(
                *(put(f"{wave:03}-{n}") for n in range(5)), return_exceptions=True
            )
            failures = [each for each in outcomes if each is not None]
            if failures:
                break
        assert failures
        for failure in failures:
            assert isinstance(failure, MeshError)
            assert failure.failure.code is Code.UNAVAILABLE
            assert failure.failure.fault is Fault.STORE
            assert why in str(failure)
        assert {key for key, _ in (await store.page("")).entries} == set(kept)
        repair()
        await put("after")
        assert store.table("").revision == len(kept)
    async with await SqliteStore.open(str(path)) as store:
        assert {key: entry.value for key, entry in (await store.page("")).entries} == kept


LIMITED = """
import asyncio, resource, sys
from pathlib import Path
from tests.registry.test_sqlite import until_it_fails
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
def repair():
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
asyncio.run(until_it_fails(Path(sys.argv[1]), "disk I/O error", repair))
print("survived")
"""


def test_an_io_error_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """The kernel refuses writes beyond a file size; sqlite calls that an I/O error."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "registry.db")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "survived" in done.stdout, done.stderr
