"""From a call's kind to the method that answers it, with one guard around each call.

Calls come in lists, and the calls of a list are strangers to each other: what goes wrong for one is
its own failure, and the next is served. This is the edge where a `MeshError` becomes an answer and
anything else becomes INTERNAL and an entry in the log.

Must stay a look-up and a call: every request passes here.
"""

from collections.abc import Callable, Mapping

import structlog

from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.wire.transport import Call

log = structlog.get_logger("api")

Method = Callable[[Call], None]
Methods = Mapping[str, Method]

_BROKEN = Failure(Code.INTERNAL, "internal error", Fault.PEER, executed=True)


class Dispatch:
    """A `Handler` over methods by kind, and one method for every other kind."""

    def __init__(self, methods: Methods, otherwise: Method) -> None:
        self._methods = dict(methods)
        self._otherwise = otherwise

    def __call__(self, calls: list[Call]) -> None:
        methods, otherwise = self._methods, self._otherwise
        for call in calls:
            try:
                methods.get(call.kind, otherwise)(call)
            except Exception as error:
                fail(call, error)


def fail(call: Call, error: Exception) -> None:
    """End the call with what its method raised; to be called while that is being handled."""
    if isinstance(error, MeshError):
        call.reply.finish(error.failure)
    else:
        log.exception("a call broke its method", kind=call.kind)
        call.reply.finish(_BROKEN)
