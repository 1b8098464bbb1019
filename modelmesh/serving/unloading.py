"""How a model gets out of memory, also where its runtime does not want to let it go.

    attempt -> again, ever later -> by force (our own hosts) -> written off, and a rare attempt

Bytes that are given out twice are worse than bytes that lie idle: a model counts as gone only when
the runtime says so, and until then its bytes stay reserved. Where even force does not help (a model
server that is not ours to end), they are written off: nobody waits for them any more, and others
make room in its stead. A rare attempt goes on, which ends well as soon as the server has come to
its senses or was started anew.

Must never: report a model as gone to the cache that may still be in memory.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from modelmesh.cache.copies import Copies, Effects
from modelmesh.cache.copy import Copy
from modelmesh.cache.decisions import State, Unload, Why
from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.observe.metrics import Metrics
from modelmesh.observe.tasks import stop
from modelmesh.runtime.door import Runtime
from modelmesh.storage.door import Storage

log = structlog.get_logger("serving")


@dataclass(frozen=True, slots=True)
class Persistence:
    """How an unload that fails is tried again. Times in seconds."""

    attempts: int = 4  # then by force
    first_s: float = 0.5  # a runtime that is busy for a moment
    growth: float = 4.0  # 0.5, 2 and 8 s: as long as a container takes to come back
    later_s: float = 60.0  # cheap enough for ever: one call, which does nothing

    def pause_s(self, failed: int) -> float:
        """How long to wait after so many attempts that failed (at least 1)."""
        if failed >= self.attempts:
            return self.later_s
        return self.first_s * self.growth ** (failed - 1)


class Owner(Protocol):
    """Who is told how unloads end."""

    def carry_out(self, effects: Effects) -> None:
        """What the cache wants done."""

    def unload_ended(self, model_id: str, failure: Failure | None) -> None:
        """The model is gone; or it is not, and nobody is to wait for it."""


class Unloads:
    """Every unload under way. Everything runs on the daemon's loop."""

    def __init__(
        self,
        owner: Owner,
        copies: Copies,
        runtime: Runtime,
        storage: Storage,
        metrics: Metrics,
        persistence: Persistence,
        clock: Callable[[], float],
    ) -> None:
        self._owner = owner
        self._copies = copies
        self._runtime = runtime
        self._storage = storage
        self._metrics = metrics
        self._persistence = persistence
        self._clock = clock
        self._pausing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def run(self, effect: Unload) -> None:
        """Carry one out, from the first attempt to the last."""
        model_id, started = effect.model_id, self._clock()
        copy = self._copies.get(model_id)
        if copy is None or copy.state is not State.UNLOADING:
            return  # its host has died meanwhile
        if effect.why is Why.EVICTED:
            self._metrics.eviction_age_ms.observe((started - copy.last_used) * 1000)
        log.info("model unloads", model=model_id, why=effect.why.value)
        failure = await self._try_hard(copy)
        self._metrics.unload_ms.observe((self._clock() - started) * 1000)
        if failure is None:
            await self._gone(copy)
        elif not self._closed and self._is_here(copy):
            self._write_off(copy, failure)
            await self._hope(copy)

    async def close(self) -> None:
        """No further attempts: the runtime closes after this, and unloads what it holds."""
        self._closed = True
        await stop(*self._pausing)

    def _is_here(self, copy: Copy) -> bool:
        """Not lost meanwhile, and perhaps loaded anew."""
        return self._copies.get(copy.model_id) is copy

    async def _try_hard(self, copy: Copy) -> Failure | None:
        """All attempts, the last one by force; why the model is in memory still, if it is."""
        failure = await self._attempt(copy)
        for failed in range(1, self._persistence.attempts):
            if failure is None or not await self._pause(copy, failed):
                return failure
            failure = await self._attempt(copy)
        if failure is None:
            return None
        self._metrics.unload_failures.inc()
        return None if await self._by_force(copy) else failure

    async def _hope(self, copy: Copy) -> None:
        """A model server may be started anew at any time."""
        while await self._pause(copy, self._persistence.attempts):
            if await self._attempt(copy) is None:
                log.info("model unloaded after all", model=copy.model_id)
                await self._gone(copy)
                return

    async def _attempt(self, copy: Copy) -> Failure | None:
        try:
            await self._runtime.unload(copy.model_id)
        except Exception as error:  # its room must not be given away, whatever broke
            self._metrics.unload_attempt_failures.inc()
            unforeseen = not isinstance(error, MeshError)
            log.warning(
                "unload failed", model=copy.model_id, failure=str(error), exc_info=unforeseen
            )
            return _failure(error)
        return None

    async def _by_force(self, copy: Copy) -> bool:
        try:
            return await self._runtime.expel(copy.model_id)
        except Exception:
            log.exception("a model could not be expelled", model=copy.model_id)
            return False

    async def _pause(self, copy: Copy, failed: int) -> bool:
        """Whether the copy is here still after it, and worth another attempt."""
        task = asyncio.current_task()
        if self._closed or task is None:
            return False
        self._pausing.add(task)
        try:
            await asyncio.sleep(self._persistence.pause_s(failed))
        finally:
            self._pausing.discard(task)
        return self._is_here(copy)

    async def _gone(self, copy: Copy) -> None:
        try:
            await self._storage.release(copy.model_id)
        except Exception:
            log.exception("files could not be released", model=copy.model_id)
        if self._is_here(copy):
            self._owner.carry_out(self._copies.unloaded(copy.model_id, self._clock()))
            self._owner.unload_ended(copy.model_id, None)

    def _write_off(self, copy: Copy, failure: Failure) -> None:
        log.error(
            "a model cannot be unloaded: its bytes are written off until the runtime lets it go",
            model=copy.model_id,
            size_bytes=copy.size_bytes,
            failure=failure.message,
        )
        self._owner.carry_out(self._copies.unload_failed(copy.model_id, self._clock()))
        self._owner.unload_ended(copy.model_id, failure)


def _failure(error: Exception) -> Failure:
    """What whoever asked for the unload is told."""
    if isinstance(error, MeshError):
        return error.failure
    return Failure(Code.INTERNAL, "the runtime broke while it unloaded", Fault.PEER, executed=True)
