"""What models have done to their hosts: whom policy keeps apart, and who is in quarantine.

A model that once took or stalled a shared host starts in a process host from then on; one that
takes hosts down again and again is not loaded at all for a while. Where it could have been any of
several, each is kept apart until one of them is convicted; that acquits the others. The record
belongs to the model as registered: another path, key or type under the same id starts clean.
Bounded, in memory only: the fleet's memory of failed loads is in the registry.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

from cachetools import LRUCache

from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.runtime.door import LoadRequest

MOST_MODELS: Final = 10_000


@dataclass(slots=True)
class _Record:
    request: LoadRequest
    offence: str = ""
    losses: deque[float] = field(default_factory=deque)
    among: frozenset[str] = frozenset()  # the suspects, where it is only one of them


class Conduct:
    """Offences by model. Times are monotonic seconds."""

    def __init__(self, quarantine_losses: int, expiry_s: float) -> None:
        self._most = quarantine_losses
        self._expiry_s = expiry_s
        self._records: LRUCache[str, _Record] = LRUCache(MOST_MODELS)

    def stalled(self, request: LoadRequest, offence: str) -> None:
        """The model kept a shared host from others."""
        record = self._record(request)
        record.offence, record.among = offence, frozenset()

    def suspected(self, request: LoadRequest, offence: str, among: frozenset[str]) -> None:
        """One of these has done it. What is certain of the model already stays so."""
        record = self._record(request)
        if record.among or not record.offence:
            record.offence, record.among = offence, record.among | among

    def acquit(self, convicted: str) -> list[str]:
        """The models that were suspected together with this one, and are not any more."""
        acquitted = [
            record
            for record in self._records.values()
            if convicted in record.among and record.request.model_id != convicted
        ]
        for record in acquitted:
            record.offence, record.among = "", frozenset()
        return [record.request.model_id for record in acquitted]

    def lost_host(self, request: LoadRequest, offence: str, now: float) -> None:
        """The model cost a host."""
        record = self._record(request)
        record.offence, record.among = offence, frozenset()
        record.losses.append(now)
        while len(record.losses) > self._most:
            record.losses.popleft()

    def offence(self, request: LoadRequest) -> str:
        """What the model last did, or ""."""
        record = self._known(request)
        return record.offence if record else ""

    def quarantine(self, request: LoadRequest, now: float) -> Failure | None:
        """Why the model is not loaded now, if it is not."""
        record = self._known(request)
        if record is None or len(record.losses) < self._most:
            return None
        over_s = record.losses[0] + self._expiry_s - now
        if over_s <= 0:
            return None
        return Failure(
            Code.FAILED_PRECONDITION,
            f"quarantined for {over_s:.0f} s more: {self._most} hosts lost within"
            f" {self._expiry_s:g} s; the last time it {record.offence}",
            Fault.MODEL,
            Reason.QUARANTINED,
        )

    def _known(self, request: LoadRequest) -> _Record | None:
        record = self._records.get(request.model_id)
        if record is None or replace(record.request, background=request.background) != request:
            return None
        return record

    def _record(self, request: LoadRequest) -> _Record:
        record = self._known(request)
        if record is None:
            record = self._records[request.model_id] = _Record(request)
        return record
