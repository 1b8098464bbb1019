"""The journal's gate: a call that was taken away never starts, one that started is never taken."""

import mmap
import time
from multiprocessing import get_context
from pathlib import Path

from modelmesh.wire import journal


def _page() -> memoryview:
    return memoryview(bytearray(journal.SIZE_BYTES))


def test_calls_up_to_the_id_are_shut_and_later_ones_run() -> None:
    page = _page()
    writer = journal.JournalWriter(page)
    assert writer.begin([3], 1)
    assert journal.shut(page, 5).call_ids == (3,)
    writer.end()
    assert not writer.begin([4], 2)
    assert journal.read(page).call_ids == ()
    assert not writer.begin([5, 6], 2)
    assert writer.begin([6], 3)


def test_the_parts_of_a_batch_that_was_let_through_run() -> None:
    page = _page()
    writer = journal.JournalWriter(page)
    writer.begin([3, 4], 1)
    journal.shut(page, 6)
    assert writer.begin([3], 2)
    assert writer.begin([4], 3)
    assert not writer.begin([5, 6], 4)
    assert writer.begin([7], 5)


def test_nothing_is_let_through_where_nothing_runs() -> None:
    page = _page()
    writer = journal.JournalWriter(page)
    writer.begin([3], 1)
    writer.end()
    assert journal.shut(page, 5).call_ids == ()
    assert not writer.begin([4], 2)


def test_a_reopened_gate_holds_nobody() -> None:
    page = _page()
    writer = journal.JournalWriter(page)
    journal.shut(page, 5)
    journal.reopen(page)
    assert writer.begin([4], 2)


def test_two_processes_never_both_have_a_call(tmp_path: Path) -> None:
    """A host that begins entries as fast as it can, a daemon that shuts the gate at any moment."""
    shared = tmp_path / "page"
    shared.write_bytes(bytes(journal.SIZE_BYTES + 8))
    with shared.open("r+b") as file, mmap.mmap(file.fileno(), 0) as area:
        host = get_context("spawn").Process(target=_begin_for_ever, args=(shared,))
        host.start()
        try:
            with (
                memoryview(area) as whole,
                whole[: journal.SIZE_BYTES] as page,
                whole[journal.SIZE_BYTES :] as rest,
                rest.cast("Q") as started,
            ):
                _take_at_any_moment(page, started)
        finally:
            host.kill()
            host.join()
            host.close()


def _begin_for_ever(shared: Path) -> None:
    with shared.open("r+b") as file:
        whole = memoryview(mmap.mmap(file.fileno(), 0))
    writer = journal.JournalWriter(whole[: journal.SIZE_BYTES])
    started = whole[journal.SIZE_BYTES :].cast("Q")
    call_id = 0
    while True:
        call_id += 1
        if writer.begin([call_id], time.monotonic_ns()):
            for _ in range(100):  # a call takes its time to show that it runs
                pass
            started[0] = call_id
        writer.end()


def _take_at_any_moment(page: memoryview, started: memoryview) -> None:
    """Fails if a call started that was taken away; until a running entry was caught 300 times."""
    while not started[0]:
        pass
    taken = 0
    while taken < 300:
        highest = started[0] + 50
        running = journal.shut(page, highest)
        allowed = running.call_ids[0] if running.call_ids else 0
        taken += bool(allowed)
        seen = started[0]
        while (latest := started[0]) <= highest:
            assert latest in (seen, allowed)
        journal.reopen(page)
