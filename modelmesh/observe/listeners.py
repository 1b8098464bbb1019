"""Those who want to hear of something: told in the order in which they came, and guarded.

Whatever has listeners (tables, the store's availability, models) has them the same way: one that
breaks is logged and harms neither the others nor whoever tells; one that stops while it is being
told, or stops twice, is no trouble.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger("observe")

T = TypeVar("T")


class Listeners(Generic[T]):
    """Told of a `T`. `what` names it in the log."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._listeners: list[Callable[[T], None]] = []

    def __bool__(self) -> bool:
        """Whether there is anybody."""
        return bool(self._listeners)

    def subscribe(self, listener: Callable[[T], None]) -> Callable[[], None]:
        """Be told from now on; returns the way to stop."""
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    def tell(self, said: T) -> None:
        """Tell everybody who is there now."""
        for listener in tuple(self._listeners):
            try:
                listener(said)
            except Exception:
                log.exception("a listener failed", of=self._what)
