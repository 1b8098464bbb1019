"""A trouble that lasts is said once, when it begins, and not at each try.

Loops that try again every second would else fill a log with one line for each daemon and try while
a store is away. Must never decide anything: it only keeps quiet.
"""

from typing import Any


class Spell:
    """One kind of trouble, in one place. `log` is structlog's."""

    def __init__(self, log: Any, event: str) -> None:
        self._log = log
        self._event = event
        self._lasts = False

    def goes_on(self, **why: object) -> None:
        """It went wrong (again)."""
        say = self._log.debug if self._lasts else self._log.warning
        self._lasts = True
        say(self._event, **why)

    def over(self) -> None:
        """It went well: the next time is news."""
        self._lasts = False
