"""How a model gets into memory and out of it: the cache's effects, carried out at the doors.

    wait -> claim -> fetch (door 4) -> a load slot -> admit -> room -> load (door 3) -> waiters

A slot is taken before the cache is asked: a burst of cold models must not evict for all of them at
once what the first few could have left alone.

One flight per model, whoever asks. What the cache decides is carried out here and each end is
reported back to it; that is the only way in which the cache learns of the world. A registration
that goes away takes its flight along; a new one under the same name waits for the old one's end,
so nothing loads with outdated facts.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf

import structlog

from modelmesh.cache.copies import Copies
from modelmesh.cache.decisions import Effect, Load, Refuse, State, Unload
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Failure, Fault, MeshError, Reason
from modelmesh.observe.metrics import Metrics
from modelmesh.observe.tasks import spawn, stop
from modelmesh.runtime.door import LoadedModel, LoadRequest, Runtime
from modelmesh.runtime.queue import LoadQueue, Priority
from modelmesh.serving.claims import Alone, Claims
from modelmesh.serving.failures import LoadFailures
from modelmesh.serving.flight import Flight, Waiter
from modelmesh.serving.parting import Leave, Partings
from modelmesh.serving.unloading import Persistence, Unloads
from modelmesh.storage.door import Storage

log = structlog.get_logger("serving")

_UNREGISTERED = Failure(Code.NOT_FOUND, "model not found")
_LATE = Failure(Code.DEADLINE_EXCEEDED, "deadline exceeded while the model was loading")
_CLOSING = Failure(
    Code.UNAVAILABLE, "this daemon is shutting down", Fault.CAPACITY, Reason.DRAINING, 1.0
)
_BROKEN = Failure(Code.INTERNAL, "internal error", Fault.PEER, executed=True)


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """Bounds on what waits for loads."""

    most_flights: int
    waiting_bytes: int
    space_wait_s: float
    unloads: Persistence = field(default_factory=Persistence)


class Loader:
    """Carries out what the cache decides. Everything runs on the daemon's loop."""

    def __init__(
        self,
        copies: Copies,
        runtime: Runtime,
        storage: Storage,
        failures: LoadFailures,
        metrics: Metrics,
        limits: LoadLimits,
        clock: Callable[[], float],
        claims: Claims | None = None,
    ) -> None:
        """`claims`: the fleet, if there is one."""
        self._copies = copies
        self._claims: Claims = claims or Alone()
        self._runtime = runtime
        self._storage = storage
        self._failures = failures
        self._metrics = metrics
        self._limits = limits
        self._clock = clock
        self._flights: dict[str, Flight] = {}
        self._sources: dict[str, tuple[str, str, str]] = {}  # of the copies that are loaded
        self._gone: dict[str, asyncio.Future[Failure | None]] = {}  # who wait for an unload
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.slots = 1  # loads that may run at once
        self._slots = LoadQueue(1, limits.most_flights)
        self._unloads = Unloads(self, copies, runtime, storage, metrics, limits.unloads, clock)
        self._partings = Partings(self)

    def open(self, load_concurrency: int) -> None:
        """So many loads may run at once; to be said before the first."""
        self._slots = LoadQueue(load_concurrency, self._limits.most_flights)
        self.slots = load_concurrency

    def part_by(self, leave: Leave) -> None:
        """Whom to ask before a copy goes that others count on."""
        self._partings.leave = leave

    @property
    def under_way(self) -> int:
        """Models on their way into memory, those that wait for a slot included."""
        return len(self._flights)

    @property
    def queued(self) -> int:
        """Loads that wait for a slot."""
        return self._slots.waiting

    # --- waiting for a model

    def is_coming(self, model_id: str) -> bool:
        flight = self._flights.get(model_id)
        return flight is not None and not flight.dropped

    def source(self, model_id: str) -> tuple[str, str, str] | None:
        """What is here, or on its way, was loaded from; None if there is nothing."""
        flight = self._flights.get(model_id)
        if flight is not None and not flight.dropped:
            return flight.record.source
        return self._sources.get(model_id)

    def wait(
        self, model_id: str, record: ModelRecord, waiter: Waiter, deadline: float = inf,
        *, background: bool = False, further: bool = False,
    ) -> None:  # fmt: skip
        """Get the model loaded; the waiter is told how it went, at the latest at its deadline.

        `further`: though others have a copy.
        """
        failure = self._full(model_id, waiter)
        if failure is not None:
            waiter.failed(failure)
            return
        if self._partings.withdraw(model_id) is not None:  # it is here still
            self._stay(model_id)
            waiter.ready()  # before others make room in its stead, so that it is in use
            self.carry_out(self._copies.due(self._clock()))
            return
        flight = self._flights.get(model_id)
        if flight is None or flight.dropped:
            flight = self._depart(model_id, record, flight, background, further)
        elif flight.background and not background and not flight.begun:
            flight = self._hasten(flight)
        flight.waiters[waiter] = None
        self._waiting_bytes += waiter.held_bytes
        if deadline != inf:
            loop = asyncio.get_running_loop()
            waiter.timer = loop.call_at(deadline, self._late, flight, waiter)

    def leave(self, model_id: str, waiter: Waiter) -> None:
        """This waiter no longer cares; the last one to leave drops a load that has not begun."""
        flight = self._flights.get(model_id)
        if flight is None or waiter not in flight.waiters:
            return
        del flight.waiters[waiter]
        self._waiting_bytes -= waiter.held_bytes
        if waiter.timer is not None:
            waiter.timer.cancel()
        if not flight.wanted and not flight.begun:
            self._drop(flight)

    def _late(self, flight: Flight, waiter: Waiter) -> None:
        self.leave(flight.model_id, waiter)
        waiter.failed(_LATE)

    def _full(self, model_id: str, waiter: Waiter) -> Failure | None:
        if self._closed:
            return _CLOSING
        if self._waiting_bytes + waiter.held_bytes > self._limits.waiting_bytes:
            return _overloaded("requests that wait for loads hold too many bytes already")
        if model_id not in self._flights and len(self._flights) >= self._limits.most_flights:
            return _overloaded("too many models wait for a load already")
        return None

    # --- a flight

    def _depart(
        self, model_id: str, record: ModelRecord, before: Flight | None, background: bool,
        further: bool,
    ) -> Flight:  # fmt: skip
        turn = asyncio.get_running_loop().create_future()
        flight = Flight(model_id, record, turn, background, further)
        self._flights[model_id] = flight
        predecessor = before.task if before is not None else None
        flight.task = spawn(self._fly(flight, predecessor), f"load {model_id}")
        return flight

    def _hasten(self, flight: Flight) -> Flight:
        """A caller waits for what was to load in the background: it starts again, in his place."""
        waiters, flight.waiters = flight.waiters, {}
        self._drop(flight)
        hastened = self._depart(
            flight.model_id, flight.record, flight, background=False, further=flight.further
        )
        hastened.waiters = waiters
        return hastened

    async def _fly(self, flight: Flight, predecessor: asyncio.Task[None] | None) -> None:
        started = self._clock()
        try:
            if predecessor is not None:
                await asyncio.wait([predecessor])
            self._arrive(flight, await self._bring(flight), started)
        except MeshError as error:
            self._fail(flight, error.failure)
        except asyncio.CancelledError:
            self._abandon(flight)
            raise
        except Exception:  # a door that breaks must not leave anybody waiting, nor its room taken
            log.exception("a load broke", model=flight.model_id)
            self._fail(flight, _BROKEN)
        finally:
            if self._flights.get(flight.model_id) is flight:
                del self._flights[flight.model_id]

    async def _bring(self, flight: Flight) -> LoadedModel:
        try:
            return await self._load(flight)
        except BaseException as error:
            await self._storage.release(flight.model_id)  # also what was fetched by half
            if isinstance(error, MeshError) and error.failure.code is Code.INVALID_ARGUMENT:
                raise MeshError(_unloadable(error.failure)) from error
            raise

    async def _load(self, flight: Flight) -> LoadedModel:
        record, model_id = flight.record, flight.model_id
        flight.claimed = True  # also where this is cancelled while the claim is being written
        await self._claims.claim(model_id, further=flight.further)
        local = await self._storage.fetch(model_id, record.path, record.key)
        request = LoadRequest(
            model_id, record.type, local.path, record.key, local.size_bytes, flight.background,
            _offence(record),
        )  # fmt: skip
        priority = Priority.BACKGROUND if flight.background else Priority.REQUEST
        async with self._slots.turn(priority):
            self._admit(flight, self._runtime.predict_size(request))
            await self._turn(flight)
            flight.begun = True
            return await self._runtime.load(request)

    def _admit(self, flight: Flight, size_bytes: int) -> None:
        decision = self._copies.admit(
            flight.model_id,
            size_bytes,
            self._clock(),
            deadline=self._last_deadline(flight),
            background=flight.background,
            model_type=flight.record.type,
        )
        self.carry_out(decision.effects)
        if decision.failure is not None:
            raise MeshError(decision.failure)

    async def _turn(self, flight: Flight) -> None:
        """Wait for room, within the operator's bound."""
        try:
            async with asyncio.timeout(self._limits.space_wait_s):
                await flight.turn
        except TimeoutError:
            raise MeshError(_no_space(self._limits.space_wait_s)) from None

    def _last_deadline(self, flight: Flight) -> float:
        deadlines = [w.timer.when() if w.timer is not None else inf for w in flight.waiters]
        return max(deadlines, default=inf)

    def _arrive(self, flight: Flight, loaded: LoadedModel, started: float) -> None:
        model_id, now = flight.model_id, self._clock()
        self._failures.forget(model_id)
        self._metrics.load_ms.observe(loaded.load_s * 1000)
        self._metrics.load_queue_ms.observe(max(now - started - loaded.load_s, 0.0) * 1000)
        self._metrics.model_bytes.observe(loaded.size_bytes)
        effects = self._copies.loaded(model_id, max(loaded.size_bytes, 1), loaded.load_s, now)
        here = self._copies.is_loaded(model_id)
        if here:
            self._sources[model_id] = flight.record.source
            self._claims.loaded(model_id, loaded.load_s)
        else:
            self._claims.gone(model_id)
        log.info(
            "model loaded", model=model_id, size_bytes=loaded.size_bytes, tier=loaded.tier,
            load_s=round(loaded.load_s, 4), reason=loaded.reason,
        )  # fmt: skip
        self._end(flight, None if here else _no_space(0.0))
        self.carry_out(effects)

    def _fail(self, flight: Flight, failure: Failure) -> None:
        model_id, now = flight.model_id, self._clock()
        blamed = False
        if flight.begun or failure.reason is Reason.LOAD_FAILED:
            self._metrics.load_failures.inc()
            log.warning("model failed to load", model=model_id, failure=failure.message)
            blamed = _speaks_of_the_model(failure)
        if blamed:
            self._failures.record(model_id, failure, now)
            self._claims.failed(model_id, failure.message)
        else:
            self._unclaim(flight)
        self._end(flight, failure)
        self._clear(model_id, now)

    def _abandon(self, flight: Flight) -> None:
        """The flight was dropped or the daemon closes: whoever still waits is told."""
        self._unclaim(flight)
        self._end(flight, flight.dropped or _CLOSING)
        if flight.begun or not flight.dropped:
            self._clear(flight.model_id, self._clock())

    def _unclaim(self, flight: Flight) -> None:
        if flight.claimed:
            self._claims.gone(flight.model_id)

    def _clear(self, model_id: str, now: float) -> None:
        if self._copies.state(model_id) is State.LOADING:
            self.carry_out(self._copies.load_failed(model_id, now))
        elif self._copies.state(model_id) is State.WAITING:
            self.carry_out(self._copies.withdraw(model_id, now))

    def _end(self, flight: Flight, failure: Failure | None) -> None:
        """Tell everybody who waits; a load that ended well is served from before it can go."""
        if self._flights.get(flight.model_id) is flight:
            del self._flights[flight.model_id]
        for waiter in flight.take_all():
            self._waiting_bytes -= waiter.held_bytes
            if failure is None:
                waiter.ready()
            else:
                waiter.failed(failure)

    def _drop(self, flight: Flight, why: Failure = _UNREGISTERED) -> None:
        """End a flight early. What it holds goes back at once, so that no later decision of the
        cache is taken for its successor's; a load that the runtime has begun ends first."""
        flight.dropped = why
        if flight.task is not None:
            flight.task.cancel()
        if not flight.begun:
            self._clear(flight.model_id, self._clock())

    # --- effects

    def carry_out(self, effects: Iterable[Effect]) -> None:
        """Begin what the cache wants done, in its order."""
        for effect in effects:
            if isinstance(effect, Load):
                self._give_turn(effect.model_id, None)
            elif isinstance(effect, Refuse):
                self._give_turn(effect.model_id, effect.failure)
            elif not self.is_coming(effect.model_id) and self._partings.must_ask(effect):
                self._partings.ask(effect)
            else:
                self.begin_unload(effect)
        self._set_timer()

    def begin_unload(self, effect: Unload) -> None:
        """Nothing is in the way of this unload."""
        self._let_go(effect.model_id)
        spawn(self._unloads.run(effect), f"unload {effect.model_id}")

    def spare(self, model_id: str) -> None:
        """The copy here, which was about to go, stays; its room comes from others."""
        self._stay(model_id)
        self.carry_out(self._copies.due(self._clock()))

    def _stay(self, model_id: str) -> None:
        copy = self._copies.get(model_id)
        assert copy is not None  # whatever ends a copy withdraws it from those that ask
        log.info("model spared", model=model_id)
        self._copies.spared(model_id, self._clock())
        self._claims.loaded(model_id, copy.load_s)

    def parted_in_vain(self, model_id: str) -> None:
        """It may have been taken out of the record though it stays."""
        copy = self._copies.get(model_id)
        if copy is not None and self._copies.is_loaded(model_id):
            self._claims.loaded(model_id, copy.load_s)

    def _let_go(self, model_id: str) -> None:
        """No call comes to this copy any more."""
        self._sources.pop(model_id, None)
        self._claims.gone(model_id)

    def _give_turn(self, model_id: str, failure: Failure | None) -> None:
        flight = self._flights.get(model_id)
        if flight is None or flight.turn.done():
            # Its flight was dropped between the decision and now: give the place back.
            if failure is None:
                self.carry_out(self._copies.load_failed(model_id, self._clock()))
        elif failure is None:
            flight.turn.set_result(None)
        else:
            flight.turn.set_exception(MeshError(failure))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._copies.next_due()
        if due != inf:
            self._timer = asyncio.get_running_loop().call_at(due, self._due)

    def _due(self) -> None:
        self._timer = None
        self.carry_out(self._copies.due(self._clock()))

    # --- going away

    async def unload(self, model_id: str) -> bool:
        """Unload after the last call, and wait for it; False if the model was not loaded.

        `MeshError` where the runtime does not let go of it.
        """
        self._go_unasked(model_id)
        if not self._copies.is_loaded(model_id):
            return False
        gone = self._gone.setdefault(model_id, asyncio.get_running_loop().create_future())
        self.carry_out(self._copies.unload(model_id, self._clock()))
        await asyncio.wait([gone])  # bounded by the timeouts of its last calls and of its unload
        failure = gone.result()
        if failure is not None:
            raise MeshError(failure)
        return True

    def _go_unasked(self, model_id: str) -> None:
        effect = self._partings.withdraw(model_id)
        if effect is not None:
            self.begin_unload(effect)

    def unload_ended(self, model_id: str, failure: Failure | None) -> None:
        """Tell whoever waits for it."""
        gone = self._gone.pop(model_id, None)
        if gone is not None and not gone.done():
            gone.set_result(failure)

    def forget(self, model_id: str) -> None:
        """The model is no longer registered, or under this name there is another now."""
        flight = self._flights.get(model_id)
        if flight is not None and not flight.dropped:
            self._drop(flight)
        self._failures.forget(model_id)
        self._go_unasked(model_id)
        self.carry_out(self._copies.forget(model_id, self._clock()))

    def lost(self, model_id: str) -> None:
        """The runtime no longer holds the model, and its memory is free."""
        self._partings.withdraw(model_id)
        if self._copies.state(model_id) in (State.LOADED, State.UNLOADING):
            self._let_go(model_id)
            self.carry_out(self._copies.lost(model_id, self._clock()))
            spawn(self._storage.release(model_id), f"release {model_id}")
            self.unload_ended(model_id, None)

    def leave_off(self) -> None:
        """This daemon leaves: no copy goes any more for what would load with nobody waiting."""
        for flight in list(self._flights.values()):
            if flight.background and not (flight.begun or flight.dropped):
                self._drop(flight, _CLOSING)

    async def close(self) -> None:
        """End every flight; whoever waits is told to try elsewhere."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self._partings.close()
        await self._unloads.close()
        await stop(*(flight.task for flight in list(self._flights.values())))


def _speaks_of_the_model(failure: Failure) -> bool:
    """Whether a failed load is held against its model: not where there was no host for it."""
    began = failure.executed or failure.code is not Code.UNAVAILABLE
    return began or failure.reason is Reason.LOAD_FAILED


def _unloadable(failure: Failure) -> Failure:
    """What no door here takes, though it is registered (by another system, say): whoever calls the
    model is not to blame."""
    return Failure(Code.FAILED_PRECONDITION, failure.message, Fault.MODEL, Reason.LOAD_FAILED)


def _offence(record: ModelRecord) -> str:
    """What is held against the model before it is loaded: elsewhere, it may have cost a host."""
    return "its load failed on another daemon" if record.failed_in else ""


def _overloaded(message: str) -> Failure:
    return Failure(
        Code.RESOURCE_EXHAUSTED, message, Fault.CAPACITY, Reason.OVERLOADED, retry_after_s=1.0
    )


def _no_space(waited_s: float) -> Failure:
    message = (
        f"no room became free within {waited_s:g} s"
        if waited_s
        else "the model grew beyond the room that is left"
    )
    return Failure(Code.UNAVAILABLE, message, Fault.CAPACITY, Reason.NO_SPACE, retry_after_s=5.0)
