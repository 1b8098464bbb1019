"""Failures as data: whose fault it was, what to say, and whether a retry helps.

Every refusal or breakdown that a caller can see is one `Failure`. Rooms raise it wrapped in
`MeshError`, or hand it to a reply; the wire and the faces turn it into a gRPC status or an HTTP
answer. Nothing here knows either protocol beyond the numbers of their codes. The table that
decides the code is the status contract in docs/ARCHITECTURE.md.

This module must never import anything of the project.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Code(IntEnum):
    """gRPC status codes (numbers are the public contract)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Fault(StrEnum):
    """Who has to change something before the same call can succeed."""

    CALLER = "caller"
    MODEL = "model"
    CAPACITY = "capacity"
    PEER = "peer"
    STORE = "store"


class Reason(StrEnum):
    """Machine-readable cause (google.rpc.ErrorInfo.reason); empty where the code says it all."""

    NONE = ""
    LOAD_FAILED = "LOAD_FAILED"
    TOO_LARGE = "TOO_LARGE"
    MODEL_ERROR = "MODEL_ERROR"
    WORKER_CRASHED = "WORKER_CRASHED"
    QUARANTINED = "QUARANTINED"
    OVERLOADED = "OVERLOADED"
    CHURN = "CHURN"
    NO_SPACE = "NO_SPACE"
    DRAINING = "DRAINING"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    HEADERS_TOO_LARGE = "HEADERS_TOO_LARGE"
    LOAD_TIMEOUT = "LOAD_TIMEOUT"
    PREDICT_TIMEOUT = "PREDICT_TIMEOUT"
    DEADLINE = "DEADLINE"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    NOT_HERE = "NOT_HERE"  # between daemons only: ask another one


@dataclass(frozen=True, slots=True)
class Failure:
    """One refusal or breakdown.

    `retry_after_s` is None where a retry of the same call cannot help; otherwise it becomes
    RetryInfo (gRPC) or Retry-After (HTTP). `executed` is False only when the model provably never
    saw the call, so that somebody else may be asked.
    """

    code: Code
    message: str
    fault: Fault = Fault.CALLER
    reason: Reason = Reason.NONE
    retry_after_s: float | None = None
    executed: bool = False


class MeshError(Exception):
    """A `Failure` on its way to the caller."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


# What the code alone means over HTTP (grpc-gateway's table) ...
_HTTP_BY_CODE = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
# ... and where the reason says it better.
_HTTP_BY_REASON = {
    Reason.LOAD_FAILED: 422,
    Reason.TOO_LARGE: 422,
    Reason.QUARANTINED: 422,
    Reason.MESSAGE_TOO_LARGE: 413,
    Reason.HEADERS_TOO_LARGE: 431,
    Reason.METHOD_NOT_ALLOWED: 405,
}


def http_status(failure: Failure) -> int:
    """The HTTP status that carries this failure."""
    if failure.reason is Reason.LOAD_FAILED and failure.code is Code.UNAVAILABLE:
        return 503
    return _HTTP_BY_REASON.get(failure.reason) or _HTTP_BY_CODE[failure.code]


def invalid(message: str) -> MeshError:
    """The caller sent something that cannot be understood."""
    return MeshError(Failure(Code.INVALID_ARGUMENT, message))


def not_found(message: str = "model not found") -> MeshError:
    """The named model is not registered."""
    return MeshError(Failure(Code.NOT_FOUND, message))


def unheard(what: str) -> MeshError:
    """Not known here; and the store, which may know it, does not answer."""
    message = f"{what} not known here, and the registry's store does not answer"
    return MeshError(Failure(Code.UNAVAILABLE, message, Fault.STORE, retry_after_s=1.0))


def unimplemented(message: str) -> MeshError:
    """No such method, or not here."""
    return MeshError(Failure(Code.UNIMPLEMENTED, message))
