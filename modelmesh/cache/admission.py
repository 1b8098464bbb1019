"""How room is found for the loads that wait: a pure plan over a still world, applied by `copies`.

The queue is served strictly in order. Whoever is first gets all room that comes free, so a large
model is never starved by small ones behind it; those behind it may begin when what it needs is
assured. Room is taken from idle models in the order of eviction, and only when

* idle models suffice: those that are needed go, and no more; or
* idle models and such as are in use would suffice: the idle ones go now, the others as they come
  to rest. To wait for an instant at which all are idle could take for ever.

Models that are free to go come before the last copies of what is in demand; those that an operator
keeps are no victims at all (`residents`).

Where the rest would have to come from models in their minimum residency, nothing is evicted until
that ends (`wait_until`): the cache would churn, and the wait may be given up before.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from modelmesh.cache.copy import Copy, Wanted
from modelmesh.cache.decisions import Decision, Effect, Load, State, Unload, Verdict, Why
from modelmesh.cache.ledger import Ledger
from modelmesh.cache.residents import Residents


@dataclass(frozen=True, slots=True)
class Plan:
    """What can be done for a queue now.

    The first `assured` of the queue have their room, or it is coming: those in `loads` begin now,
    the others when unloads end. The next one, if any, is held up for the reason `held_up`.
    """

    loads: tuple[Wanted, ...]
    victims: tuple[Copy, ...]
    assured: int
    held_up: str = ""
    wait_until: float = 0.0

    @property
    def effects(self) -> tuple[Effect, ...]:
        unloads = (Unload(copy.model_id, Why.EVICTED) for copy in self.victims)
        return (*unloads, *(Load(wanted.model_id, wanted.size_bytes) for wanted in self.loads))

    def decision(self, place: int, begins: bool) -> Decision:
        """What it means for the admission at this place of the queue, if it is not refused."""
        if begins:
            return Decision(Verdict.LOAD, "there is room", self.effects)
        if place < self.assured:
            return Decision(Verdict.WAIT, "waits for unloads to end", self.effects)
        behind = place - self.assured
        reason = self.held_up + (f", behind {behind} others" if behind else "")
        return Decision(Verdict.WAIT, reason, self.effects, self.wait_until)


def take(candidates: Iterator[Copy], needed_bytes: int) -> tuple[list[Copy], list[Copy]]:
    """The first candidates that together give so many bytes, and those of them that can stay.

    Greedy by order may take three small ones and then a large one that would have done alone, so
    each that is not needed after all is spared, the most valuable first.
    """
    taken: list[Copy] = []
    for copy in candidates:
        taken.append(copy)
        needed_bytes -= copy.size_bytes
        if needed_bytes <= 0:
            break
    victims: list[Copy] = []
    spared: list[Copy] = []
    for copy in reversed(taken):
        if needed_bytes + copy.size_bytes <= 0:
            needed_bytes += copy.size_bytes
            spared.append(copy)
        else:
            victims.append(copy)
    return victims[::-1], spared[::-1]


def plan(
    ledger: Ledger,
    residents: Residents,
    copies: Mapping[str, Copy],
    queue: Iterable[Wanted],
    now: float,
) -> Plan:
    """Serve the queue as far as possible. `residents` are settled."""
    free = ledger.free_bytes
    supply = free + ledger.unloading_bytes  # what is free when all unloads have ended
    young = residents.young(now)
    idle = ledger.loaded_bytes - ledger.in_use_bytes
    idle -= sum(copy.size_bytes for copy in young if not copy.in_use)
    candidates = residents.evictable(now)
    loads: list[Wanted] = []
    victims: list[Copy] = []
    in_order = True
    assured = 0
    for wanted in queue:
        own = copies.get(wanted.model_id)  # an earlier copy of it that is still on its way out
        if own is not None and own.state is State.LOADING:
            supply += own.size_bytes
        supply -= wanted.size_bytes
        if -supply > idle:
            collect, held_up, wait_until = _hold_up(-supply - idle, ledger, young)
            victims.extend(candidates if collect else ())
            return Plan(tuple(loads), tuple(victims), assured, held_up, wait_until)
        if supply < 0:
            batch, spared = take(candidates, -supply)
            batch_bytes = sum(copy.size_bytes for copy in batch)
            supply += batch_bytes
            if supply < 0:
                collect, held_up, wait_until = _hold_up(-supply, ledger, young)
                victims.extend(batch if collect else ())
                return Plan(tuple(loads), tuple(victims), assured, held_up, wait_until)
            victims.extend(batch)
            candidates = chain(spared, candidates)
            idle -= batch_bytes
        assured += 1
        claim = max(0, wanted.size_bytes - own.size_bytes) if own else wanted.size_bytes
        in_order = in_order and claim <= free
        if in_order:
            free -= claim
            if own is None:
                loads.append(wanted)
    return Plan(tuple(loads), tuple(victims), assured)


def _hold_up(shortage: int, ledger: Ledger, young: list[Copy]) -> tuple[bool, str, float]:
    """Where bytes that idle models cannot give must come from: collect now? why wait? until?"""
    in_use = ledger.in_use_bytes - sum(copy.size_bytes for copy in young if copy.in_use)
    if shortage <= in_use:
        return True, "waits until models in use come to rest", 0.0
    shortage -= in_use
    for copy in young:
        shortage -= copy.size_bytes
        if shortage <= 0:
            return False, "waits for the minimum residency of younger models", copy.young_until
    return False, "waits for loads under way", 0.0
