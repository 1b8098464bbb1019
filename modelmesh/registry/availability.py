"""Whether the store answers, found out by asking it, so that nobody waits for one that does not.

A call that the store left unanswered for `patience_s`, or that it could not be reached for, makes
it count as not answering. From then on guarded calls fail at once (UNAVAILABLE, with a time to try
again), and one probe at a time asks, with pauses that grow, until it answers. Any call that is
answered says so too.

A commit that was given up may still have happened: its error says that the outcome is unknown, and
nothing here ever repeats one.
Must never hold a caller longer than its patience.
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final, TypeVar

import structlog

from modelmesh.errors import Code, MeshError
from modelmesh.observe.listeners import Listeners
from modelmesh.observe.tasks import spawn, stop
from modelmesh.registry.local import unavailable

log = structlog.get_logger("registry")

T = TypeVar("T")

PATIENCE_S: Final = 1.0

# Probes: soon at first (most outages are a change of etcd's leader), then rarely enough to be no
# load for a store that is coming back, and often enough for leases of 30 s.
FIRST_PROBE_S: Final = 0.1
LAST_PROBE_S: Final = 2.0

_OUTAGE: Final = (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)


class Availability:
    """Made on a running loop. `ask` is the probe: a small read of the store."""

    def __init__(
        self, ask: Callable[[], Awaitable[object]], rng: Random, patience_s: float = PATIENCE_S
    ) -> None:
        self.answers = True
        self.outages = 0
        self._ask = ask
        self._rng = rng
        self._patience_s = patience_s
        self._listeners = Listeners[bool]("the store's availability")
        self._probing: asyncio.Task[None] | None = None
        self._closed = False

    def subscribe(self, listener: Callable[[bool], None]) -> Callable[[], None]:
        """Be told when `answers` changes; returns the way to stop."""
        return self._listeners.subscribe(listener)

    def check(self) -> None:
        """Raise UNAVAILABLE while the store does not answer."""
        if not self.answers:
            raise unavailable("the registry's store does not answer; nothing was changed")

    async def call(
        self,
        work: Callable[[], Awaitable[T]],
        *,
        patience_s: float | None = None,
        guarded: bool = True,
    ) -> T:
        """What `work` returns or raises; UNAVAILABLE once patience is at an end.

        `guarded`: fail at once while the store does not answer.
        """
        if guarded:
            self.check()
        try:
            async with asyncio.timeout(patience_s or self._patience_s):
                came_of_it = await work()
        except TimeoutError:
            self._set(False)
            message = "the registry's store left a call unanswered; the outcome is unknown"
            raise unavailable(message) from None
        except MeshError as error:
            self._set(error.failure.code not in _OUTAGE)
            raise
        self._set(True)
        return came_of_it

    async def close(self) -> None:
        self._closed = True
        await stop(self._probing)

    def _set(self, answers: bool) -> None:
        if answers == self.answers or self._closed:
            return
        self.answers = answers
        if answers:
            log.info("the registry's store answers again")
            if self._probing is not None and self._probing is not asyncio.current_task():
                self._probing.cancel()
        else:
            self.outages += 1
            log.warning("the registry's store does not answer")
            self._probing = spawn(self._probe(), "probe the registry's store")
        self._listeners.tell(answers)

    async def _probe(self) -> None:
        """Ask until it answers."""
        pause_s = FIRST_PROBE_S
        while True:
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))
            pause_s = min(LAST_PROBE_S, 2 * pause_s)
            try:
                await self.call(self._ask, guarded=False)
                return
            except MeshError:
                if self.answers:  # a refusal is an answer too
                    return
            except Exception:
                log.exception("a probe of the registry's store failed")
