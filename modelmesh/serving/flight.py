"""One load under way and those who wait for it: single flight, made of plain parts.

A waiter is told once how the load went. It costs bytes (the body it holds), and it may leave:
a flight whose last waiter leaves before its load has begun is dropped.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Failure


class Waiter:
    """Somebody who waits for a model: `ready` or `failed` is called, once."""

    __slots__ = ("failed", "held_bytes", "ready", "timer")

    def __init__(
        self, ready: Callable[[], None], failed: Callable[[Failure], None], held_bytes: int = 0
    ) -> None:
        self.ready = ready
        self.failed = failed
        self.held_bytes = held_bytes
        self.timer: asyncio.TimerHandle | None = None


@dataclass(slots=True, eq=False)
class Flight:
    """A model on its way into memory.

    `turn` resolves when the cache says that the load may begin (True), or fails with why not.
    `begun` once the runtime was asked: from then on nobody's leaving stops it.
    """

    model_id: str
    record: ModelRecord
    turn: asyncio.Future[None]
    background: bool
    further: bool = False  # though others have a copy
    claimed: bool = False  # the fleet may know that a copy is coming here
    waiters: dict[Waiter, None] = field(default_factory=dict)  # in the order of their coming
    task: asyncio.Task[None] | None = None
    begun: bool = False
    dropped: Failure | None = None  # why it ends early

    @property
    def wanted(self) -> bool:
        return bool(self.waiters)

    def take_all(self) -> list[Waiter]:
        """Everybody who waits; nobody does afterwards. Their timers are off."""
        waiters, self.waiters = list(self.waiters), {}
        for waiter in waiters:
            if waiter.timer is not None:
                waiter.timer.cancel()
        return waiters
