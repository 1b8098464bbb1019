"""The loaded copies: in the order of eviction, by recency, and those too young to go.

Noting a use is on the path of every request, so it only appends to a list. The order is brought up
to date in small batches (`settle`): when the list is full, when its oldest entry reaches a
sixty-fourth of the half-life (so a rate is off by 1 % at most), and before anything is decided.
"""

from collections import OrderedDict
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count
from math import inf

from modelmesh.cache.copy import Copy
from modelmesh.cache.decisions import State
from modelmesh.cache.order import Order
from modelmesh.cache.rates import add_uses
from modelmesh.policy.eviction import NEVER, Policy

_BATCH = 64


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
            self._floor = max(self._floor, copy.rank / self._policy.steps)
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
        priority = max(self._policy.priority(copy, self._floor), -1e15)
        self._order.file(copy, int(priority * self._policy.steps // 1))

    def __iter__(self) -> Iterator[Copy]:
        """First to go first. Settle before; nothing may change meanwhile."""
        return iter(self._order)

    def evictable(self, now: float) -> Iterator[Copy]:
        """Those neither in use nor young, first to go first."""
        return (copy for copy in self._order if not copy.in_use and copy.young_until <= now)

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
