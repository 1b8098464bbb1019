"""How many calls one model may have in flight.

A model that is slower than its callers would otherwise fill the daemon with bodies. Pure counters:
who calls `enter` calls `leave` when the call's reply has ended.
"""

from modelmesh.errors import Code, Failure, Fault, Reason

HOSTED_MOST = 1024
UNLIMITED = -1


def inflight_limit(setting: int, max_concurrency: int, *, external: bool) -> int:
    """Calls in flight per model: the operator's number, or ModelMesh's rule where it is 0.

    Negative: unlimited. 0: 1,024 for our own hosts; max(16, 8 x maxConcurrency) for an external
    runtime that limits a model's concurrency, none for one that does not.
    """
    if setting != 0:
        return setting if setting > 0 else UNLIMITED
    if not external:
        return HOSTED_MOST
    return max(16, 8 * max_concurrency) if max_concurrency > 0 else UNLIMITED


class InflightLimiter:
    """Counts calls in flight by model; a model without calls takes no memory."""

    __slots__ = ("_inflight",)

    def __init__(self) -> None:
        self._inflight: dict[str, int] = {}

    def enter(self, model_id: str, limit: int) -> Failure | None:
        """Count one call, or refuse it (RESOURCE_EXHAUSTED, a retry helps)."""
        count = self._inflight.get(model_id, 0)
        if 0 <= limit <= count:
            return Failure(
                Code.RESOURCE_EXHAUSTED,
                f"{count} calls of this model are in flight",
                Fault.CAPACITY,
                Reason.OVERLOADED,
                retry_after_s=0.1,
            )
        self._inflight[model_id] = count + 1
        return None

    def leave(self, model_id: str) -> None:
        """One of the model's calls has ended."""
        count = self._inflight[model_id] - 1
        if count:
            self._inflight[model_id] = count
        else:
            del self._inflight[model_id]

    def inflight(self, model_id: str) -> int:
        """Calls in flight now."""
        return self._inflight.get(model_id, 0)
