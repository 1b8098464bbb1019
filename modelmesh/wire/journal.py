"""The page that a host shares with its daemon: the calls that it is about to run.

Before each entry (one load, or one predict of calls joined together) a host writes the ids of
those calls here; it answers them before it writes the next entry. So when a host dies, the daemon
reads which calls were running: those are the culprits, every other unanswered call never started.

Layout, little-endian: u64 sequence, u64 monotonic start in ns, u64 count, then `count` u64 call
ids. The count is cleared first and written last, so a half-written entry reads as empty. Count 0
means that nothing runs. The page comes from a process that may be hostile: the daemon only ever
compares ids with calls in flight, bounds the count, and takes the start for no later than the
moment at which it first saw the entry.

At the page's end stands the daemon's word to the host, the gate: u64 state (its first byte), u64
highest call id that is shut out, u64 sequence of the one entry that is let through all the same. A
daemon that takes calls away from a host which is busy with one long entry must know that they will
never start there, without waiting for the host. So it shuts the gate, then looks which entry runs;
the host writes an entry, then looks at the gate. However the two interleave, the daemon sees an
entry that runs, or the host sees the gate shut. `struct` would break that: it fills what it packs
into with zeros first, so a state that it packed would be OPEN for a moment. The state is one byte,
stored at once; the rest of the gate is written while DECIDING. And what one end reads while the
other may write it is believed only when it was read twice alike.

Pure: works on any writable buffer of `SIZE_BYTES`.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final

SIZE_BYTES: Final = 4096
MOST_IDS: Final = (SIZE_BYTES - 24 - 24) // 8

_HEAD = struct.Struct("<QQQ")
_COUNT = struct.Struct("<Q")
_GATE = struct.Struct("<QQQ")
_COUNT_AT: Final = 16
_IDS_AT: Final = 24
_RULE = struct.Struct("<QQ")  # the gate's, without its state
_GATE_AT: Final = SIZE_BYTES - 24
_RULE_AT: Final = _GATE_AT + 8
_OPEN, _DECIDING, _SHUT = 0, 1, 2
_MOST_LOOKS: Final = 256  # a host that changes its entry for ever, instead of waiting, is hostile


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """What runs now: since when (monotonic seconds) and for which calls. No ids: nothing runs."""

    sequence: int
    since: float
    call_ids: tuple[int, ...]


_fence_lock = Lock()


def _fence() -> None:
    """What was written before is seen by the other process before what is read after.

    Each end writes its word and then reads the other's; without a full barrier a processor may let
    the read overtake the write, and both go on. To take a lock is one.
    """
    with _fence_lock:
        pass


class JournalWriter:
    """The host's end. Not safe for several threads; a host has one."""

    __slots__ = ("_ids", "_let_through", "_page", "_sequence")

    def __init__(self, page: memoryview) -> None:
        self._page = page
        self._sequence = 0
        self._ids: Sequence[int] = ()
        self._let_through: Sequence[int] = ()

    def begin(self, call_ids: Sequence[int], now_ns: int) -> bool:
        """These calls (at most MOST_IDS) run from now on.

        False: the daemon has taken some of them away; run none, drop those that `is_shut` names.
        """
        page = self._page
        _COUNT.pack_into(page, _COUNT_AT, 0)
        before, self._ids = self._ids, call_ids
        self._sequence += 1
        struct.pack_into(f"<{len(call_ids)}Q", page, _IDS_AT, *call_ids)
        _HEAD.pack_into(page, 0, self._sequence, now_ns, len(call_ids))
        _fence()
        if self.is_open or not self._any_shut(call_ids, before):
            return True
        self.end()
        return False

    @property
    def is_open(self) -> bool:
        """Whether the daemon has taken nothing away so far."""
        return self._page[_GATE_AT] == _OPEN

    def is_shut(self, call_id: int) -> bool:
        """Whether the daemon has taken this call away (it decides within microseconds)."""
        state, highest, _ = self._decided()
        return state == _SHUT and call_id <= highest and call_id not in self._let_through

    def end(self) -> None:
        """Nothing runs; every answer is in the socket."""
        _COUNT.pack_into(self._page, _COUNT_AT, 0)

    def _any_shut(self, call_ids: Sequence[int], before: Sequence[int]) -> bool:
        """The entry that the daemon saw is this one, or the one before (a batch, now in parts)."""
        state, _, let_through = self._decided()
        if state == _SHUT and let_through == self._sequence:
            self._let_through = call_ids
        elif state == _SHUT and let_through == self._sequence - 1:
            self._let_through = before
        return any(map(self.is_shut, call_ids))

    def _decided(self) -> tuple[int, int, int]:
        before: tuple[int, int, int] = _DECIDING, 0, 0
        while True:
            gate: tuple[int, int, int] = _GATE.unpack_from(self._page, _GATE_AT)
            if gate[0] != _DECIDING and gate == before:
                return gate
            before = gate


def read(page: memoryview) -> JournalEntry:
    """The daemon's end: what runs now (never raises, whatever the page holds)."""
    sequence, since_ns, count = _HEAD.unpack_from(page, 0)
    count = min(count, MOST_IDS)
    ids = struct.unpack_from(f"<{count}Q", page, _IDS_AT)
    return JournalEntry(sequence, since_ns / 1e9, ids)


def shut(page: memoryview, highest_id: int) -> JournalEntry:
    """The daemon's end: no call up to this id starts any more, but for those of the entry returned.

    That entry runs now, or is let through in this moment. No ids: nothing runs.
    """
    page[_GATE_AT] = _DECIDING
    _fence()
    running = _settled(page)
    let_through = running.sequence if running.call_ids else 0
    _RULE.pack_into(page, _RULE_AT, highest_id, let_through)
    page[_GATE_AT] = _SHUT
    return running


def _settled(page: memoryview) -> JournalEntry:
    """What runs, not read in the midst of a change: the host waits for the gate soon."""
    entry = read(page)
    for _ in range(_MOST_LOOKS):
        before, entry = entry, read(page)
        if entry == before:
            break
    return entry


def reopen(page: memoryview) -> None:
    """Take nothing away after all. Only before anything was sent elsewhere."""
    page[_GATE_AT] = _OPEN
