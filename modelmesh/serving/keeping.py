"""What an eviction here asks about a model: an operator's wishes, and copies elsewhere.

Priority is given to the cache when it changes, since an order must not look anything up. How a copy
is kept is asked when victims are chosen: it hangs on what others hold by then, as far as the record
says, and on how often the copy is used. A copy that may go only because others have one takes its
entry out of the record first, by compare-and-set (`Leave`): who else goes at that instant sees it.

Must never choose a victim: `policy.scaling` says how one copy is to be treated, the cache chooses.
"""

import asyncio
from functools import partial
from typing import Final

import structlog

from modelmesh.domain.records import ModelRecord
from modelmesh.errors import MeshError
from modelmesh.policy.scaling import Keeping, Wishes, keeps_last_copy
from modelmesh.registry.claims import CopyRecords
from modelmesh.registry.models import ModelChange
from modelmesh.serving.parts import Parts
from modelmesh.serving.view import FleetView

log = structlog.get_logger("serving")

# How long an eviction waits for the store. One that answers takes some milliseconds; one that does
# not must hold up nobody, and the copy goes as it would while the store is known not to answer.
LEAVE_S: Final = 0.5


class Kept:
    """Wishes for the models of one daemon, made known to its cache; gives copies leave to go."""

    def __init__(
        self, parts: Parts, view: FleetView | None, records: CopyRecords | None = None
    ) -> None:
        """`view`: of the others; None for a daemon alone. `records`: what the fleet knows of our
        copies; None: no copy asks anybody before it goes."""
        self._parts = parts
        self._view = view
        self._records = records
        self._looking = False
        parts.copies.keep_by(self.keeping)
        parts.loader.part_by(self)
        parts.changes.subscribe(self._changed)

    def keeping(self, model_id: str) -> Keeping:
        """How the copy here is to be treated by an eviction."""
        record = self._record(model_id)
        if record is None:
            return Keeping.FREE
        if self._view is None:  # every copy is a last one, so only the order can tell them apart
            return keeps_last_copy(0, 0.0, Wishes.of(record))
        return self._in_fleet(model_id, record, self._elsewhere(record))

    def needed(self, model_id: str) -> bool:
        record = self._record(model_id)
        if self._records is None or self._view is None or record is None:
            return False
        elsewhere = self._elsewhere(record)
        return (
            self._view.store_answers
            and self._in_fleet(model_id, record, elsewhere) is Keeping.FREE
            and self._in_fleet(model_id, record, 0) is not Keeping.FREE
        )

    async def given(self, model_id: str) -> bool:
        assert self._records is not None
        try:
            async with asyncio.timeout(LEAVE_S):
                asked = self._records.give_up(model_id, partial(self._may_go, model_id))
                # Where the store lacks the model (a restore) the table does not: a copy that was
                # spared would be chosen again at once, and so on.
                return await asked is not False
        except (MeshError, TimeoutError) as error:
            log.warning("unloads unasked", model=model_id, failure=str(error) or "no answer")
            return True

    def _may_go(self, model_id: str, record: ModelRecord) -> bool:
        return self._in_fleet(model_id, record, self._elsewhere(record)) is Keeping.FREE

    def _in_fleet(self, model_id: str, record: ModelRecord, others: int) -> Keeping:
        parts = self._parts
        rate_per_s = parts.copies.rate_per_s(model_id, parts.clock())
        return keeps_last_copy(others, rate_per_s, Wishes.of(record))

    def _elsewhere(self, record: ModelRecord) -> int:
        """Loaded copies on other instances that live, answer and stay."""
        assert self._view is not None
        peers = [self._view.peer(instance_id) for instance_id in record.loaded_in]
        return sum(peer is not None and peer.answers and not peer.record.draining for peer in peers)

    def _record(self, model_id: str) -> ModelRecord | None:
        """None also where it cannot be read: then nobody wishes anything."""
        try:
            return self._parts.models.get(model_id)
        except MeshError:
            return None

    def _changed(self, changes: list[ModelChange]) -> None:
        """A record or a copy here is another one; who waits for room may have it now."""
        copies, here = self._parts.copies, False
        for change in changes:
            if copies.get(change.model_id) is None:
                continue
            record = self._record(change.model_id)
            if record is not None:
                copies.prioritise(change.model_id, record.priority)
                here = True
        if here and copies.waiting and not self._looking:
            # Not at once: whoever tells of a copy is in the middle of carrying out effects.
            self._looking = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._looking = False
        parts = self._parts
        parts.loader.carry_out(parts.copies.due(parts.clock()))
