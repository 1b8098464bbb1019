"""Where a request goes. Today: served here, loaded here, waiting here, or rejected.

One pure question per request: no I/O, no waiting, and on a warm hit no new object. The fleet adds
`Forward` as one more answer. The order of the questions is the policy:
a loaded copy answers whatever else is known (a draining daemon keeps serving what it holds), a
load under way is joined, and only then do draining and remembered failures refuse.
"""

from dataclasses import dataclass
from typing import Protocol

from modelmesh.errors import Code, Failure, Fault, Reason


class Request(Protocol):
    """What routing looks at."""

    @property
    def model_id(self) -> str: ...


class View(Protocol):
    """What this daemon knows; every answer costs a look-up in memory."""

    @property
    def draining(self) -> bool:
        """Whether this daemon is leaving and takes no new models."""

    def is_registered(self, model_id: str) -> bool: ...

    def is_loaded(self, model_id: str) -> bool:
        """Whether a copy here takes calls now."""

    def is_coming(self, model_id: str) -> bool:
        """Whether a load of it is under way or waits for room here."""

    def remembered_failure(self, model_id: str, now: float) -> Failure | None:
        """Why it must not be loaded now, if loads of it have failed too often or for good."""


@dataclass(frozen=True, slots=True)
class ServeHere:
    """Run it on the copy that is loaded here."""

    reason: str


@dataclass(frozen=True, slots=True)
class LoadHere:
    """Admit it to this daemon's cache, then serve it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Join those who wait for a load that is under way here."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reject:
    """Answer this failure."""

    reason: str
    failure: Failure


Route = ServeHere | LoadHere | Wait | Reject

_LOADED = ServeHere("a copy is loaded here")
_COMING = Wait("a load of it is under way here")
_COLD = LoadHere("no copy is loaded")
_UNKNOWN = Reject("not registered", Failure(Code.NOT_FOUND, "model not found"))
_DRAINING = Reject(
    "draining",
    Failure(
        Code.UNAVAILABLE,
        "this daemon is shutting down and loads no more models",
        Fault.CAPACITY,
        Reason.DRAINING,
        retry_after_s=1.0,
    ),
)


def route(view: View, request: Request, now: float) -> Route:
    """Decide; `now` is monotonic seconds."""
    model_id = request.model_id
    if not view.is_registered(model_id):
        return _UNKNOWN
    if view.is_loaded(model_id):
        return _LOADED
    if view.is_coming(model_id):
        return _COMING
    if view.draining:
        return _DRAINING
    if failure := view.remembered_failure(model_id, now):
        return Reject("loads of it have failed", failure)
    return _COLD
