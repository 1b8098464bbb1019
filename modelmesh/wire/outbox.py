"""Frames that wait to be written to a socket: small ones leave joined, large bodies uncopied."""

from collections import deque
from collections.abc import Callable
from typing import Final

from modelmesh.wire.transport import Body

_LARGE_BYTES: Final = 65536  # a body from here on costs more to copy than a system call of its own


class Outbox:
    """A queue of buffers, in order. It has no limit of its own: look at `unsent_bytes`."""

    __slots__ = ("_blocks", "_fresh", "unsent_bytes")

    def __init__(self) -> None:
        self._fresh: list[Body] = []  # small, to be joined
        self._blocks: deque[Body] = deque()  # before them: what leaves as it is
        self.unsent_bytes = 0

    def put(self, frame: tuple[Body, ...]) -> None:
        """Queue the buffers of one frame; only its last may be large."""
        for buffer in frame:
            self.unsent_bytes += len(buffer)
        self._fresh += frame
        if len(frame[-1]) >= _LARGE_BYTES:
            large = self._fresh.pop()
            self._join()
            self._blocks.append(large)

    def push(self, send: Callable[[Body], int]) -> bool:
        """Send until all is out (True) or the socket takes no more. `send` may raise OSError."""
        self._join()
        blocks = self._blocks
        while blocks:
            block = blocks[0]
            try:
                sent = send(block)
            except BlockingIOError:
                return False
            self.unsent_bytes -= sent
            if sent < len(block):
                blocks[0] = memoryview(block)[sent:]
            else:
                blocks.popleft()
        return True

    def clear(self) -> None:
        self._fresh.clear()
        self._blocks.clear()
        self.unsent_bytes = 0

    def _join(self) -> None:
        if self._fresh:
            self._blocks.append(b"".join(self._fresh))
            self._fresh.clear()
