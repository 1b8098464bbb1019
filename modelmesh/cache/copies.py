"""This daemon's memory as a state machine: events in, effects (Load, Unload, Refuse) out.

    NEW -> WAITING -> LOADING -> LOADED -> UNLOADING -> NEW

`admit` puts a model into the queue for room; its Load is emitted when its reservation fits, at
once or from the event that makes room. The shell carries effects out in order and reports every
end: `loaded` or `load_failed` for a Load, `unloaded` for an Unload (`lost` instead of either when
the host is gone), or `unload_failed`: the copy then stays on its way out and keeps its bytes, as
good as gone from the capacity until `unloaded` or `lost` comes after all. An Unload that has not
begun may be taken back (`spared`). Calls on a copy run between `acquire` and `release`. `next_due`
tells when `due` has to be called though nothing happened.

What always holds:
* loading + loaded + unloading + stuck reservations + overhead <= capacity, except for a debt that
  was only learnt (see ledger); a debt is paid before anything is admitted.
* A copy in use is never unloaded: one that must go takes no more calls and is unloaded after the
  last. One in its minimum residency (ten times its own load time) goes for a debt only, and so
  does one that is never to go (`keep_by`): a debt that is not paid costs more than one model.
* One Load at a time for a model; none while an earlier copy of it is on its way out.

There is no clock and no I/O here: `now` is the caller's monotonic time in seconds, and no event
may carry an earlier one than the event before.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from math import inf

from cachetools import LRUCache

from modelmesh.cache import refusals
from modelmesh.cache.admission import Plan, plan, take
from modelmesh.cache.copy import Copy, Remembered, Wanted
from modelmesh.cache.costs import TypeCosts, median_of, with_load
from modelmesh.cache.decisions import (
    Decision,
    Effect,
    Explanation,
    Refuse,
    State,
    Unload,
    Verdict,
    Why,
)
from modelmesh.cache.explaining import candidates
from modelmesh.cache.ledger import Ledger
from modelmesh.cache.queue import Queue
from modelmesh.cache.rates import NEVER, rate_per_s
from modelmesh.cache.residents import Residents
from modelmesh.errors import Failure
from modelmesh.policy.eviction import POLICIES
from modelmesh.policy.scaling import Keeping, weighted

Effects = tuple[Effect, ...]

# A newly loaded model stays for at least so many times its own load time: a cache that is too
# small then spends at most a tenth of its time loading, and asks its callers to wait.
RESIDENCY_LOADS = 10
_REMEMBERED = 100_000
# With more than this share of the capacity free, one more model evicts nothing.
_SPARE_SHARE = 20
_NOTHING_KNOWN = Remembered(NEVER, 0, ())


class Copies:
    """The models in this daemon's memory, and those that wait for a place."""

    def __init__(
        self,
        capacity_bytes: int,
        policy: str = "gdsf",
        *,
        half_life_s: float = 600.0,
        max_waiting: int = 1024,
        remembered: int = _REMEMBERED,
    ) -> None:
        """`policy` is a name of policy.eviction; `remembered` bounds the memory of models gone."""
        self.ledger = Ledger(capacity_bytes)
        self._half_life_s = half_life_s
        self._max_waiting = max_waiting
        self._copies: dict[str, Copy] = {}
        self._residents = Residents(POLICIES[policy], half_life_s)
        self._queue = Queue()
        self._memory: LRUCache[str, Remembered] = LRUCache(remembered)
        self._types = TypeCosts()
        self._pressed = False  # somebody waits, or there is a debt: a release may matter

    def keep_by(self, keeping: Callable[[str], Keeping]) -> None:
        """How an eviction is to treat a model here; asked when victims are chosen."""
        self._residents.keeping = keeping

    # --- looking

    def state(self, model_id: str) -> State:
        copy = self._copies.get(model_id)
        if copy is not None:
            return copy.state
        return State.WAITING if model_id in self._queue else State.NEW

    def is_loaded(self, model_id: str) -> bool:
        """Whether the model takes calls."""
        copy = self._copies.get(model_id)
        return copy is not None and copy.state is State.LOADED

    def is_coming(self, model_id: str) -> bool:
        """Whether its load is under way or waits for room (and will be of use when it ends)."""
        copy = self._copies.get(model_id)
        loading = copy is not None and copy.state is State.LOADING and copy.leaving is None
        return loading or model_id in self._queue

    def get(self, model_id: str) -> Copy | None:
        """The copy, in whatever state, to read."""
        return self._copies.get(model_id)

    def __iter__(self) -> Iterator[Copy]:
        """Every copy that holds a reservation."""
        return iter(self._copies.values())

    def __len__(self) -> int:
        return len(self._copies)

    @property
    def waiting(self) -> int:
        """Admissions that wait for room."""
        return len(self._queue)

    def waiting_ids(self) -> Iterator[str]:
        """In the order in which they will be served."""
        return (wanted.model_id for wanted in self._queue)

    def known_bytes(self, model_id: str) -> int:
        """What the model weighs, or weighed when it was here last; 0 if it never was."""
        copy = self._copies.get(model_id)
        return copy.size_bytes if copy is not None else self._size_of(model_id, 0)

    def oldest_use(self) -> float:
        """When the copy longest unused was last used; inf without copies."""
        return self._residents.oldest_use()

    def worth(self, model_id: str, now: float) -> float:
        """Seconds of loading saved per second and byte by keeping it; 0 if it is not loaded."""
        copy = self._copies.get(model_id)
        if copy is None or copy.state is not State.LOADED:
            return 0.0
        self._residents.settle()
        return self._worth(copy, now)

    def rate_per_s(self, model_id: str, now: float) -> float:
        """How often it is used, lately; 0 if it is not loaded."""
        copy = self._copies.get(model_id)
        return rate_per_s(copy.use_level, now, self._half_life_s) if copy is not None else 0.0

    def victim_worth(self, now: float) -> float:
        """The worth of what would go next if one more came; 0 while there is room to spare."""
        if self.ledger.free_bytes * _SPARE_SHARE > self.ledger.capacity_bytes:
            return 0.0
        self._residents.settle()
        victim = next(self._residents.evictable(now), None)
        return self._worth(victim, now) if victim is not None else 0.0

    # --- admission

    def admit(
        self,
        model_id: str,
        size_bytes: int,
        now: float,
        *,
        deadline: float = inf,
        background: bool = False,
        model_type: str = "",
    ) -> Decision:
        """Get the model loaded, as soon as there is room; the effects are in the decision.

        `size_bytes` is an estimate, at least 1; what a former load measured overrules it. A
        deadline (monotonic seconds) that cannot be met refuses; keeping it is up to the caller,
        who calls `withdraw` when nobody waits any more. Joins a load under way or waiting.
        """
        wanted = Wanted(model_id, model_type, self._size_of(model_id, size_bytes), background)
        decision, found = self._decide(wanted, now, deadline)
        if found is not None:
            self._queue.add(wanted)
            self._apply(found, now)
        return decision

    def explain(
        self,
        model_id: str,
        size_bytes: int,
        now: float,
        *,
        deadline: float = inf,
        background: bool = False,
        model_type: str = "",
        most: int = 20,
    ) -> Explanation:
        """What `admit` would answer, and at least the `most` first in the order of eviction."""
        wanted = Wanted(model_id, model_type, self._size_of(model_id, size_bytes), background)
        decision = self._decide(wanted, now, deadline)[0]
        victims = {effect.model_id for effect in decision.effects if isinstance(effect, Unload)}
        self._residents.settle()
        order = candidates(self._residents, victims, self._worth, most, now)
        return Explanation(self.state(model_id), decision, order)

    def withdraw(self, model_id: str, now: float) -> Effects:
        """Nobody waits for it any more: drop it if its load has not been emitted."""
        self._queue.remove(model_id)
        return self._pump(now)

    # --- events of loads and unloads

    def loaded(self, model_id: str, measured_bytes: int, load_s: float, now: float) -> Effects:
        """Its load has ended well, took `load_s` and weighs so much (at least 1 byte)."""
        copy = self._expect(model_id, State.LOADING)
        self.ledger.resize(copy, measured_bytes)
        self.ledger.move(copy, State.LOADED)
        self._types.add(copy.model_type, load_s)
        copy.measured_bytes = measured_bytes
        copy.loads_s = with_load(copy.loads_s, load_s)
        copy.load_s = median_of(copy.loads_s)
        copy.last_used = now
        copy.young_until = now + RESIDENCY_LOADS * load_s
        self._residents.add(copy, now)
        if copy.leaving is not None:
            return (*self._retire(copy, copy.leaving), *self._pump(now))
        return self._pump(now, grown=copy)

    def load_failed(self, model_id: str, now: float) -> Effects:
        """Its load has ended without a model, or was dropped before it began."""
        self._drop(self._expect(model_id, State.LOADING))
        return self._pump(now)

    def unloaded(self, model_id: str, now: float) -> Effects:
        """Its unload has ended; its memory is free."""
        self._drop(self._expect(model_id, State.UNLOADING))
        return self._pump(now)

    def spared(self, model_id: str, now: float) -> None:
        """Its unload has not begun and is not to, and nobody waits for it: it takes calls again,
        as if used just now. `due` is to be called next: its room must come from others."""
        copy = self._expect(model_id, State.UNLOADING)
        self.ledger.move(copy, State.LOADED)
        copy.leaving = None
        self._residents.add(copy, now)

    def unload_failed(self, model_id: str, now: float) -> Effects:
        """Its unload was tried often enough: nobody is to wait for its bytes. Said once."""
        self.ledger.stick(self._expect(model_id, State.UNLOADING))
        refused = self._refuse(model_id, refusals.stuck())
        return (*refused, *self._refuse_hopeless(), *self._pump(now))

    def lost(self, model_id: str, now: float) -> Effects:
        """Its host is gone, and its memory with it; no Load or Unload of it will end otherwise.

        Calls still running on the copy release it as usual. No failure if it is not here.
        """
        copy = self._copies.get(model_id)
        if copy is not None:
            self._drop(copy)
        return self._pump(now)

    # --- use (the path of every request)

    def acquire(self, model_id: str, now: float) -> Copy | None:
        """Begin a call: the copy, which stays until it is released, or None if none is loaded."""
        copy = self._copies.get(model_id)
        if copy is None or copy.state is not State.LOADED:
            return None
        if not copy.in_use:
            self.ledger.in_use_bytes += copy.size_bytes
        copy.in_use += 1
        self._residents.note_use(copy, now)
        return copy

    def release(self, copy: Copy, now: float) -> Effects:
        """End a call on what `acquire` returned, whatever has become of the copy meanwhile."""
        copy.in_use -= 1
        if copy.in_use:
            return ()
        if copy.state is State.LOADED:
            self.ledger.in_use_bytes -= copy.size_bytes
            return self._pump(now) if self._pressed else ()
        if copy.state is State.UNLOADING and copy.leaving is not None:
            return (Unload(copy.model_id, copy.leaving),)
        return ()

    def touch(self, model_id: str, now: float) -> None:
        """Count a use without a call, if the model is loaded."""
        copy = self._copies.get(model_id)
        if copy is not None and copy.state is State.LOADED:
            self._residents.note_use(copy, now)

    # --- what is learnt, and what is asked

    def resized(self, model_id: str, size_bytes: int, now: float) -> Effects:
        """A copy's weight has changed. No failure if it is not here any more."""
        copy = self._copies.get(model_id)
        if copy is None or copy.state is State.LOADING:
            return ()
        self.ledger.resize(copy, size_bytes)
        if copy.state is State.LOADED:
            self._residents.refile(copy)
            return self._pump(now, grown=copy)
        return self._pump(now)

    def overhead(self, overhead_bytes: int, now: float) -> Effects:
        """Memory that is charged to this daemon and that no copy's weight explains, in all."""
        self.ledger.overhead_bytes = overhead_bytes
        return (*self._refuse_hopeless(), *self._pump(now))

    def prioritise(self, model_id: str, priority: int) -> None:
        """The operator's priority of the model, if it is here."""
        copy = self._copies.get(model_id)
        if copy is None or copy.priority == priority:
            return
        copy.priority = priority
        if copy.state is State.LOADED:
            self._residents.reweigh(copy)

    def set_capacity(self, capacity_bytes: int, now: float) -> Effects:
        self.ledger.capacity_bytes = capacity_bytes
        return (*self._refuse_hopeless(), *self._pump(now))

    def unload(self, model_id: str, now: float) -> Effects:
        """Somebody asks for it: unload the copy after its last call. Who waits still gets one."""
        return (*self._send_away(model_id, Why.ASKED), *self._pump(now))

    def forget(self, model_id: str, now: float) -> Effects:
        """It is no longer registered: unload it, refuse who waits, remember nothing."""
        refused = self._refuse(model_id, refusals.UNREGISTERED)
        away = self._send_away(model_id, Why.FORGOTTEN)
        self._memory.pop(model_id, None)
        return (*refused, *away, *self._pump(now))

    # --- time

    def next_due(self) -> float:
        """When `due` has to be called (monotonic seconds); inf if only events can help."""
        return self._residents.next_guard_end() if self._pressed else inf

    def due(self, now: float) -> Effects:
        """A minimum residency may have ended."""
        return self._pump(now)

    # --- how

    def _decide(self, wanted: Wanted, now: float, deadline: float) -> tuple[Decision, Plan | None]:
        """The decision, and the plan to apply if the model is to be enqueued (or moved up)."""
        model_id = wanted.model_id
        copy = self._copies.get(model_id)
        if copy is not None and copy.leaving is None:
            if copy.state is State.LOADED:
                return Decision(Verdict.SERVE, "it is loaded"), None
            return Decision(Verdict.LOAD, "its load is under way"), None
        if copy is not None and copy.stuck:
            return _refused(refusals.stuck()), None
        if wanted.size_bytes > self.ledger.usable_bytes:
            return _refused(refusals.cannot_fit(wanted.size_bytes, self.ledger)), None
        self._residents.settle()
        queue, place = self._queue.after_adding(wanted)
        found = plan(self.ledger, self._residents, self._copies, queue, now)
        begins = any(each.model_id == model_id for each in found.loads)
        if not begins:
            failure = self._refusal(wanted, found, place, now, deadline)
            if failure is not None:
                return _refused(failure), None
        return found.decision(place, begins), found

    def _refusal(
        self, wanted: Wanted, found: Plan, place: int, now: float, deadline: float
    ) -> Failure | None:
        """Why it must not even wait, if so."""
        if place >= found.assured:  # it is held up: do those that may go give it room at all?
            left_bytes = self.ledger.usable_bytes - self._residents.kept_bytes()
            if wanted.size_bytes > left_bytes:
                return refusals.kept(wanted.size_bytes, left_bytes)
        wait_s = found.wait_until - now if place >= found.assured else 0.0
        if wait_s > 0 and found.wait_until + self._expected_load_s(wanted) > deadline:
            return refusals.churn(wait_s)
        if wanted.model_id not in self._queue and len(self._queue) >= self._max_waiting:
            return refusals.churn(wait_s) if wait_s > 0 else refusals.queue_full(len(self._queue))
        return None

    def _worth(self, copy: Copy, now: float) -> float:
        rate = rate_per_s(copy.use_level, now, self._half_life_s)
        return weighted(rate * copy.load_s / copy.size_bytes, copy.priority)

    def _expected_load_s(self, wanted: Wanted) -> float:
        loads_s = self._memory.get(wanted.model_id, _NOTHING_KNOWN).loads_s
        return median_of(loads_s) if loads_s else self._types.expected_s(wanted.model_type)

    def _size_of(self, model_id: str, estimate_bytes: int) -> int:
        """What to reserve: what it weighed, else the estimate."""
        return self._memory.get(model_id, _NOTHING_KNOWN).size_bytes or estimate_bytes

    def _pump(self, now: float, grown: Copy | None = None) -> Effects:
        """Pay the debt, then serve the queue as far as possible. Every event ends here."""
        if not self._queue and self.ledger.free_bytes >= 0:
            self._pressed = False
            return ()
        self._residents.settle()
        paid = self._pay_debt(now, grown)
        found = plan(self.ledger, self._residents, self._copies, self._queue, now)
        self._apply(found, now)
        return (*paid, *found.effects)

    def _apply(self, found: Plan, now: float) -> None:
        for copy in found.victims:
            self._retire(copy, Why.EVICTED)
        for wanted in found.loads:
            self._queue.remove(wanted.model_id)
            copy = Copy(wanted, now)
            remembered = self._memory.get(wanted.model_id, _NOTHING_KNOWN)
            copy.use_level, copy.loads_s = remembered.use_level, remembered.loads_s
            self._copies[wanted.model_id] = copy
            self.ledger.enter(copy, State.LOADING)
        self._pressed = bool(self._queue) or self.ledger.free_bytes < 0

    def _pay_debt(self, now: float, grown: Copy | None) -> Effects:
        """Unload idle models, young ones last, until unloads under way will cover the debt.

        Where the others that are idle cannot cover what `grown` has brought about, it goes itself;
        what it does not cover is older, so nobody idle was left to pay it.
        """
        shortage = -self.ledger.free_bytes - self.ledger.unloading_bytes
        if shortage <= 0:
            return ()
        kept = list(self._residents.kept(now))
        if grown is not None and self._must_go(grown, shortage, kept):
            return self._retire(grown, Why.GREW)
        young = (copy for copy in self._residents.young(now) if not copy.in_use)
        idle = chain(self._residents.evictable(now), young, kept)
        victims, _ = take((copy for copy in idle if copy is not grown), shortage)
        return tuple(effect for copy in victims for effect in self._retire(copy, Why.DEBT))

    def _must_go(self, grown: Copy, shortage: int, kept: list[Copy]) -> bool:
        """Whether what has grown pays itself: before those that are kept, unless it is one."""
        idle_bytes = self.ledger.loaded_bytes - self.ledger.in_use_bytes
        others_bytes = idle_bytes - (0 if grown.in_use else grown.size_bytes)
        if grown not in kept:
            others_bytes -= sum(copy.size_bytes for copy in kept)
        return others_bytes < shortage

    def _refuse(self, model_id: str, failure: Failure) -> Effects:
        return (Refuse(model_id, failure),) if self._queue.remove(model_id) else ()

    def _refuse_hopeless(self) -> Effects:
        """Those who wait, but could not get enough room from an empty cache now."""
        usable = self.ledger.usable_bytes
        hopeless = [wanted for wanted in self._queue if wanted.size_bytes > usable]
        for wanted in hopeless:
            self._queue.remove(wanted.model_id)
        return tuple(
            Refuse(wanted.model_id, refusals.cannot_fit(wanted.size_bytes, self.ledger))
            for wanted in hopeless
        )

    def _send_away(self, model_id: str, why: Why) -> Effects:
        copy = self._copies.get(model_id)
        if copy is not None and copy.state is State.LOADED:
            return self._retire(copy, why)
        if copy is not None and copy.state is State.LOADING:
            copy.leaving = why
        return ()

    def _retire(self, copy: Copy, why: Why) -> Effects:
        """A loaded copy takes no more calls; its Unload comes now, or after its last call."""
        self._residents.remove(copy, evicted=why in (Why.EVICTED, Why.DEBT))
        if why is not Why.FORGOTTEN:
            self._remember(copy)
        self.ledger.move(copy, State.UNLOADING)
        copy.leaving = why
        return () if copy.in_use else (Unload(copy.model_id, why),)

    def _drop(self, copy: Copy) -> None:
        """The copy's memory is free."""
        if copy.state is State.LOADED:
            self._residents.remove(copy, evicted=False)
            self._remember(copy)
        self.ledger.leave(copy)
        copy.state = State.NEW
        del self._copies[copy.model_id]

    def _remember(self, copy: Copy) -> None:
        # What has grown beyond the capacity (a leak) may still be loaded, if it fitted once.
        fits = copy.size_bytes <= self.ledger.capacity_bytes
        size_bytes = copy.size_bytes if fits else copy.measured_bytes
        self._memory[copy.model_id] = Remembered(copy.use_level, size_bytes, copy.loads_s)

    def _expect(self, model_id: str, state: State) -> Copy:
        copy = self._copies.get(model_id)
        if copy is None or copy.state is not state:
            raise ValueError(f"{model_id} is {self.state(model_id)}, not {state}")
        return copy


def _refused(failure: Failure) -> Decision:
    return Decision(Verdict.REFUSE, failure.message, failure=failure)
