"""How a model's copies stand, for those who decide about vmodels, and how to have more of them.

One daemon knows by its own cache; in a fleet the model's record says where copies are, and the
peers room says which of those instances answer. Both say the same: a `Standing`.
"""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from modelmesh.domain.instances import InstanceRecord
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Failure, MeshError, Reason
from modelmesh.policy.routing import RoutingLimits, live_failures
from modelmesh.policy.transition import Standing
from modelmesh.serving.fleet_management import FleetManagement
from modelmesh.serving.management import Management
from modelmesh.serving.parts import Parts
from modelmesh.serving.spreading import Spreading
from modelmesh.serving.view import FleetView

_OF_THE_MODEL: Final = (
    Reason.LOAD_FAILED,
    Reason.LOAD_TIMEOUT,
    Reason.TOO_LARGE,
    Reason.QUARANTINED,
    Reason.WORKER_CRASHED,
)


class CopiesOf(Protocol):
    """Where the copies of models are."""

    def stand(self, model_id: str, record: ModelRecord) -> Standing:
        """How this (registered) model stands now."""

    async def load(self, model_id: str, copies: int) -> Failure | None:
        """Have so many more, and wait for the first one (0: for one that is coming already); why
        it could not be had."""


class Here:
    """A daemon alone: there is a copy, or there is none."""

    def __init__(self, parts: Parts, management: Management) -> None:
        self._parts = parts
        self._management = management

    def stand(self, model_id: str, record: ModelRecord) -> Standing:
        parts = self._parts
        if parts.copies.is_loaded(model_id):
            return Standing(loaded=1)
        if parts.loader.is_coming(model_id):
            return Standing(coming=1)
        failure = parts.failures.blocking(model_id, parts.clock())
        return Standing(failure=failure.message if failure is not None else "")

    async def load(self, model_id: str, copies: int) -> Failure | None:
        return await self._management.try_load(model_id)


class InFleet:
    """One of many: the record says where, and only instances that answer count."""

    def __init__(
        self,
        view: FleetView,
        management: FleetManagement,
        spreading: Spreading,
        clock: Callable[[], float],
        limits: RoutingLimits,
    ) -> None:
        self._view = view
        self._management = management
        self._spreading = spreading
        self._clock = clock
        self._limits = limits

    def stand(self, model_id: str, record: ModelRecord) -> Standing:
        now_ms = self._view.record_ms(self._clock())
        here = self._instances()
        loaded = [at_ms for each, at_ms in record.loaded_in.items() if each in here]
        coming = [e for e in record.instance_ids if e in here and e not in record.loaded_in]
        failed = live_failures(record, now_ms, self._limits)
        feasible = [each for each, instance in here.items() if self._fits(record, instance)]
        free = [each for each in feasible if each not in failed]
        failure = ""
        if failed and (not free or len(failed) >= self._limits.max_load_failures):
            last = max(failed, key=lambda each: failed[each])
            failure = record.failure_message(last) or "loads of it have failed"
        return Standing(
            loaded=len(loaded),
            coming=len(coming),
            possible=len(free),
            loaded_s=(now_ms - min(loaded)) / 1000 if loaded else 0.0,
            failure=failure,
        )

    async def load(self, model_id: str, copies: int) -> Failure | None:
        """The first copy goes where routing says, further ones where placement says."""
        record = self._view.record(model_id)
        if record is None:
            return None  # the next look at the records says so
        standing = self.stand(model_id, record)
        if not standing.loaded:
            failure = await self._management.try_load(model_id)
            if failure is not None:
                return failure
            copies -= not standing.coming
        return await self._further(model_id, copies)

    async def _further(self, model_id: str, copies: int) -> Failure | None:
        """Not waited for: the records tell when they are there."""
        asked: list[str] = []
        try:
            while len(asked) < copies:
                there = await self._spreading.another_copy(
                    model_id, self._limits.load_timeout_s, avoid=asked, sync=False
                )
                if not there:
                    break
                asked.append(there)
            if len(asked) < copies and not self._view.is_loaded(model_id):
                await self._management.load_here(model_id, further=True, sync=False)
        except MeshError as error:
            return error.failure
        return None

    def _instances(self) -> Mapping[str, InstanceRecord]:
        """Those that stay and answer, and this one."""
        here = {
            peer.instance_id: peer.record
            for peer in self._view.peers()
            if peer.answers and not peer.record.draining
        }
        mine = self._view.my_record
        return here if mine.draining else {**here, self._view.me: mine}

    def _fits(self, record: ModelRecord, instance: InstanceRecord) -> bool:
        fits = self._view.fits
        return fits is None or fits.rank(record.type, instance.labels) is not None


def is_final(failure: Failure) -> bool:
    """Whether the model is at fault, and not the moment."""
    return failure.reason in _OF_THE_MODEL or failure.retry_after_s is None
