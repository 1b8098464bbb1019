"""Copies on their way out that ask the fleet before they go.

    evicted -> leave needed? -> asked -> given: unloaded
                                      -> refused, or wanted here again: spared, another one goes

A further copy of what is in demand may be evicted because others have one. Two holders that evict
their last two copies at the same instant each see the other's; so such a copy asks first, and the
registry decides. Until then its bytes are held and it takes no calls: they go to the other copies.

Must never: keep a copy waiting for long (whoever gives leave bounds it), or hold up an unload that
is not a matter of choice.
"""

import asyncio
from typing import Protocol

import structlog

from modelmesh.cache.decisions import Unload, Why
from modelmesh.observe.tasks import spawn, stop

log = structlog.get_logger("serving")


class Leave(Protocol):
    """Says whether a copy here may go. Asked on the loop."""

    def needed(self, model_id: str) -> bool:
        """Whether it may be evicted only because others have one, so that they must be asked."""

    async def given(self, model_id: str) -> bool:
        """Whether it may go: then nobody counts on it any more. Bounded; raises nothing."""


class Owner(Protocol):
    """Who carries out what is decided."""

    def begin_unload(self, effect: Unload) -> None:
        """It goes."""

    def spare(self, model_id: str) -> None:
        """It stays, and takes calls again."""

    def parted_in_vain(self, model_id: str) -> None:
        """The answer came too late to matter; the record may lack a copy that is here."""


class Partings:
    """Every copy that has asked and has no answer yet."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._asking: dict[str, Unload] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.leave: Leave | None = None  # None: nobody is asked

    def must_ask(self, effect: Unload) -> bool:
        """Whether this unload has to wait for leave. A debt waits for nobody."""
        leave = self.leave
        return effect.why is Why.EVICTED and leave is not None and leave.needed(effect.model_id)

    def ask(self, effect: Unload) -> None:
        """Ask; the owner hears what to do."""
        self._asking[effect.model_id] = effect
        task = spawn(self._ask(effect), f"leave to unload {effect.model_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def withdraw(self, model_id: str) -> Unload | None:
        """Its answer does not matter any more; the unload that waited for it, if there was one."""
        return self._asking.pop(model_id, None)

    async def close(self) -> None:
        self._asking.clear()
        await stop(*self._tasks)

    async def _ask(self, effect: Unload) -> None:
        model_id, leave = effect.model_id, self.leave
        try:
            goes = leave is None or await leave.given(model_id)
        except Exception:  # its bytes must not be held for ever
            log.exception("leave to unload could not be asked", model=model_id)
            goes = True
        if self._asking.get(model_id) is not effect:
            self._owner.parted_in_vain(model_id)
            return
        del self._asking[model_id]
        if goes:
            self._owner.begin_unload(effect)
        else:
            self._owner.spare(model_id)
