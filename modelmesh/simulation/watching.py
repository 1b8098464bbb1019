"""What daemons log while they are simulated: errors are violations, the rest is for a replay.

A task that fails unseen, a listener that raises, a round that breaks: `observe.tasks` and the rooms
log all of these as errors, and none of them may happen in any weather but the named few.
"""

import asyncio
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Final

import structlog

from modelmesh.simulation.clock import life_name

# Errors that a fault brings about and that an operator has to hear of.
_DUE: Final = frozenset({"the registry's store was restored"})

Told = Callable[[str], None]


@contextmanager
def watching(broken: Told, tell: Told | None) -> Iterator[None]:
    """Until the end, logs go to `broken` (errors) and `tell` (all, if anybody wants to know)."""
    before = structlog.get_config()

    def heard(logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        words = str(event.pop("event", ""))
        told = f"{life_name()} logs: {words} {_keys(event)}"
        if tell is not None:
            tell(told)
        if method in ("error", "exception", "critical") and words not in _DUE:
            broken(f"log: {told}")
        raise structlog.DropEvent

    structlog.configure(
        processors=[heard],
        wrapper_class=structlog.make_filtering_bound_logger(10 if tell is not None else 40),
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def _keys(event: MutableMapping[str, Any]) -> str:
    failure = event.pop("exc_info", None)
    words = [f"{name}={value}" for name, value in event.items()]
    return " ".join([*words, repr(failure)] if isinstance(failure, BaseException) else words)


def guard(loop: asyncio.AbstractEventLoop, broken: Told) -> None:
    """What asyncio itself complains of is a violation too."""

    def complains(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        broken(f"asyncio: {context.get('message')} {context.get('exception')!r}")

    loop.set_exception_handler(complains)
