"""The journal page: what a daemon can learn of a host that has just died."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from modelmesh.wire import journal


@given(st.lists(st.integers(0, 2**64 - 1), max_size=journal.MOST_IDS))
def test_a_begun_entry_is_read_back(ids: list[int]) -> None:
    page = memoryview(bytearray(journal.SIZE_BYTES))
    journal.JournalWriter(page).begin(ids, 2_500_000_000)
    entry = journal.read(page)
    assert (entry.call_ids, entry.since, entry.sequence) == (tuple(ids), 2.5, 1)


def test_an_ended_entry_names_no_calls() -> None:
    page = memoryview(bytearray(journal.SIZE_BYTES))
    writer = journal.JournalWriter(page)
    writer.begin([7, 8], 1)
    writer.end()
    assert journal.read(page).call_ids == ()


@given(st.binary(min_size=24, max_size=24))
def test_a_hostile_page_never_raises_and_is_bounded(head: bytes) -> None:
    page = memoryview(bytearray(head + b"\xff" * (journal.SIZE_BYTES - 24)))
    count = struct.unpack_from("<Q", head, 16)[0]
    assert len(journal.read(page).call_ids) == min(count, journal.MOST_IDS)
