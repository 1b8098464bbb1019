"""Door 3: where a model runs.

One interface for our own hosts (`hosts`, framed over socketpairs), for a model server in its own
container (`external`, gRPC) and, in tests, for a fake. What is behind it decides tiers, survives
crashes and measures weights; what is before it decides which models are loaded at all.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from modelmesh.errors import Failure
from modelmesh.wire.transport import Call


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What to load. `path` is local (opaque for an external runtime), `file_bytes` its files."""

    model_id: str
    type: str
    path: str
    key: str
    file_bytes: int = 0
    background: bool = False  # nobody waits for it: loads that callers wait for go first
    offence: str = ""  # what is known against it: then it gets a process of its own


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What came of a load: measured weight, how long it took, where it lives and why."""

    size_bytes: int
    load_s: float
    tier: str  # inline, shared, process, external
    reason: str = ""
    warnings: tuple[str, ...] = field(default=())
    max_concurrency: int = 0  # 0 = no limit


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """What the runtime says of itself when it is ready. `capacity_bytes` 0: the daemon's choice.

    `base_bytes` is the memory that it takes on this machine without any model.
    """

    capacity_bytes: int
    default_model_size_bytes: int
    max_loading_concurrency: int
    load_timeout_s: float
    version: str
    base_bytes: int = 0


class Part(StrEnum):
    """What a runtime does besides running models, as far as it takes time that counts."""

    QUEUE = "queue"  # a call waits until its model takes another one
    SIZING = "sizing"  # a loaded model is weighed
    PREPROCESS = "preprocess"  # a call becomes what the runtime, or our own model, understands
    POSTPROCESS = "postprocess"  # ... and its answer what the caller does


class RuntimeListener(Protocol):
    """What a runtime tells the daemon unasked. Synchronous, on the loop."""

    def model_lost(self, model_id: str, failure: Failure) -> None:
        """The model is no longer loaded, and this is why (it took its host down, say)."""

    def model_resized(self, model_id: str, size_bytes: int) -> None:
        """A loaded model's measured weight has changed."""

    def overhead_changed(self, overhead_bytes: int) -> None:
        """Memory of the hosts that no model's weight explains, in all."""

    def took(self, part: Part, model_id: str, seconds: float) -> None:
        """So long this has taken, once."""


class Runtime(Protocol):
    """The door. All methods run on the daemon's loop; failures are `MeshError`."""

    async def start(self, listener: RuntimeListener) -> RuntimeStatus:
        """Get ready to load (bounded by the runtime's start timeout)."""

    def check(self, model_type: str) -> None:
        """Refuse (INVALID_ARGUMENT, naming the types that work) what this runtime never runs."""

    def predict_size(self, request: LoadRequest) -> int:
        """An estimate of the weight in bytes before the load; cheap, never blocks, at least 1."""

    async def load(self, request: LoadRequest) -> LoadedModel:
        """Load the model. Exactly one load per model id runs at a time (the caller sees to it).

        FAILED_PRECONDITION + LOAD_FAILED: will not load as it is; UNAVAILABLE: may later;
        FAILED_PRECONDITION + QUARANTINED: has crashed too often. Cancellation gives the load up.
        """

    async def unload(self, model_id: str) -> None:
        """Give the model's memory back; no failure if it is not loaded. Its calls have ended.

        A failure means that it may be in memory still; another attempt may be made.
        """

    async def expel(self, model_id: str) -> bool:
        """Give its memory back by force, after attempts that failed: whether that was done.

        Bounded. No other model's calls fail for it.
        """

    def infer(self, model_id: str, call: Call) -> None:
        """Run one call (any kind) on a loaded model; the answer goes to `call.reply`.

        A model that this runtime does not hold ends the reply with NOT_FOUND, executed=False.
        """

    def describe(self, model_id: str) -> LoadedModel | None:
        """Where the model lives now and why (tiers change after the load)."""

    async def close(self, grace_s: float) -> None:
        """Unload everything and end every process."""
