"""What an operator changes while the fleet runs: ModelMesh's keys below `config/`, plain text.

A key that is absent, empty or makes no sense leaves the setting as it was at the start; what makes
no sense is logged once as long as it stands. Every daemon follows the same keys.
"""

from collections.abc import Callable
from typing import TypeVar

import structlog

from modelmesh.registry.store import CONFIG, Event
from modelmesh.registry.tables import TabledStore

log = structlog.get_logger("registry")

T = TypeVar("T")

SCALEUP_RPM = "scaleup_rpm_threshold"
LOGGER_LEVEL = "logger_level"
LOG_EACH_INVOCATION = "log_each_invocation"

# ModelMesh's levels are log4j's.
_LEVELS = {
    "TRACE": "debug", "DEBUG": "debug", "INFO": "info", "WARN": "warning", "WARNING": "warning",
    "ERROR": "error", "FATAL": "error", "OFF": "error",
}  # fmt: skip


class DynamicConfig:
    """The keys that have a meaning here."""

    def __init__(self, store: TabledStore) -> None:
        self._table = store.table(CONFIG)
        self._told: dict[str, str] = {}  # by key, the last value that made no sense

    def subscribe(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Be told when any key has changed; returns the way to stop."""

        def tell(_events: list[Event]) -> None:
            changed()

        return self._table.subscribe(tell)

    def scaleup_rpm(self, otherwise: int) -> int:
        """Calls a minute that one copy should answer at most."""
        text = self._text(SCALEUP_RPM)
        if text.isascii() and text.isdigit():
            return int(text)
        return self._senseless(SCALEUP_RPM, text, otherwise)

    def log_level(self, otherwise: str) -> str:
        """One of the levels of our logs."""
        text = self._text(LOGGER_LEVEL)
        return _LEVELS.get(text.upper()) or self._senseless(LOGGER_LEVEL, text, otherwise)

    def log_each_invocation(self, otherwise: bool) -> bool:
        """Whether every call of a model is logged."""
        text = self._text(LOG_EACH_INVOCATION)
        known = {"true": True, "false": False}.get(text.lower())
        if known is not None:
            return known
        return self._senseless(LOG_EACH_INVOCATION, text, otherwise)

    def _text(self, name: str) -> str:
        entry = self._table.get(name)
        return entry.value.decode("utf-8", "replace").strip() if entry is not None else ""

    def _senseless(self, name: str, text: str, otherwise: T) -> T:
        if text and self._told.get(name) != text:
            self._told[name] = text
            log.warning("a dynamic setting makes no sense", name=name, value=text[:100])
        return otherwise
