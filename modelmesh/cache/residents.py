"""The loaded copies: in the order of eviction, by recency, and those too young to go.

Noting a use is on the path of every request, so it only appends to a list. The order is brought up
to date in small batches (`settle`): when the list is full, when its oldest entry reaches a
sixty-fourth of the half-life (so a rate is off by 1 % at most), and before anything is decided.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count
from math import inf

from modelmesh.cache.copy import Copy
from modelmesh.cache.decisions import State
from modelmesh.cache.order import Order
from modelmesh.cache.rates import add_uses
from modelmesh.policy.eviction import NEVER, Policy
from modelmesh.policy.scaling import Keeping

_BATCH = 64

# Idle copies between which keeping is more important than worth. To ask it of all of them would
# cost too much for one victim, and what comes so much later in the order is worth much more.
_WINDOW = 256


class Residents:
    """Every loaded copy, and nothing else."""

    def __init__(self, policy: Policy, half_life_s: float) -> None:
        self._policy = policy
        self._half_life_s = half_life_s
        self._floor = NEVER  # L: the priority of the last evicted
        self._order = Order()
        self._recency: OrderedDict[Copy, None] = OrderedDict()
        self._young: list[tuple[float, int, Copy]] = []  # a heap by the end of their guard
        self._serial = count()
        self._used: list[Copy] = []
        self._settle_at = inf
        self.keeping: Callable[[str], Keeping] | None = None  # None: all are free to go

    def add(self, copy: Copy, now: float) -> None:
        """The copy has just been loaded; it is guarded until `copy.young_until`."""
        self._recency[copy] = None
        self.refile(copy)
        if copy.young_until > now:
            heappush(self._young, (copy.young_until, next(self._serial), copy))

    def remove(self, copy: Copy, *, evicted: bool) -> None:
        """The copy is leaving; the floor rises to the priority of one that was evicted."""
        self._fold(copy)
        if evicted:
            # As if nobody had given it priority: that would lift everybody who comes after it.
            worth = copy.rank / self._policy.steps - max(copy.priority, 0)
            self._floor = max(self._floor, worth)
        self._order.remove(copy)
        del self._recency[copy]

    def note_use(self, copy: Copy, now: float) -> None:
        """One more use. Cheap: see the module's docstring."""
        copy.last_used = now
        copy.new_uses += 1
        copy.uses += 1
        if copy.new_uses == 1:
            if not self._used:
                self._settle_at = now + self._half_life_s / 64
            self._used.append(copy)
            if len(self._used) >= _BATCH:
                self.settle()
        if now >= self._settle_at:
            self.settle()

    def settle(self) -> None:
        """Bring the order up to date with the uses noted. Changes no decision, only its cost."""
        used, self._used, self._settle_at = self._used, [], inf
        for copy in used:
            if copy.state is State.LOADED and copy.new_uses:
                self._fold(copy)
                self.refile(copy)
                self._recency.move_to_end(copy)

    def refile(self, copy: Copy) -> None:
        """Its use, size or cost has changed."""
        copy.floor = self._floor
        self.reweigh(copy)

    def reweigh(self, copy: Copy) -> None:
        """Its operator's priority has changed: that is no use, so it must not look like one."""
        priority = max(self._policy.priority(copy, copy.floor), -1e15)
        self._order.file(copy, int(priority * self._policy.steps // 1))

    def __iter__(self) -> Iterator[Copy]:
        """First to go first. Settle before; nothing may change meanwhile."""
        return iter(self._order)

    def evictable(self, now: float) -> Iterator[Copy]:
        """Those neither in use nor young that may go, first to go first."""
        if self.keeping is None:
            return (copy for copy in self._order if _is_idle(copy, now))
        in_order = self.in_order(now)
        return (c for c, kept in in_order if kept is not Keeping.NEVER and _is_idle(c, now))

    def kept(self, now: float) -> Iterator[Copy]:
        """Those neither in use nor young that may not go."""
        if self.keeping is None:
            return iter(())
        never, keeping = Keeping.NEVER, self.keeping
        return (c for c in self._order if _is_idle(c, now) and keeping(c.model_id) is never)

    def kept_bytes(self) -> int:
        """The bytes of all that may never go, used ones and young ones too."""
        if self.keeping is None:
            return 0
        never, keeping = Keeping.NEVER, self.keeping
        return sum(c.size_bytes for c in self._order if keeping(c.model_id) is never)

    def in_order(self, now: float) -> Iterator[tuple[Copy, Keeping]]:
        """All, first to go first, each with how it is kept: of so many idle ones those that are
        free come first, then those that go reluctantly, at last those that never do."""
        if self.keeping is None:
            yield from ((copy, Keeping.FREE) for copy in self._order)
            return
        later: dict[Keeping, list[Copy]] = {Keeping.RELUCTANT: [], Keeping.NEVER: []}
        asked = 0
        for copy in self._order:
            kept = self.keeping(copy.model_id) if _is_idle(copy, now) else Keeping.FREE
            if kept is Keeping.FREE:
                yield copy, kept
            else:
                later[kept].append(copy)
            asked += _is_idle(copy, now)
            if asked == _WINDOW:
                yield from _emptied(later)
                asked = 0
        yield from _emptied(later)

    def young(self, now: float) -> list[Copy]:
        """Those still guarded, the one whose guard ends first first."""
        while self._young and self._young[0][0] <= now:
            heappop(self._young)
        return [copy for _, _, copy in sorted(self._young) if copy.state is State.LOADED]

    def next_guard_end(self) -> float:
        """When the first guard ends, monotonic seconds; inf if none is young."""
        while self._young and self._young[0][2].state is not State.LOADED:
            heappop(self._young)
        return self._young[0][0] if self._young else inf

    def oldest_use(self) -> float:
        """When the copy longest unused was used (monotonic seconds); inf without copies."""
        self.settle()
        return next(iter(self._recency)).last_used if self._recency else inf

    def _fold(self, copy: Copy) -> None:
        if copy.new_uses:
            copy.use_level = add_uses(
                copy.use_level, copy.new_uses, copy.last_used, self._half_life_s
            )
            copy.new_uses = 0


def _is_idle(copy: Copy, now: float) -> bool:
    """Neither in use nor young."""
    return not copy.in_use and copy.young_until <= now


def _emptied(later: dict[Keeping, list[Copy]]) -> Iterator[tuple[Copy, Keeping]]:
    for kept, copies in later.items():
        waiting, copies[:] = list(copies), []
        yield from ((copy, kept) for copy in waiting)
