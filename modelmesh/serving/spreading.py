"""One more copy of a model, somewhere else: for a drain, a busy model, or an operator's minimum.

Placement says where; that instance is asked to claim and load it, and may refuse, whereupon the
next one is asked, a few times.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from modelmesh.errors import MeshError
from modelmesh.policy.placement import Subject, place
from modelmesh.policy.resending import after_failure
from modelmesh.policy.routing import RoutingLimits, live_failures
from modelmesh.serving.remote import Remote
from modelmesh.serving.view import FleetView

ATTEMPTS: Final = 3
# How long what a daemon says of its copies may be under way (its words go out 20 times a second).
_ARRIVED_S: Final = 1.0
_LOOK_S: Final = 0.01


class Spreading:
    """Has models loaded on other instances than those that hold them."""

    def __init__(
        self,
        view: FleetView,
        remote: Remote,
        clock: Callable[[], float],
        rng: Callable[[], float],
        limits: RoutingLimits,
        settle: Callable[[], Awaitable[object]],
    ) -> None:
        """`settle` waits (bounded) until what is said of our own copies stands in the store: a
        copy that is only known here would look to others as if it were still coming."""
        self._view = view
        self._remote = remote
        self._clock = clock
        self._rng = rng
        self._limits = limits
        self._settle = settle

    async def another_copy(
        self, model_id: str, bound_s: float, *, avoid: Collection[str] = (), sync: bool = True
    ) -> str:
        """The instance that has one more copy now (or is getting it, without `sync`).

        "" if the model is not registered or nobody else may have it; MeshError: why the last one
        that was asked would not. Never this instance, nor one of `avoid`.
        """
        await self._settle()
        if sync:
            await self._arrived(model_id)
        view, tried, last = self._view, [self._view.me, *avoid], None
        for _ in range(ATTEMPTS):
            record = view.record(model_id)
            if record is None:
                return ""
            now = self._clock()
            weight = view.weigh(model_id, record)
            subject = Subject(
                record.type,
                weight.size_bytes,
                weight.worth,
                holders=record.instance_ids,
                failed=live_failures(record, view.record_ms(now), self._limits),
                tried=tried,
            )
            placed = place(view, subject, now, self._rng)
            if not placed.instance_id:
                break
            view.note_sent(placed.instance_id, weight.size_bytes)
            try:
                await self._remote.load(
                    placed.instance_id, model_id, further=True, sync=sync, bound_s=bound_s
                )
                return placed.instance_id
            except MeshError as error:
                last = error
                tried.append(placed.instance_id)
                if not after_failure(error.failure, idempotent=True, resent=False).again:
                    break
        if last is not None:
            raise last
        return ""

    async def _arrived(self, model_id: str) -> None:
        """Wait (bounded) for the word of a copy that was made elsewhere just now: as long as it
        seems to be coming nobody may claim a further one."""
        view, end = self._view, self._clock() + _ARRIVED_S
        while self._clock() < end:
            record = view.record(model_id)
            if record is None or not any(
                view.counts(model_id, each)
                for each in record.instance_ids
                if each not in record.loaded_in
            ):
                return
            await asyncio.sleep(_LOOK_S)

    def held_elsewhere(self, model_id: str) -> bool:
        """Whether another instance that stays and answers has a loaded copy."""
        view = self._view
        record = view.record(model_id)
        if record is None:
            return True  # nobody needs it
        peers = (view.peer(each) for each in record.loaded_in if each != view.me)
        return any(p is not None and p.answers and not p.record.draining for p in peers)
