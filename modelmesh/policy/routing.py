"""Where a request goes: served here, loaded here, waiting here, forwarded, or rejected.

One pure question per request: no I/O, no waiting, and on a warm hit no new object. `route` is for a
daemon alone; the order of its questions is the policy: a loaded copy answers whatever else is known
(a draining daemon keeps serving what it holds), a load under way is joined, and only then do
draining and remembered failures refuse.

`route_in_fleet` asks the same of all instances. A call that another daemon sent is bound by its
intent and never sent on: here or refused, so that no call wanders. Else the least loaded loaded
copy answers; callers of a copy that is coming meet where it is coming to; and only what has no copy
anywhere is placed. What does not answer binds nobody: neither its copies nor its claims.
While the store does not answer nothing can be claimed, so every daemon sends a cold model to the
same instance by rendezvous: most of the time that is one load, and at worst two.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Final, Protocol

from modelmesh.domain.fleet import Hops, Intent, Peer
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Failure, Fault, Reason, unheard
from modelmesh.policy import placement
from modelmesh.policy.placement import (
    Candidate,
    Obstacle,
    Placement,
    Rng,
    Subject,
    place,
    possible,
    unclaimed,
)


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
    """Admit it to this daemon's cache, then serve it. `candidates`: only if asked for."""

    reason: str
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """Join those who wait for a load that is under way here."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reject:
    """Answer this failure."""

    reason: str
    failure: Failure


@dataclass(frozen=True, slots=True)
class Forward:
    """Send it to that instance, which is bound by the intent."""

    instance_id: str
    intent: Intent
    reason: str
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """Read the model from the store, once, and route again with `asked_store`."""

    reason: str


Route = ServeHere | LoadHere | Wait | Reject
FleetRoute = Route | Forward | Ask

_LOADED = ServeHere("a copy is loaded here")
_COMING = Wait("a load of it is under way here")
_COLD = LoadHere("no copy is loaded")
_UNKNOWN = Reject("not registered", Failure(Code.NOT_FOUND, "model not found"))
_UNSEEN = Reject("not known here, and the store does not answer", unheard("model").failure)
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


# --- many daemons


class FleetRequest(Request, Protocol):
    """What routing looks at where there are others.

    `tried`: instances that refused or failed this call, so far and from here. `attempt`: how often
    it was forwarded. `balanced`: its caller spreads its calls over the fleet.
    """

    @property
    def hops(self) -> Hops: ...

    @property
    def tried(self) -> Collection[str]: ...

    @property
    def balanced(self) -> bool: ...

    @property
    def attempt(self) -> int: ...

    @property
    def asked_store(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Weight:
    """What is expected of a model. `worth`: see `placement.Subject`."""

    size_bytes: int
    worth: float = 0.0


class FleetView(View, placement.View, Protocol):
    """What this daemon knows of itself and the others; every answer costs a look-up in memory."""

    @property
    def alone(self) -> bool:
        """Whether this daemon has no fleet: its tables are the store."""

    @property
    def store_answers(self) -> bool: ...

    def record(self, model_id: str) -> ModelRecord | None:
        """From the table, or as the store gave it when it was asked for this call. None also where
        it is `unreadable`."""

    def unreadable(self, model_id: str) -> Failure | None:
        """Why the record that is there cannot be read; None if there is none, or it can be."""

    def peer(self, instance_id: str) -> Peer | None:
        """None: it does not exist (any more)."""

    def my_load_s(self, model_id: str) -> float:
        """What a call would take here now: (calls open here + 1) x the mean of warm answers."""

    def weigh(self, model_id: str, record: ModelRecord) -> Weight: ...

    def record_ms(self, now: float) -> float:
        """Monotonic seconds as the time that records have."""


@dataclass(frozen=True, slots=True)
class RoutingLimits:
    """`load_timeout_s`: an older claim binds nobody. Failures of models used within
    `recent_use_s` count half as long."""

    load_timeout_s: float = 90.0
    failure_expiry_s: float = 900.0
    recent_use_s: float = 180.0
    max_load_failures: int = 3
    most_attempts: int = 8


LIMITS: Final = RoutingLimits()

# What another daemon costs: about as much as a small model's prediction; another zone that again.
_HOP_S: Final = 0.001
_ZONE_S: Final = 0.001
# Below this, latencies say nothing about load.
_LEAST_LATENCY_S: Final = 0.001
# Balanced callers stay unless this instance is so much busier: the others have callers as well.
_LOYALTY: Final = 2.0
# Only where there is nothing else: a copy that is about to go.
_DRAINING_S: Final = 1e6

_ASK = Ask("the table lacks it, and the store was not asked yet")
_SENT_HERE = LoadHere("another daemon chose this instance to load it")
_LAST_CHANCE = LoadHere("it has failed everywhere else, and here not too often")
_WORN_OUT = Reject(
    "forwarded too often",
    Failure(Code.UNAVAILABLE, "no instance took the call", Fault.PEER, retry_after_s=1.0),
)


def _not_here(why: str) -> Reject:
    failure = Failure(Code.UNAVAILABLE, why, Fault.PEER, Reason.NOT_HERE, retry_after_s=0.1)
    return Reject(why, failure)


_NO_COPY = _not_here("no copy here, and none is coming")
_LEAVING = _not_here("this instance is shutting down and loads no more models")
_MISFIT = _not_here("this instance lacks a label that the model's type requires")
_UNHEARD = _not_here("this instance has not heard of the model")


def route_in_fleet(
    view: FleetView,
    request: FleetRequest,
    now: float,
    rng: Rng,
    limits: RoutingLimits = LIMITS,
    explain: bool = False,
) -> FleetRoute:
    """Decide; `now` is monotonic seconds, `rng` gives numbers in [0, 1)."""
    if view.alone:
        return route(view, request, now)
    if request.hops.intent is not Intent.ANY:
        return _bound(view, request, now)
    model_id = request.model_id
    record = view.record(model_id)
    if record is None:
        return _without_record(view, request, _UNKNOWN if view.store_answers else _UNSEEN)
    here = view.is_loaded(model_id) and view.me not in request.tried
    copies = record.loaded_in
    if here and len(copies) < 2:
        return _LOADED
    if request.attempt >= limits.most_attempts:
        return _LOADED if here else _COMING if view.is_coming(model_id) else _WORN_OUT
    holder = _least_loaded(view, request, copies, here, rng)
    if holder == view.me:
        return _LOADED
    if holder:
        candidates = _holders(view, request, copies, here) if explain else ()
        return Forward(holder, Intent.HIT, "the least loaded copy", candidates)
    if view.is_coming(model_id) and view.me not in request.tried:
        return _COMING
    if holder := _coming_to(view, request, record, now, limits):
        return Forward(holder, Intent.HIT, "a copy is coming there")
    return _cold(view, request, record, now, rng, limits, explain)


def _bound(view: FleetView, request: FleetRequest, now: float) -> FleetRoute:
    """A daemon sent it here: here, or refused."""
    model_id = request.model_id
    if view.is_loaded(model_id):
        return _LOADED
    if view.is_coming(model_id):
        return _COMING
    if request.hops.intent is Intent.HIT:
        return _NO_COPY
    record = view.record(model_id)
    if record is None:
        return _without_record(view, request, _UNHEARD)
    if view.draining:
        return _LEAVING
    if failure := view.remembered_failure(model_id, now):
        return Reject("loads of it have failed here", failure)
    if view.fits is not None and view.fits.rank(record.type, view.my_record.labels) is None:
        return _MISFIT
    return _SENT_HERE


def _without_record(view: FleetView, request: FleetRequest, unheard: Reject) -> FleetRoute:
    """It is missing, or its record cannot be read: then what is loaded here answers even so."""
    model_id = request.model_id
    if failure := view.unreadable(model_id):
        if view.is_loaded(model_id) and view.me not in request.tried:
            return _LOADED
        return Reject("its record cannot be read", failure)
    return unheard if request.asked_store or not view.store_answers else _ASK


# --- a copy is loaded


def _least_loaded(
    view: FleetView, request: FleetRequest, copies: Mapping[str, int], here: bool, rng: Rng
) -> str:
    """This instance or the better of two others drawn; "" if none can be asked.

    Two, since loads are known late: if all took the least loaded one, it would be the most loaded.
    """
    count = len(copies)
    if not count:
        return ""
    first = int(rng() * count)
    second = (first + 1 + int(rng() * (count - 1))) % count
    best, load_s = _least_of(view, request, copies, here, (first, second))
    if load_s >= _DRAINING_S and count > 2:
        best, _ = _least_of(view, request, copies, here, None)
    return best


def _least_of(
    view: FleetView,
    request: FleetRequest,
    copies: Mapping[str, int],
    here: bool,
    drawn: tuple[int, int] | None,
) -> tuple[str, float]:
    me, zone = view.me, view.my_record.zone
    best, least_s = "", inf
    if here:
        best, least_s = me, _my_load_s(view, request)
    for index, instance_id in enumerate(copies):
        if (drawn is not None and index not in drawn) or instance_id == me:
            continue
        peer = view.peer(instance_id)
        if peer is None or not peer.reachable or peer.suspect or instance_id in request.tried:
            continue
        load_s = _load_s(peer, zone)
        if load_s < least_s:
            best, least_s = instance_id, load_s
    return best, least_s


def _my_load_s(view: FleetView, request: FleetRequest) -> float:
    load_s = view.my_load_s(request.model_id) / (_LOYALTY if request.balanced else 1.0)
    return load_s + _DRAINING_S if view.draining else load_s


def _load_s(peer: Peer, zone: str) -> float:
    """What a call would take there, as far as is known here."""
    ahead = peer.in_flight + peer.queue_depth + 1
    load_s = ahead * max(peer.latency_s, _LEAST_LATENCY_S) + _HOP_S
    record = peer.record
    if record.zone != zone:
        load_s += _ZONE_S
    return load_s + _DRAINING_S if record.draining else load_s


def _holders(
    view: FleetView, request: FleetRequest, copies: Mapping[str, int], here: bool
) -> tuple[Candidate, ...]:
    """All loaded copies, for an explanation."""
    zone = view.my_record.zone
    mine = [Candidate(view.me, "holds a copy", _my_load_s(view, request))] if here else []
    for instance_id in copies:
        peer = view.peer(instance_id)
        if instance_id in request.tried:
            mine.append(Candidate(instance_id, "was asked already"))
        elif peer is not None:
            load_s = _load_s(peer, zone)
            words = "does not answer" if not peer.answers else "holds a copy"
            mine.append(Candidate(instance_id, words, load_s))
    return tuple(mine)


# --- a copy is coming


def _coming_to(
    view: FleetView, request: FleetRequest, record: ModelRecord, now: float, limits: RoutingLimits
) -> str:
    """The instance to which a copy has been coming longest: there its callers meet."""
    since_ms = view.record_ms(now) - limits.load_timeout_s * 1000
    chosen, oldest_ms = "", inf
    for instance_id, queued_ms in record.instance_ids.items():
        if queued_ms <= since_ms or instance_id in record.loaded_in or instance_id in request.tried:
            continue
        peer = view.peer(instance_id)
        if peer is None or not peer.answers:
            continue
        if (queued_ms, instance_id) < (oldest_ms, chosen):
            chosen, oldest_ms = instance_id, queued_ms
    return chosen


# --- no copy anywhere


def live_failures(
    record: ModelRecord, now_ms: float, limits: RoutingLimits = LIMITS
) -> dict[str, int]:
    """Where loads failed not long ago, and when (ms)."""
    expiry_s = limits.failure_expiry_s
    if now_ms - record.last_used_ms < limits.recent_use_s * 1000:
        expiry_s /= 2
    since_ms = now_ms - expiry_s * 1000
    return {each: at_ms for each, at_ms in record.failed_in.items() if at_ms > since_ms}


def _cold(
    view: FleetView,
    request: FleetRequest,
    record: ModelRecord,
    now: float,
    rng: Rng,
    limits: RoutingLimits,
    explain: bool,
) -> FleetRoute:
    failed = live_failures(record, view.record_ms(now), limits) if record.failed_in else {}
    blocked = view.remembered_failure(request.model_id, now)
    if len(failed) >= limits.max_load_failures:
        return Reject("loads of it have failed", blocked or _load_failed(record, failed))
    weight = view.weigh(request.model_id, record)
    subject = Subject(
        record.type,
        weight.size_bytes,
        weight.worth,
        failed=failed if blocked is None else {*failed, view.me},
        tried=request.tried,
        balanced=request.balanced,
    )
    shared = None if view.store_answers else unclaimed(view, subject, request.model_id)
    placed = shared or place(view, subject, now, rng, explain)
    if placed.instance_id is None:
        return _nowhere(view, subject, placed, record, blocked, now, rng)
    last = request.attempt + 1 == limits.most_attempts  # others may hear a copy that is silent here
    if placed.instance_id == view.me or (last and view.me in possible(view, subject)):
        return LoadHere("nobody else took it" if last else placed.reason, placed.candidates)
    return Forward(placed.instance_id, Intent.LOAD, placed.reason, placed.candidates)


def _nowhere(
    view: FleetView,
    subject: Subject,
    placed: Placement,
    record: ModelRecord,
    blocked: Failure | None,
    now: float,
    rng: Rng,
) -> FleetRoute:
    """Nobody is left. Who is its own last chance may try as often as a daemon alone."""
    if blocked is None and view.me in subject.failed:
        others = [each for each in subject.failed if each != view.me]
        if place(view, replace(subject, failed=others), now, rng).instance_id == view.me:
            return _LAST_CHANCE
    if placed.obstacle is Obstacle.FAILED:
        failed = {each: record.failed_in.get(each, 0) for each in subject.failed}
        return Reject(placed.reason, blocked or _load_failed(record, failed))
    return Reject(placed.reason, _no_place(view, subject, placed.obstacle))


def _load_failed(record: ModelRecord, failed: Mapping[str, int]) -> Failure:
    """The latest failure, whoever had it."""
    latest = max(failed, key=lambda instance_id: (failed[instance_id], instance_id))
    message = record.failure_message(latest) or f"it failed to load on {latest}"
    return Failure(Code.FAILED_PRECONDITION, message, Fault.MODEL, Reason.LOAD_FAILED)


def _no_place(view: FleetView, subject: Subject, obstacle: Obstacle) -> Failure:
    """What to tell the caller, by what kept out those that came closest."""
    if obstacle is Obstacle.LABELS:
        message = f"no running instance has the labels that type {subject.model_type} requires"
        return Failure(Code.FAILED_PRECONDITION, message, Fault.CAPACITY, Reason.LOAD_FAILED)
    if obstacle is Obstacle.SIZE:
        message = f"the model ({subject.size_bytes} bytes) is larger than every instance it may use"
        return Failure(Code.FAILED_PRECONDITION, message, Fault.MODEL, Reason.TOO_LARGE)
    if obstacle is Obstacle.DRAINING and view.draining:
        return _DRAINING.failure
    message = "no instance that may load the model can be asked now"
    return Failure(Code.UNAVAILABLE, message, Fault.CAPACITY, Reason.NO_SPACE, retry_after_s=1.0)
