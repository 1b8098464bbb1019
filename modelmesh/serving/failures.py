"""Remembered load failures: how often a model may be tried, and what to say meanwhile.

A model that failed to load is tried again by the next request, `max_attempts` times within
`expiry_s`; after that its requests fail at once with the last failure until the oldest of those
attempts has expired (ModelMesh's rule). What took a loaded model away is remembered beside them
until it is loaded again: it is told, but keeps nobody from loading. Bounded: of the models that
fail, the longest forgotten ones are dropped first. Pure: time is passed in.
"""

from dataclasses import replace
from math import inf

from cachetools import LRUCache

from modelmesh.errors import Failure

_Attempts = tuple[tuple[float, Failure], ...]


class LoadFailures:
    """What failed to load here, when, and why. Times are monotonic seconds."""

    def __init__(self, max_attempts: int, expiry_s: float, most_models: int = 10_000) -> None:
        self._max_attempts = max_attempts
        self._expiry_s = expiry_s
        self._failed: LRUCache[str, _Attempts] = LRUCache(most_models)
        self._lost: LRUCache[str, tuple[float, Failure]] = LRUCache(most_models)

    def record(self, model_id: str, failure: Failure, now: float) -> None:
        """One more attempt has failed."""
        live = self._live(model_id, now)
        self._failed[model_id] = (*live, (now, failure))[-self._max_attempts :]

    def forget(self, model_id: str) -> None:
        """The model loaded, was registered anew, or an operator asks for another try."""
        self._failed.pop(model_id, None)
        self._lost.pop(model_id, None)

    def record_loss(self, model_id: str, failure: Failure, now: float) -> None:
        """The model was loaded, and went for this."""
        self._lost[model_id] = now, failure

    def loss(self, model_id: str, now: float) -> str:
        """Why the model was lost, if it was and has not been loaded since; else ""."""
        at, failure = self._lost.get(model_id, (-inf, None))
        return failure.message if failure is not None and now - at < self._expiry_s else ""

    def blocking(self, model_id: str, now: float) -> Failure | None:
        """The failure to answer with instead of another attempt, or None if one is allowed."""
        if not self._failed:
            return None
        live = self._live(model_id, now)
        if len(live) < self._max_attempts:
            return None
        expires_s = max(live[0][0] + self._expiry_s - now, 0.0)
        last = live[-1][1]
        return last if last.retry_after_s is None else replace(last, retry_after_s=expires_s)

    def errors(self, model_id: str, now: float) -> tuple[tuple[float, str], ...]:
        """(when, message) of the remembered failures, most recent first."""
        return tuple((at, failure.message) for at, failure in reversed(self._live(model_id, now)))

    def count(self, now: float) -> int:
        """How many models have a remembered failure."""
        return sum(1 for model_id in list(self._failed) if self._live(model_id, now))

    def _live(self, model_id: str, now: float) -> _Attempts:
        attempts: _Attempts = self._failed.get(model_id, ())
        return tuple(a for a in attempts if now - a[0] < self._expiry_s)
