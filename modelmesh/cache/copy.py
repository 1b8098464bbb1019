"""One model in this daemon's memory, one that waits to be, and what is kept of one that was.

Tens of thousands exist: slots, and nothing that can be computed.
"""

from dataclasses import dataclass

from modelmesh.cache.decisions import State, Why
from modelmesh.policy.eviction import NEVER

NOT_FILED = -(1 << 62)


class Copy:
    """A model that holds a reservation. Callers may read it; only the cache changes it."""

    __slots__ = (
        "busy_s",
        "floor",
        "in_use",
        "last_used",
        "leaving",
        "load_s",
        "loads_s",
        "measured_bytes",
        "model_id",
        "model_type",
        "new_uses",
        "priority",
        "rank",
        "size_bytes",
        "state",
        "stuck",
        "use_level",
        "uses",
        "young_until",
    )

    def __init__(self, wanted: "Wanted", now: float) -> None:
        self.model_id = wanted.model_id
        self.model_type = wanted.model_type
        self.state = State.LOADING
        self.size_bytes = wanted.size_bytes  # its reservation
        self.measured_bytes = 0  # at its last load; 0 before the first
        self.in_use = 0  # calls
        self.last_used = now
        self.new_uses = 0  # not yet in use_level
        self.use_level = NEVER  # see rates
        self.uses = 0  # calls begun since it was loaded
        self.busy_s = 0.0  # time that calls have spent with it, those beside each other added up
        self.loads_s: tuple[float, ...] = ()  # its last loads, seconds
        self.load_s = 0.0  # their median
        self.young_until = now  # not evicted before
        self.priority = 0  # the operator's
        self.floor = NEVER  # of the order, when it was used last
        self.rank = NOT_FILED  # its place in the order
        self.stuck = False  # its unload has failed for good: its bytes come back by luck only
        self.leaving: Why | None = None  # unload as soon as it is loaded, or no call uses it


@dataclass(frozen=True, slots=True)
class Wanted:
    """An admission that waits for room."""

    model_id: str
    model_type: str
    size_bytes: int
    background: bool


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is kept of a model that is not loaded: its rate and cost must outlive its copy."""

    use_level: float
    size_bytes: int
    loads_s: tuple[float, ...]
