"""One daemon's models on the request path: where decisions meet doors.

`infer` is the whole walk of a request: one wrapped reply, one pure question, and on a warm hit the
runtime's queue. No task, no future, no copy of the body. What is cold waits in `loading`.
"""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial

import structlog

from modelmesh.domain.fleet import FROM_CALLER, Hops
from modelmesh.errors import Code, Failure, Fault, MeshError, Reason
from modelmesh.policy.routing import Ask, FleetRoute, Forward, Reject, ServeHere, route
from modelmesh.registry.models import ModelChange
from modelmesh.runtime.door import Part
from modelmesh.serving.flight import Waiter
from modelmesh.serving.parts import Parts
from modelmesh.serving.served import Served
from modelmesh.serving.status import Readiness
from modelmesh.serving.view import View
from modelmesh.serving.walk import PREDICTS, Walks
from modelmesh.wire import kinds
from modelmesh.wire.transport import Call

log = structlog.get_logger("serving")

_BUSY = Failure(
    Code.RESOURCE_EXHAUSTED,
    "too many calls are open",
    Fault.CAPACITY,
    Reason.OVERLOADED,
    retry_after_s=0.1,
)
_MODEL_BUSY = Failure(
    Code.RESOURCE_EXHAUSTED,
    "too many calls of this model are in flight",
    Fault.CAPACITY,
    Reason.OVERLOADED,
    retry_after_s=0.1,
)
_LATE = Failure(
    Code.DEADLINE_EXCEEDED,
    "the deadline had passed when the call was read",
    reason=Reason.DEADLINE,
)
_LEFT = Failure(Code.CANCELLED, "the caller left")
_BROKEN = Failure(Code.INTERNAL, "internal error", Fault.PEER, executed=True)
_EXPLAIN = kinds.V1_EXPLAIN

Decide = Callable[[Served, float], FleetRoute]


class Instance:
    """The models of one daemon, as the faces see them. Also the runtime's listener."""

    def __init__(
        self,
        parts: Parts,
        view: View | None = None,
        decide: Decide | None = None,
        *,
        max_concurrent_calls: int,
        inflight_limit: Callable[[str], int] = lambda _model_id: -1,
        log_each_invoke: bool = False,
    ) -> None:
        """`view` and `decide`: where a call goes; a daemon alone if they are left out.

        `inflight_limit(model_id)`: calls in flight that one copy takes; negative: any number.
        """
        self._models = parts.models
        self._copies = parts.copies
        self._runtime = parts.runtime
        self._failures = parts.failures
        self._loader = parts.loader
        self._metrics = parts.metrics
        self._clock = parts.clock
        self._most_open = max_concurrent_calls
        self._inflight_limit = inflight_limit
        self.log_each_invoke = log_each_invoke  # may change while we run
        self._open = 0
        self.calls_ended = 0
        self._idle: asyncio.Event | None = None
        self._view = view or View(parts)
        self._decide: Decide = decide or partial(route, self._view)
        self._walks: Walks | None = None
        self._unsubscribe = self._models.subscribe(self._registry_changed)

    # --- the walk of a request

    def join(self, walks: Walks) -> None:
        """There are others; to be said before the first call."""
        self._walks = walks

    def infer(
        self, model_id: str, call: Call, hops: Hops = FROM_CALLER, balanced: bool = False
    ) -> None:
        """Answer the call on this model, loading it if need be. Never raises.

        `hops`: what another daemon said of it. `balanced`: its caller spreads its calls.
        """
        now = self._clock()
        served = Served(self, model_id, call, now, hops, balanced)
        self._open += 1
        if self._open > self._most_open:
            served.finish(_BUSY)
        elif now >= call.deadline:
            served.finish(_LATE)  # what was read after a pause: nobody waits for it
        else:
            self._route(served, now)

    def route_again(self, served: Served) -> None:
        """It was tried elsewhere, or in vain (from `Walks`)."""
        if not served.gone:
            self._route(served, self._clock())

    def _route(self, served: Served, now: float) -> None:
        decision = self._decide(served, now)
        if isinstance(decision, ServeHere):
            self._serve(served, now)
        elif self._walks is None:
            self._load_or_reject(served, decision)
        elif isinstance(decision, Forward):
            self._watch(served)
            self._walks.forward(served, decision)
        elif isinstance(decision, Ask):
            self._watch(served)
            self._walks.ask_store(served)
        elif isinstance(decision, Reject):
            self._walks.rejected(served, decision.failure)
        else:
            self._load_or_reject(served, decision)

    def _load_or_reject(self, served: Served, decision: FleetRoute) -> None:
        if isinstance(decision, Reject):
            served.finish(decision.failure)
        else:
            self._wait(served)

    def _watch(self, served: Served) -> None:
        """Hear of it if the caller leaves (at once, if it has left already)."""
        if not served.watched:
            served.watched = True
            served.when_gone(partial(self._left, served))

    def _serve(self, served: Served, now: float) -> None:
        copy = self._copies.acquire(served.model_id, now)
        if copy is None:
            self._route(served, now)
            return
        served.copy = copy
        served.invoked = now
        if not served.watched:  # as `_watch`, without a frame: this is every warm call
            served.watched = True
            served.when_gone(partial(self._left, served))
        if 0 <= self._inflight_limit(served.model_id) < copy.in_use:
            served.finish(_MODEL_BUSY)
            return
        call = served.call
        try:
            self._runtime.infer(
                served.model_id, Call(call.kind, call.body, served, call.metadata, call.deadline)
            )
        except Exception:  # else the model would stay in use for ever
            log.exception("the runtime broke", model=served.model_id, kind=call.kind)
            served.finish(_BROKEN)

    def _wait(self, served: Served) -> None:
        try:
            record = self._models.get(served.model_id)
        except MeshError as error:
            served.finish(error.failure)
            return
        if record is None:
            served.finish(Failure(Code.NOT_FOUND, "model not found"))
            return
        failed = served.finish if self._walks is None else partial(self._walks.not_loaded, served)
        waiter = Waiter(lambda: self._serve_waiting(served), failed, len(served.call.body))
        served.waiter = waiter
        self._loader.wait(served.model_id, record, waiter, served.call.deadline)
        self._watch(served)

    def _serve_waiting(self, served: Served) -> None:
        now = self._clock()
        served.waiter = None
        if served.gone:  # it left while others of the same load were answered
            return
        self._metrics.cache_miss_ms.observe((now - served.started) * 1000)
        self._serve(served, now)

    def _left(self, served: Served) -> None:
        """Nobody waits for the answer; the runtime, if it has the call, is told so as well."""
        if served.copy is None and served.waiter is not None:
            self._loader.leave(served.model_id, served.waiter)
        served.finish(_LEFT)

    def ended(self, served: Served, code: str, response_bytes: int) -> None:
        """A call has its answer (from `Served`)."""
        now = self._clock()
        call, copy, metrics = served.call, served.copy, self._metrics
        self._open -= 1
        self.calls_ended += 1
        if served.waiter is not None:  # it was answered elsewhere, or left
            self._loader.leave(served.model_id, served.waiter)
        if served.has_walked:
            served.walk.let_go()
        if copy is not None:
            effects = self._copies.release(copy, now)
            if effects:
                self._loader.carry_out(effects)
            took_s = now - served.invoked
            copy.busy_s += took_s
            self._view.answered(took_s)
            metrics.invoke(call.kind, code, took_s)
            if self.log_each_invoke:
                log.info(
                    "model invoked", model=served.model_id, method=call.kind.rpartition("/")[2],
                    code=code, took_s=round(took_s, 6),
                )  # fmt: skip
            if call.kind in PREDICTS:
                metrics.kserve("predict", served.model_id, took_s)
            elif call.kind == _EXPLAIN:
                metrics.kserve("explain", served.model_id, took_s)
        metrics.request(call.kind, code, now - served.started, len(call.body), response_bytes)
        if self._idle is not None and self._open == 0:
            self._idle.set()

    # --- what the faces ask

    @property
    def draining(self) -> bool:
        """Whether this daemon is leaving and loads no more models."""
        return self._view.draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._view.draining = draining

    def is_registered(self, model_id: str) -> bool:
        return model_id in self._models

    def ready(self, model_id: str) -> Readiness:
        """Registered and without a remembered load failure; asking never loads."""
        if model_id not in self._models:
            return Readiness(known=False, ready=False)
        errors = self._failures.errors(model_id, self._clock())
        if errors and not self._copies.is_loaded(model_id):
            return Readiness(known=True, ready=False, detail=errors[0][1])
        return Readiness(known=True, ready=True)

    def names(self, prefix: str = "") -> Iterator[str]:
        return self._models.names(prefix)

    @property
    def open_calls(self) -> int:
        return self._open

    # --- what the registry and the runtime tell

    def _registry_changed(self, changes: list[ModelChange]) -> None:
        for change in changes:
            if not change.exists or self._is_other(change.model_id):
                self._loader.forget(change.model_id)

    def _is_other(self, model_id: str) -> bool:
        """Whether something else is registered under this name than is here, or is coming: a store
        that is restored to what it was brings such a record, and nothing went before it."""
        source = self._loader.source(model_id)
        if source is None:
            return False
        try:
            record = self._models.get(model_id)
        except MeshError:
            return False
        return record is not None and record.source != source

    def model_lost(self, model_id: str, failure: Failure) -> None:
        log.warning("model lost", model=model_id, failure=failure.message)
        self._failures.record_loss(model_id, failure, self._clock())
        self._loader.lost(model_id)

    def model_resized(self, model_id: str, size_bytes: int) -> None:
        self._loader.carry_out(self._copies.resized(model_id, max(size_bytes, 1), self._clock()))

    def overhead_changed(self, overhead_bytes: int) -> None:
        self._loader.carry_out(self._copies.overhead(overhead_bytes, self._clock()))

    def took(self, part: Part, model_id: str, seconds: float) -> None:
        if part is Part.QUEUE:
            self._metrics.queue_ms.observe(seconds * 1000)
        elif part is Part.SIZING:
            self._metrics.sizing_ms.observe(seconds * 1000)
        else:
            self._metrics.kserve(part.value, model_id, seconds)

    # --- the end

    async def drain(self, grace_s: float) -> None:
        """Load nothing new, and wait (bounded) until no call is open."""
        self.draining = True
        self._idle = asyncio.Event()
        if self._open:
            try:
                async with asyncio.timeout(grace_s):
                    await self._idle.wait()
            except TimeoutError:
                pass
        self._unsubscribe()
        await self._loader.close()
