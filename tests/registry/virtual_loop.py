"""A loop whose clock stands still until a test moves it; threads and sockets stay real."""

import asyncio


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._now = 1000.0

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Timers that are due by then run in the next turn."""
        self._now += seconds
