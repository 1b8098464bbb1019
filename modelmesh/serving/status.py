"""What the serving room says about models: plain data for the faces. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from modelmesh.cache.decisions import Explanation
from modelmesh.domain.instances import InstanceRecord


class State(StrEnum):
    """ModelMesh's states of a model (names are the public contract)."""

    NOT_FOUND = "NOT_FOUND"
    NOT_LOADED = "NOT_LOADED"
    LOADING = "LOADING"
    LOADED = "LOADED"
    LOADING_FAILED = "LOADING_FAILED"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class CopyStatus:
    """One copy of a model: where, in which state, since when (ms since the epoch)."""

    location: str
    state: State
    time_ms: int


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model's state; errors of remembered load failures, most recent first."""

    state: State
    errors: tuple[str, ...] = ()
    copies: tuple[CopyStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelView:
    """A registration and the model's state here, for listings."""

    model_id: str
    type: str
    path: str
    key: str
    state: State
    size_bytes: int = 0
    last_used_ms: int = 0
    tier: str = ""
    reason: str = ""
    warnings: tuple[str, ...] = ()
    in_use: int = 0
    instances: tuple[str, ...] = ()  # that have a loaded copy; empty for a daemon alone
    min_copies: int = 0
    max_copies: int = 0
    pinned: bool = False
    priority: int = 0


class Health(StrEnum):
    """How an instance looks from the daemon that is asked."""

    HERE = "here"  # it is that daemon
    ANSWERS = "answers"
    SUSPECT = "suspect"  # it leaves questions unanswered
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class InstanceView:
    """One instance of the fleet, for listings."""

    instance_id: str
    record: InstanceRecord
    health: Health


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a model would be served: known, and no remembered load failure."""

    known: bool
    ready: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Explained:
    """Why a model is where it is, and what its admission would do now."""

    explanation: Explanation
    state: State
    capacity_bytes: int
    reserved_bytes: int
    debt_bytes: int
    forward: str = ""  # in a fleet: to whom the request would be sent, and why; the rest is of here
