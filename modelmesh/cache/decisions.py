"""What the cache says: states, effects to carry out, decisions and their explanation.

Plain frozen data. The cache returns effects in the order in which they are to be begun; the shell
that carries them out reports each end with an event (`loaded`, `load_failed`, `unloaded`).
"""

from dataclasses import dataclass, field
from enum import StrEnum

from modelmesh.errors import Failure


class State(StrEnum):
    """Where a model stands in this daemon."""

    NEW = "new"  # not here
    WAITING = "waiting"  # admitted; its load follows when there is room
    LOADING = "loading"  # a Load was emitted; its reservation is held
    LOADED = "loaded"
    UNLOADING = "unloading"  # takes no more calls; its bytes are held until `unloaded`


class Why(StrEnum):
    """Why a model is unloaded."""

    EVICTED = "evicted"  # its room is needed by another
    GREW = "grew"  # it turned out larger than what it had reserved
    DEBT = "debt"  # the daemon uses more than it may
    ASKED = "asked"  # somebody asked for it
    FORGOTTEN = "forgotten"  # it is no longer registered


@dataclass(frozen=True, slots=True)
class Load:
    """Begin this load: its reservation is taken."""

    model_id: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Unload:
    """Begin this unload: no call uses the model."""

    model_id: str
    why: Why


@dataclass(frozen=True, slots=True)
class Refuse:
    """An admission that was waiting can no longer be met: fail its waiters."""

    model_id: str
    failure: Failure


Effect = Load | Unload | Refuse


class Verdict(StrEnum):
    """What an admission comes to."""

    SERVE = "serve"  # already loaded
    LOAD = "load"  # its load begins now, or has begun
    WAIT = "wait"  # its load follows when there is room
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to an admission.

    `wait_until` (monotonic seconds) is when the load can begin at the earliest, where a minimum
    residency makes it wait; 0 where that is not known or does not apply.
    """

    verdict: Verdict
    reason: str
    effects: tuple[Effect, ...] = ()
    wait_until: float = 0.0
    failure: Failure | None = None


class Fate(StrEnum):
    """What an admission would mean for one loaded model."""

    EVICT = "evict"
    IN_USE = "in use"
    TOO_YOUNG = "too young"
    KEPT = "kept"  # an operator wishes so
    LAST_COPY = "last copy"  # of what is in demand: goes only if all that is free is not enough
    NOT_NEEDED = "not needed"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One loaded model in the order of eviction; `worth` as in `Copies.worth`."""

    model_id: str
    worth: float
    size_bytes: int
    fate: Fate


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `admit` would decide now, and the next models to go, first first."""

    state: State
    decision: Decision
    order: tuple[Candidate, ...] = field(default=())
