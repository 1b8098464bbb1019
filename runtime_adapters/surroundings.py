"""What running models needs of the process that it happens in: the seam between core and host.

The core decides what runs next; a host process around it keeps a journal, weighs by its allocator
and waits on a socket. In the daemon itself (tier `inline`) the same core has an event loop around
it, no journal, and a scale that weighs nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from modelmesh.wire.transport import Call
from runtime_adapters.base import Model
from runtime_adapters.sizing import Scale
from runtime_adapters.verdicts import TOO_LATE


class Surroundings(Protocol):
    """One process, as the core sees it."""

    scale: Scale

    def now(self) -> float:
        """Seconds on the monotonic clock."""

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call back once, not before the delay; the core is stepped afterwards."""

    def begin(self, calls: Sequence[Call]) -> None:
        """These calls, and no others, run from now on: whatever was answered is on its way."""

    def was_read(self, call: Call, took_s: float) -> None:
        """The call is decoded: once for each call, before its answer."""

    def was_written(self, call: Call, took_s: float) -> None:
        """Its answer is encoded; the next thing is that it is given."""

    def companions(self) -> Mapping[str, int]:
        """How many of each ("thread", "child") live in or under this process."""

    def private_bytes(self) -> int:
        """Memory that only this process has; 0 where that says nothing about models."""


@dataclass(slots=True)
class Held:
    """A loaded model. `joins`: requests for it may become one predict."""

    model: Model
    size_bytes: int
    joins: bool = field(init=False)

    def __post_init__(self) -> None:
        self.joins = self.model.rows_independent


def still_wanted(call: Call, now: float) -> bool:
    """Whether to start on a call; one that is too late is answered, one that was left is not."""
    if call.reply.gone:
        return False
    if call.deadline <= now:
        call.reply.finish(TOO_LATE)
        return False
    return True
