"""An event loop whose time jumps to the next timer as soon as nothing is left to do.

An hour without work passes at once; the order of everything depends on nothing but the program
and its seed. It has no sockets, threads or processes: what waits for one would wait for ever, so
an idle loop without any timer is an error (`Stuck`), not a hang.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

START_S = 1_000_000.0


class Stuck(RuntimeError):
    """Nothing can ever happen again in this loop."""


class _NoWaiting(selectors.BaseSelector):
    """A selector that lets the loop's time pass instead of waiting. It watches nothing."""

    def __init__(self) -> None:
        self.now_s = START_S
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("every task waits for something that no timer will bring")
        self.now_s += max(timeout, 0.0)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return self._keys


class SimulatedLoop(asyncio.SelectorEventLoop):
    """The loop. `time()` is virtual seconds; `turns` counts its steps."""

    def __init__(self) -> None:
        self._virtual = _NoWaiting()
        super().__init__(self._virtual)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._virtual.now_s


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end in virtual time."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(main)
