"""Does the store answer? A call left unanswered for a second says no, and so does one that failed
everywhere; any answer, a refusal too, says yes again.

Whoever must not wait (routing, loads) looks here instead of asking. While the answer is no, one
probe goes on asking in their place. Long reads do not count: their length is no silence.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from modelmesh.observe.tasks import every, stop

log = structlog.get_logger("registry")

SILENCE_S: Final = 1.0
PROBE_EVERY_S: Final = 0.5

Listener = Callable[[bool], None]


class Availability:
    """Made on a running loop. `probe` asks the store once, within a bound, and reports here as
    every call does."""

    def __init__(self, probe: Callable[[], Awaitable[None]], silence_s: float = SILENCE_S) -> None:
        self.answering = True
        self._loop = asyncio.get_running_loop()
        self._probe = probe
        self._silence_s = silence_s
        self._probing: asyncio.Task[None] | None = None
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Be told when the answer changes; returns the way to stop."""
        self._listeners.append(listener)

        def end() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return end

    def asked(self) -> asyncio.TimerHandle:
        """A call has been sent; cancel the handle when it ends."""
        return self._loop.call_later(self._silence_s, self.silent)

    def answered(self) -> None:
        """The store has said something."""
        if self.answering:
            return
        log.info("the registry answers again")
        probing, self._probing = self._probing, None
        if probing is not None:
            probing.cancel()  # perhaps by itself: then it ends at its next wait
        self._turn(True)

    def silent(self) -> None:
        """The store has not said anything where it should have."""
        if not self.answering:
            return
        log.warning("the registry does not answer")
        self._probing = every(PROBE_EVERY_S, self._probe, "etcd probe")
        self._turn(False)

    async def close(self) -> None:
        probing, self._probing = self._probing, None
        await stop(probing)

    def _turn(self, answering: bool) -> None:
        self.answering = answering
        for listener in tuple(self._listeners):
            try:
                listener(answering)
            except Exception:
                log.exception("a listener of the registry's availability failed")
