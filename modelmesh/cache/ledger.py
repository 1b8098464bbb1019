"""Who holds how many bytes. The sums that every decision starts from, kept in constant time.

`reserved_bytes` (loading, loaded, unloading, stuck) + overhead never exceeds the capacity by an
admission. It can by what is only learnt later (a model larger than thought, memory that the hosts
use besides); what then exceeds is the debt, and while there is one nothing is admitted. The bytes
of an unload that has failed for good are reserved still, but nobody may count on them any more.
"""

from modelmesh.cache.copy import Copy
from modelmesh.cache.decisions import State


class Ledger:
    """Bytes and counts by state. Every change of a copy's state or size goes through here."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.overhead_bytes = 0
        self.loading_bytes = 0
        self.loaded_bytes = 0
        self.unloading_bytes = 0  # which come back soon
        self.stuck_bytes = 0  # ... or never
        self.in_use_bytes = 0  # of the loaded ones
        self.counts = dict.fromkeys(State, 0)

    @property
    def reserved_bytes(self) -> int:
        return self.loading_bytes + self.loaded_bytes + self.unloading_bytes + self.stuck_bytes

    @property
    def usable_bytes(self) -> int:
        """The most that one model could get."""
        return self.capacity_bytes - self.overhead_bytes - self.stuck_bytes

    @property
    def free_bytes(self) -> int:
        """What can be reserved at once; negative while there is a debt."""
        return self.capacity_bytes - self.overhead_bytes - self.reserved_bytes

    @property
    def debt_bytes(self) -> int:
        return max(0, -self.free_bytes)

    def enter(self, copy: Copy, state: State) -> None:
        """The copy now is in this state."""
        copy.state = state
        self._book(copy, copy.size_bytes, 1)

    def stick(self, copy: Copy) -> None:
        """The unload of this copy will not end in any foreseeable time."""
        self.unloading_bytes -= copy.size_bytes
        self.stuck_bytes += copy.size_bytes
        copy.stuck = True

    def leave(self, copy: Copy) -> None:
        """The copy is no longer in its state."""
        self._book(copy, -copy.size_bytes, -1)

    def move(self, copy: Copy, state: State) -> None:
        """The copy goes from its state into this one."""
        self.leave(copy)
        self.enter(copy, state)

    def resize(self, copy: Copy, size_bytes: int) -> None:
        """The copy's reservation is now so large."""
        self._book(copy, size_bytes - copy.size_bytes, 0)
        copy.size_bytes = size_bytes

    def _book(self, copy: Copy, size_bytes: int, count: int) -> None:
        self.counts[copy.state] += count
        if copy.state is State.LOADING:
            self.loading_bytes += size_bytes
        elif copy.stuck:
            self.stuck_bytes += size_bytes
        elif copy.state is State.UNLOADING:
            self.unloading_bytes += size_bytes
        else:
            self.loaded_bytes += size_bytes
            if copy.in_use:
                self.in_use_bytes += size_bytes
