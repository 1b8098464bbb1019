"""Status codes as ModelMesh gives them, for callers that were written against the original.

Our own contract tells a retry that helps from one that does not; ModelMesh says INTERNAL wherever a
load fails, and for most of what is short (room, a registry). `MM_STATUS_CODES=modelmesh` puts a
translation in front of both faces; without it there is nothing on a call's way.

Must never: touch an answer, or change a failure of the model's own.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.wire.replies import Passing
from modelmesh.wire.transport import NO_METADATA, Call, Handler, Metadata

# Loads that failed, and what ModelMesh cannot tell from them.
_INTERNAL: Final = frozenset(
    {Reason.LOAD_FAILED, Reason.TOO_LARGE, Reason.QUARANTINED, Reason.NO_SPACE, Reason.CHURN}
)


def as_modelmesh(failure: Failure) -> Failure:
    """What the original would have said. Its INTERNAL has neither a reason nor a hint to retry."""
    short = failure.code is Code.UNAVAILABLE and failure.fault is not Fault.MODEL
    if not short and failure.reason not in _INTERNAL:
        return failure
    return replace(failure, code=Code.INTERNAL, reason=Reason.NONE, retry_after_s=None)


def handler_with(codes: str) -> Callable[[Handler], Handler]:
    """What makes a face answer in these codes (a value of `status_codes`)."""
    return _translating if codes == "modelmesh" else lambda handler: handler


def _translating(handler: Handler) -> Handler:
    def handle(calls: list[Call]) -> None:
        handler([_translated(call) for call in calls])

    return handle


def _translated(call: Call) -> Call:
    reply = _ModelMeshReply(call.reply)
    return Call(call.kind, call.body, reply, call.metadata, call.deadline, call.inbound)


class _ModelMeshReply(Passing):
    """Ends with ModelMesh's codes."""

    __slots__ = ()

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        self._reply.finish(None if failure is None else as_modelmesh(failure), metadata)
