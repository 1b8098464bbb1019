"""What a scrape of the metrics finds in this daemon's memory."""

from math import inf

from modelmesh.cache.decisions import State
from modelmesh.observe.metrics import Gauges
from modelmesh.serving.parts import Parts


def read_gauges(parts: Parts, wall_s: float) -> Gauges:
    """The figures as they are now; `wall_s` is seconds since the epoch."""
    ledger, now = parts.copies.ledger, parts.clock()
    oldest = parts.copies.oldest_use()
    age_s = 0.0 if oldest == inf else max(now - oldest, 0.0)
    return Gauges(
        capacity_bytes=ledger.capacity_bytes,
        used_bytes=ledger.reserved_bytes + ledger.overhead_bytes,
        debt_bytes=ledger.debt_bytes,
        models_loaded=ledger.counts[State.LOADED],
        models_failed=parts.failures.count(now),
        models_registered=len(parts.models),
        lru_time_s=0.0 if oldest == inf else wall_s - age_s,
        lru_age_s=age_s,
    )
