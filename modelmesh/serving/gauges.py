"""What a scrape of the metrics finds in this daemon's memory."""

from math import inf

from modelmesh.cache.decisions import State
from modelmesh.observe.metrics import FleetGauges, Gauges
from modelmesh.serving.parts import Parts


def alone_gauges(parts: Parts) -> FleetGauges:
    """A daemon alone is all the fleet there is."""
    return FleetGauges(
        models_loaded=parts.copies.ledger.counts[State.LOADED],
        models_failed=parts.failures.count(parts.clock()),
        models_registered=len(parts.models),
    )


def read_gauges(parts: Parts, fleet: FleetGauges | None, wall_s: float) -> Gauges:
    """The figures as they are now; `wall_s` is seconds since the epoch. `fleet`: if we say it."""
    ledger, now = parts.copies.ledger, parts.clock()
    oldest = parts.copies.oldest_use()
    age_s = 0.0 if oldest == inf else max(now - oldest, 0.0)
    return Gauges(
        capacity_bytes=ledger.capacity_bytes,
        used_bytes=ledger.reserved_bytes + ledger.overhead_bytes,
        debt_bytes=ledger.debt_bytes,
        models_loaded=ledger.counts[State.LOADED],
        fleet=fleet,
        lru_time_s=0.0 if oldest == inf else wall_s - age_s,
        lru_age_s=age_s,
    )
