"""Structured logs: one event per line, key=value on a terminal, JSON elsewhere.

Rooms log with `structlog.get_logger("<room>")` and say an event in plain words plus keys. Nothing
that could be a secret is logged: no headers, no bodies, no storage keys.
"""

import logging
import sys

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger


def configure(level: str = "info", form: str = "auto") -> None:
    """Send this process's logs to standard error."""
    as_text = sys.stderr.isatty() if form == "auto" else form == "text"
    renderer = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if as_text
        else structlog.processors.JSONRenderer(serializer=_dumps)
    )
    structlog.configure(
        processors=[
            _name,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if not as_text else _keep,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=_Factory(),
        cache_logger_on_first_use=False,
    )


def set_level(level: str) -> None:
    """Log what is at least so important from now on."""
    number = getattr(logging, level.upper())
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(number))


class _Line:
    """Writes a line to standard error, under the room's name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def msg(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    log = debug = info = warning = warn = error = critical = exception = fatal = msg


class _Factory:
    def __call__(self, *names: str) -> _Line:
        return _Line(names[0] if names else "")


def _name(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    if getattr(logger, "name", ""):
        event["room"] = logger.name
    return event


def _keep(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    return event


def _dumps(value: object, default: object = None, **_: object) -> str:
    return orjson.dumps(value, default=repr).decode()
