"""What an eviction here asks about a model: an operator's wishes, and copies elsewhere.

Priority is given to the cache when it changes, since an order must not look anything up. How a copy
is kept is asked when victims are chosen: it hangs on what others hold by then, as far as the record
says, and on how often the copy is used.

Must never choose a victim: `policy.scaling` says how one copy is to be treated, the cache chooses.
"""

import asyncio

from modelmesh.domain.records import ModelRecord
from modelmesh.errors import MeshError
from modelmesh.policy.scaling import Keeping, Wishes, keeps_last_copy
from modelmesh.registry.models import ModelChange
from modelmesh.serving.parts import Parts
from modelmesh.serving.view import FleetView


class Kept:
    """Wishes for the models of one daemon, made known to its cache."""

    def __init__(self, parts: Parts, view: FleetView | None) -> None:
        """`view`: of the others; None for a daemon alone."""
        self._parts = parts
        self._view = view
        self._looking = False
        parts.copies.keep_by(self.keeping)
        parts.changes.subscribe(self._changed)

    def keeping(self, model_id: str) -> Keeping:
        """How the copy here is to be treated by an eviction."""
        record = self._record(model_id)
        if record is None:
            return Keeping.FREE
        if self._view is None:  # every copy is a last one, so only the order can tell them apart
            return keeps_last_copy(0, 0.0, Wishes.of(record))
        parts = self._parts
        rate_per_s = parts.copies.rate_per_s(model_id, parts.clock())
        return keeps_last_copy(self._elsewhere(record), rate_per_s, Wishes.of(record))

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
