"""The page that a host shares with its daemon: the calls that it is about to run.

Before each entry (one load, or one predict of calls joined together) a host writes the ids of
those calls here; it answers them before it writes the next entry. So when a host dies, the daemon
reads which calls were running: those are the culprits, every other unanswered call never started.

Layout, little-endian: u64 sequence, u64 monotonic start in ns, u64 count, then `count` u64 call
ids. The count is cleared first and written last, so a half-written entry reads as empty. Count 0
means that nothing runs. The page comes from a process that may be hostile: the daemon only ever
compares ids with calls in flight, and bounds the count.

Pure: works on any writable buffer of `SIZE_BYTES`.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SIZE_BYTES: Final = 4096
MOST_IDS: Final = (SIZE_BYTES - 24) // 8

_HEAD = struct.Struct("<QQQ")
_COUNT = struct.Struct("<Q")
_COUNT_AT: Final = 16
_IDS_AT: Final = 24


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """What runs now: since when (monotonic seconds) and for which calls. No ids: nothing runs."""

    sequence: int
    since: float
    call_ids: tuple[int, ...]


class JournalWriter:
    """The host's end. Not safe for several threads; a host has one."""

    __slots__ = ("_page", "_sequence")

    def __init__(self, page: memoryview) -> None:
        self._page = page
        self._sequence = 0

    def begin(self, call_ids: Sequence[int], now_ns: int) -> None:
        """These calls (at most MOST_IDS) run from now on."""
        page = self._page
        _COUNT.pack_into(page, _COUNT_AT, 0)
        self._sequence += 1
        struct.pack_into(f"<{len(call_ids)}Q", page, _IDS_AT, *call_ids)
        _HEAD.pack_into(page, 0, self._sequence, now_ns, len(call_ids))

    def end(self) -> None:
        """Nothing runs; every answer is in the socket."""
        _COUNT.pack_into(self._page, _COUNT_AT, 0)


def read(page: memoryview) -> JournalEntry:
    """The daemon's end: what runs now (never raises, whatever the page holds)."""
    sequence, since_ns, count = _HEAD.unpack_from(page, 0)
    count = min(count, MOST_IDS)
    ids = struct.unpack_from(f"<{count}Q", page, _IDS_AT)
    return JournalEntry(sequence, since_ns / 1e9, ids)
