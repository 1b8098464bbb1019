"""What model code prints: read so that it never blocks its host, tagged, and rate-limited.

A model may print a gigabyte. What is beyond the budget goes from the pipe to nowhere inside the
kernel, uncopied, and is only counted.
"""

import asyncio
import os
from time import monotonic
from typing import Final

import structlog

log = structlog.get_logger("model")

READ_BYTES: Final = 1 << 16
BYTES_PER_S: Final = 16 << 10
BURST_BYTES: Final = 64 << 10
LEAST_BYTES: Final = 4 << 10  # taken at a time, since around each piece the log tells of a gap
LINE_CHARACTERS: Final = 1000
_DROPS_A_TURN: Final = 16


class Budget:
    """A token bucket of bytes."""

    def __init__(self, now: float) -> None:
        self._bytes = float(BURST_BYTES)
        self._at = now

    def take(self, now: float, most: int) -> int:
        """How many of `most` bytes may be spent now (they are)."""
        self._bytes = min(BURST_BYTES, self._bytes + (now - self._at) * BYTES_PER_S)
        self._at = now
        granted = min(most, int(self._bytes))
        self._bytes -= granted
        return granted

    def give_back(self, unspent: int) -> None:
        """These were not needed."""
        self._bytes += unspent


class Output:
    """The reading end of one host's output pipe, which it owns."""

    def __init__(self, fd: int, host: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._host = host
        self._budget = Budget(monotonic())
        self._partial = b""
        self._nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._readable)
        self.dropped_bytes = 0
        self._told_bytes = 0

    def close(self) -> None:
        """Log what is left, then let go."""
        if self._fd < 0:
            return
        self._readable()
        if self._fd < 0:
            return
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        os.close(self._nowhere)
        self._fd = -1
        self._say(self._partial)
        self._tell_dropped()

    def _readable(self) -> None:
        granted = self._budget.take(monotonic(), READ_BYTES)
        data = None
        try:
            if granted < LEAST_BYTES:
                self._drop()
            else:
                data = os.read(self._fd, granted)
        except BlockingIOError:
            pass
        if data is None:
            self._budget.give_back(granted)
            return
        self._budget.give_back(granted - len(data))
        if not data:
            self._end()
            return
        self._tell_dropped()
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._say(line)
        if len(self._partial) > LINE_CHARACTERS:
            self._say(self._partial)
            self._partial = b""

    def _drop(self) -> None:
        """Beyond the budget: out of the pipe, so that the host goes on."""
        for _ in range(_DROPS_A_TURN):
            count = os.splice(self._fd, self._nowhere, 1 << 20)
            if count == 0:
                self._end()
                return
            self.dropped_bytes += count

    def _end(self) -> None:
        """Every process that held the other end is gone."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        os.close(self._nowhere)
        self._fd = -1
        self._say(self._partial)
        self._tell_dropped()

    def _tell_dropped(self) -> None:
        if self.dropped_bytes > self._told_bytes:
            dropped = self.dropped_bytes - self._told_bytes
            log.warning("a model prints too much", host=self._host, dropped_bytes=dropped)
            self._told_bytes = self.dropped_bytes

    def _say(self, line: bytes) -> None:
        text = line[:LINE_CHARACTERS].decode("utf-8", "replace").strip()
        if text:
            shown = "".join(mark if mark.isprintable() else " " for mark in text)
            log.info("model output", host=self._host, text=shown)
