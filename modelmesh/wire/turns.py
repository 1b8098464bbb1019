"""Handing calls over: all that arrived in one turn of the loop in one list, and guarded.

Shared by the wires. It needs nothing of asyncio but a `call_soon`, so that a host's blocking loop
can use the guard as well.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import structlog

from modelmesh.errors import Code, Failure, Fault
from modelmesh.wire.transport import Call, Handler, failed

log = structlog.get_logger("wire")

SomeCall = TypeVar("SomeCall", bound=Call)

_BROKEN = Failure(Code.INTERNAL, "internal error", Fault.PEER, executed=True)


def hand_over(handler: Callable[[list[SomeCall]], None], calls: list[SomeCall]) -> None:
    """Call the handler; if it raises, every call of the list without an answer gets INTERNAL."""
    try:
        handler(calls)
    except Exception:
        log.exception("the handler failed", calls=len(calls), kind=calls[0].kind)
        failed(calls, _BROKEN)


class Turn:
    """Gathers calls, over all connections, and hands them over once before the loop sleeps."""

    __slots__ = ("_call_soon", "_calls", "_handler")

    def __init__(self, handler: Handler, call_soon: Callable[[Callable[[], None]], Any]) -> None:
        self._handler = handler
        self._call_soon = call_soon
        self._calls: list[Call] = []

    def add(self, call: Call) -> None:
        if not self._calls:
            self._call_soon(self._end)
        self._calls.append(call)

    def _end(self) -> None:
        calls, self._calls = self._calls, []
        hand_over(self._handler, calls)
