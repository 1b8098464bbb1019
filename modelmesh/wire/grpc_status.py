"""A `Failure` as gRPC sees it (code, message, trailing metadata), and back.

Trailers carry google.rpc.Status (`grpc-status-details-bin`) with ErrorInfo and RetryInfo, which
clients in all languages read; `grpc-retry-pushback-ms`, which gRPC's own retries obey; and
`x-mm-executed: maybe` where the model may have run. Messages are cut: trailers that exceed a
client's limit on metadata would hide the status itself.
"""

from typing import Final

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.wire.transport import Metadata

DOMAIN: Final = "modelmesh"
DETAILS: Final = "grpc-status-details-bin"
PUSHBACK: Final = "grpc-retry-pushback-ms"
EXECUTED: Final = "x-mm-executed"
MESSAGE_BYTES: Final = 1024
LONGEST_RETRY_S: Final = 366 * 86400.0

# What gRPC's core says when it never had a connection to send the call on.
_NEVER_SENT: Final = ("failed to connect to all addresses", "connections to all backends failing")
_NANO: Final = 1_000_000_000

_CODES = {code.value: code for code in Code}
_FAULTS = {fault.value: fault for fault in Fault}
_REASONS = {reason.value: reason for reason in Reason}


def message_of(failure: Failure) -> str:
    """The message as it may travel: bounded, and valid Unicode."""
    encoded = failure.message.encode("utf-8", "replace")
    if len(encoded) <= MESSAGE_BYTES:
        return encoded.decode()
    return encoded[:MESSAGE_BYTES].decode("utf-8", "ignore") + " ..."


def trailers_of(failure: Failure) -> Metadata:
    """The trailing metadata that says the rest."""
    info = error_details_pb2.ErrorInfo(reason=failure.reason, domain=DOMAIN)
    info.metadata["fault"] = failure.fault
    status = status_pb2.Status(code=failure.code, message=message_of(failure))
    status.details.add().Pack(info)
    trailers: list[tuple[str, str | bytes]] = []
    if failure.retry_after_s is not None:
        nanos = round(min(failure.retry_after_s, LONGEST_RETRY_S) * _NANO)
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.seconds, retry.retry_delay.nanos = divmod(nanos, _NANO)
        status.details.add().Pack(retry)
        trailers.append((PUSHBACK, str(nanos // 1_000_000)))
    if failure.executed:
        trailers.append((EXECUTED, "maybe"))
    trailers.append((DETAILS, status.SerializeToString()))
    return tuple(trailers)


def failure_of(code: int, message: str, trailers: Metadata) -> Failure:
    """What a status from a peer means. Where the peer does not say, the call may have run."""
    known = _CODES.get(code, Code.UNKNOWN)
    details = next((value for key, value in trailers if key == DETAILS), b"")
    info, retry_after_s = _read_details(details if isinstance(details, bytes) else b"")
    if info is not None and info.domain == DOMAIN:
        return Failure(
            known,
            message,
            _FAULTS.get(info.metadata.get("fault", ""), Fault.PEER),
            _REASONS.get(info.reason, Reason.NONE),
            retry_after_s,
            executed=any(key == EXECUTED for key, _ in trailers),
        )
    never_sent = known is Code.UNAVAILABLE and any(said in message for said in _NEVER_SENT)
    return Failure(known, message, Fault.PEER, retry_after_s=retry_after_s, executed=not never_sent)


def _read_details(
    block: bytes,
) -> tuple[error_details_pb2.ErrorInfo | None, float | None]:
    """ErrorInfo and the delay of RetryInfo, where there are any that can be read."""
    found: error_details_pb2.ErrorInfo | None = None
    retry_after_s: float | None = None
    try:
        for detail in status_pb2.Status.FromString(block).details:
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                found = info
            elif detail.Unpack(retry):
                delay = retry.retry_delay
                retry_after_s = max(0.0, delay.seconds + delay.nanos / _NANO)
    except DecodeError:
        return None, None
    return found, retry_after_s
