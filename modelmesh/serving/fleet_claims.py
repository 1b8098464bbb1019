"""Claims of a member of a fleet: the registry decides who loads, and hears what became of it.

While the store answers, a load begins with a claim that everybody can see. While it does not,
routing has already chosen who is first for the model, and a second load somewhere is the price of
going on; nothing is written then, and the copies are said once the store is back.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from modelmesh.errors import Code, Failure, Fault, MeshError, Reason, not_found
from modelmesh.policy.claiming import Claiming, Contender
from modelmesh.registry.claims import Claimed, CopyRecords, Unregistered
from modelmesh.serving.view import FleetView

log = structlog.get_logger("serving")

# How long the loser of a claim waits until its own table shows the winner.
_CAUGHT_UP_S: Final = 1.0
_LOOK_S: Final = 0.005


class FleetClaims:
    """`Claims` over the registry."""

    def __init__(
        self,
        records: CopyRecords,
        view: Callable[[], FleetView],
        wall_ms: Callable[[], int],
        coming_bound_s: float,
    ) -> None:
        """`coming_bound_s`: a claim older than this binds nobody (the load timeout)."""
        self._records = records
        self._view = view
        self._wall_ms = wall_ms
        self._coming_bound_ms = round(coming_bound_s * 1000)

    async def claim(self, model_id: str, *, further: bool) -> None:
        view = self._view()
        if not view.store_answers:
            return
        claiming = Claiming(
            view.me,
            self._wall_ms(),
            lambda instance_id: view.counts(model_id, instance_id),
            self._coming_bound_ms,
        )
        try:
            claim = await self._records.claim(model_id, claiming, further=further)
        except MeshError as error:
            if error.failure.fault is not Fault.STORE:
                raise
            log.warning("loads unclaimed", model=model_id, failure=error.failure.message)
            return
        if isinstance(claim, Unregistered):
            if view.record(model_id) is None:
                raise not_found()
            # The store was restored, and is about to be offered what the table has kept.
            log.warning("loads unclaimed", model=model_id, failure="the store lacks it")
            return
        if not isinstance(claim, Claimed):
            await self._see(model_id, claim)
            raise MeshError(_held_by(claim))

    async def _see(self, model_id: str, winner: Contender) -> None:
        """Wait (bounded) until the table shows what the store said, so that routing finds it."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _CAUGHT_UP_S
        while loop.time() < end:
            record = self._view().record(model_id)
            if record is None or winner.instance_id in record.instance_ids:
                return
            await asyncio.sleep(_LOOK_S)

    def loaded(self, model_id: str, load_s: float) -> None:
        self._view().loaded(load_s)
        self._records.loaded(model_id)

    def failed(self, model_id: str, message: str) -> None:
        self._records.failed(model_id, message)

    def gone(self, model_id: str) -> None:
        self._records.gone(model_id)


def _held_by(winner: Contender) -> Failure:
    state = "has it" if winner.loaded else "is loading it"
    return Failure(
        Code.UNAVAILABLE,
        f"instance {winner.instance_id} {state}",
        Fault.PEER,
        Reason.NOT_HERE,
        retry_after_s=0.1,
    )
