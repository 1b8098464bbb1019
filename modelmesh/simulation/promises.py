"""What a caller may see: every answer and failure is held against what was registered and wrong.

Which failures the fleet promises to spare an idempotent caller, precisely. Through a daemon that is
itself well (it did not crash, stand still or lose its own way to the others), for a model whose
registration is certain, that loads without an error, in a world where there is room:

* one daemon crashes, stands still, leaves, is cut off from one other (both ways or one), or one
  connection breaks: no failure;
* the store is away, a lease is lost, watches lose or delay events or are compacted: no failure;
* loads are slow: only a deadline that comes too early.

Two such faults of the first kind at once, or one after the other faster than the fleet can notice,
may cost a failure (UNAVAILABLE or DEADLINE_EXCEEDED, never another code). A call that may not be
repeated fails with UNAVAILABLE where its daemon vanished. Who asks a daemon that dies or stands
still loses the call with it. A host that dies takes only the calls that it runs (INTERNAL).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Final

from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.simulation.doors import behaviour
from modelmesh.simulation.faults import BLINDING, BREAKING, Disturbance, Weather
from modelmesh.simulation.workload import Workload

# How long an unregistered model may still answer: while all is well, and where a relist has to heal
# a watch (`Bounds.relist_s` and its jitter, and a doubted listing).
PROPAGATED_S: Final = 2.0
HEALED_S: Final = 90.0
# How long "not found" may be remembered after a registration.
REMEMBERED_S: Final = 1.0
# Faults of the breaking kind closer together than this count as at once.
AT_ONCE_S: Final = 5.0

_CONTRACT: Final = frozenset(
    {
        Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED,
        Code.DEADLINE_EXCEEDED, Code.INTERNAL,
    }
)  # fmt: skip
_WANT_OF_ROOM: Final = frozenset({Reason.NO_SPACE, Reason.CHURN, Reason.OVERLOADED})
_PASSING: Final = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED})
_SUDDEN: Final = BREAKING - {"graceful stop"}  # who leaves says so: no call is lost with him
_SLOW: Final = frozenset({"slow load"})


@dataclass(slots=True)
class Span:
    """One registration of a model: when it was asked for and acknowledged, and its end likewise."""

    key: str
    asked_s: float
    known_s: float = inf
    end_asked_s: float = inf
    end_known_s: float = inf

    def certain(self, since_s: float, until_s: float) -> bool:
        return self.known_s <= since_s and self.end_asked_s > until_s


@dataclass(slots=True)
class Request:
    """One request, as its caller saw it."""

    request_id: str
    model_id: str
    began_s: float
    deadline_s: float
    idempotent: bool
    instance_id: str = ""
    ended_s: float = inf
    was_held: bool = False  # somebody had a copy when it began
    by_name: bool = False  # `model_id` is a vmodel


@dataclass(slots=True)
class Promises:
    """Judges what callers saw. Times are the world's seconds."""

    work: Workload
    weather: Weather
    spans: dict[str, list[Span]] = field(default_factory=dict)
    name_since: Callable[[str], float] = lambda _name: inf  # since when a vmodel certainly exists

    # --- answers

    def wrong_answer(self, request: Request, body: bytes) -> str:
        """What is wrong with the answer ("": nothing)."""
        possible = [
            behaviour(span.key).answer(request.model_id)
            for span in self.spans.get(request.model_id, ())
            if span.asked_s <= request.ended_s
            and request.began_s <= self._forgotten_by(span.end_known_s)
        ]
        return "" if body in possible else f"I1: answered {body!r}, possible: {possible}"

    def _forgotten_by(self, end_known_s: float) -> float:
        """Until when a model unregistered then may be answered."""
        if end_known_s == inf:
            return inf
        by_s = end_known_s + PROPAGATED_S
        for each in self.weather.past:
            if each.kind in BLINDING | BREAKING and each.began_s <= by_s:
                by_s = max(by_s, max(end_known_s, each.ended_s) + HEALED_S)
        return by_s

    # --- failures

    def wrong_failure(self, request: Request, failure: Failure) -> str:
        """Why this failure must not be ("": it may)."""
        code = failure.code
        if code not in _CONTRACT:
            return f"I7: {code.name}: {failure.message}"
        if code is Code.NOT_FOUND:
            return self._not_found(request)
        if code is Code.INTERNAL:
            crashed = failure.reason is Reason.WORKER_CRASHED and self._host_lost(request)
            return "" if crashed else f"I7: INTERNAL {failure.reason}: {failure.message}"
        if code is Code.FAILED_PRECONDITION:
            fine = self._is_bad(request) or self._host_lost(request)
            return "" if fine else f"I7: {failure.reason} of a good model: {failure.message}"
        if self._excused(request, failure):
            return ""
        if failure.code is Code.UNAVAILABLE and failure.fault is Fault.STORE:
            return self._not_found(request)  # its daemon had not heard of the model yet
        return f"I7: {code.name} {failure.reason.value} ({failure.fault.value}): {failure.message}"

    def _not_found(self, request: Request) -> str:
        if request.by_name:
            since_s = self.name_since(request.model_id)
            if since_s > request.began_s - REMEMBERED_S:
                return ""
            blind = self._about(BLINDING - {"bad watch", "compaction"}, since_s, request)
            return "" if blind else "I3: NOT_FOUND of a vmodel"
        for span in self.spans.get(request.model_id, ()):
            if span.certain(request.began_s - REMEMBERED_S, request.ended_s):
                blind = self._about(BLINDING - {"bad watch", "compaction"}, span.known_s, request)
                return "" if blind else "I2: NOT_FOUND of a registered model"
        return ""

    def _is_bad(self, request: Request) -> bool:
        spans = self.spans.get(request.model_id, ())
        return any(behaviour(span.key).load_error for span in spans)

    def _host_lost(self, request: Request) -> bool:
        during = self.weather.during(request.began_s, request.ended_s)
        lost = [each.model_id for each in during if each.model_id]
        if request.by_name:  # its models are named after it
            return any(model_id.startswith(f"{request.model_id}-") for model_id in lost)
        return request.model_id in lost

    def _excused(self, request: Request, failure: Failure) -> bool:
        if not self._certain(request):
            return True
        if self._is_bad(request) or self._host_lost(request):
            return True
        if not self.work.roomy and (
            failure.reason in _WANT_OF_ROOM or failure.code is Code.DEADLINE_EXCEEDED
        ):
            return True
        return failure.code in _PASSING and self._weather_excuses(request, failure)

    def _certain(self, request: Request) -> bool:
        if request.by_name:
            return self.name_since(request.model_id) <= request.began_s
        spans = self.spans.get(request.model_id, ())
        return any(span.certain(request.began_s, request.ended_s) for span in spans)

    def _weather_excuses(self, request: Request, failure: Failure) -> bool:
        during = self.weather.during(request.began_s - AT_ONCE_S, request.ended_s)
        breaking = [each for each in during if each.kind in _SUDDEN]
        left = any(each.kind in BREAKING - _SUDDEN for each in during)
        if not request.instance_id or len(breaking) + left > 1:
            return True
        if any(_stops(each, request.instance_id) for each in breaking):
            return True
        if breaking and not request.idempotent:
            return True
        late = failure.code is Code.DEADLINE_EXCEEDED
        return late and any(each.kind in _SLOW for each in during)

    def _about(self, kinds: frozenset[str], since_s: float, request: Request) -> bool:
        return any(each.kind in kinds for each in self.weather.during(since_s, request.ended_s))

    # --- executions

    def too_often(self, request: Request, executed: int) -> str:
        """Whether it was executed more often than it may be."""
        during = self.weather.during(request.began_s - AT_ONCE_S, request.ended_s)
        vanished = any(each.kind in _SUDDEN for each in during)
        most = 2 if request.idempotent and vanished else 1
        return f"I4: executed {executed} times" if executed > most else ""


def _stops(each: Disturbance, instance_id: str) -> bool:
    """Whether the daemon that was asked was itself dead or standing."""
    return each.kind in ("crash", "pause") and instance_id in each.who
