"""HTTP/1.1 heads: metadata as header lines and failures as answers, and back.

Metadata is what the rooms above speak. Over HTTP a key is a header name and a value is text, or,
for keys that end in "-bin", base64; `:status` in an answer's metadata is its status. An answer's
metadata may come from a model, so it must never be able to end a head early, to frame a body of
its own, or to smuggle a second answer: `UnsafeHeader` says so.

Pure: bytes in, bytes out.
"""

import base64
import binascii
import math
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Final

import orjson

from modelmesh.errors import Code, Failure, Fault, Reason, http_status
from modelmesh.wire.transport import Metadata

STATUS: Final = ":status"
QUERY: Final = ":query"
TIMEOUT: Final = "mm-timeout-ms"

# Only the wire may name these: they frame the message or belong to one connection.
FRAMING: Final = frozenset(
    {
        "connection",
        "content-length",
        "date",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search
_BODILESS: Final = (204, 304)

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
} | {499: b"HTTP/1.1 499 Client Closed Request\r\n"}

_CODE_BY_STATUS = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    405: Code.UNIMPLEMENTED,
    408: Code.DEADLINE_EXCEEDED,
    409: Code.ALREADY_EXISTS,
    413: Code.RESOURCE_EXHAUSTED,
    422: Code.FAILED_PRECONDITION,
    429: Code.RESOURCE_EXHAUSTED,
    431: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
    500: Code.INTERNAL,
    501: Code.UNIMPLEMENTED,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


class UnsafeHeader(ValueError):
    """Metadata that HTTP cannot carry, or must not."""


def header_line(name: str, value: str | bytes) -> bytes:
    """One header line; raises `UnsafeHeader`."""
    if name in FRAMING or not _TOKEN(name):
        raise UnsafeHeader(f"no header may be named {name[:64]!r}")
    if isinstance(value, bytes):
        return b"%b: %b\r\n" % (name.encode(), base64.b64encode(value))
    if _UNSAFE(value):
        raise UnsafeHeader(f"header {name} holds a control character")
    try:
        return f"{name}: {value}\r\n".encode("latin-1")
    except UnicodeEncodeError:
        raise UnsafeHeader(f"header {name} holds a character beyond latin-1") from None


def decoded_bin(value: bytes) -> bytes:
    """The value of a "-bin" header; raises `UnsafeHeader`. Padding may be left out, as in gRPC."""
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        raise UnsafeHeader("a header that ends in -bin is not base64") from None


def answer_head(
    status: int, length: int | None, metadata: Metadata, date: bytes, close: bool
) -> tuple[bytes, bool]:
    """A response's head, and whether a body may follow it; `length` None stands for chunks.

    `:status` in the metadata overrides `status`; raises `UnsafeHeader`.
    """
    lines: list[bytes] = [b"", date]
    typed = False
    for name, value in metadata:
        if name == STATUS:
            status = _checked_status(value)
        else:
            typed = typed or name == "content-type"
            lines.append(header_line(name, value))
    lines[0] = _STATUS_LINES.get(status) or b"HTTP/1.1 %d Status\r\n" % status
    with_body = status not in _BODILESS
    if with_body:
        if not typed:
            lines.append(b"content-type: application/json\r\n")
        if length is None:
            lines.append(b"transfer-encoding: chunked\r\n")
        elif length >= 0:
            lines.append(b"content-length: %d\r\n" % length)
    lines.append(b"connection: close\r\n\r\n" if close else b"\r\n")
    return b"".join(lines), with_body


def _checked_status(value: str | bytes) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
        status = int(value)
        if 200 <= status <= 599:
            return status
    raise UnsafeHeader(f"no final answer has the status {value[:8]!r}")


def error_body(message: str) -> bytes:
    """KServe's form of an error. A message that is not quite Unicode is repaired."""
    return orjson.dumps({"error": message.encode("utf-8", "replace").decode()})


def failure_answer(failure: Failure) -> tuple[int, bytes, Metadata]:
    """Status, body and headers that tell a caller of a failure.

    `mm-code`, `mm-fault`, `mm-reason` and `mm-retry-after-ms` are what a status alone cannot say;
    `x-mm-executed: maybe` warns that the model may have seen the call.
    """
    headers: list[tuple[str, str | bytes]] = [
        ("mm-code", failure.code.name),
        ("mm-fault", failure.fault.value),
    ]
    if failure.reason:
        headers.append(("mm-reason", failure.reason.value))
    if failure.retry_after_s is not None:
        after_s = max(0.0, failure.retry_after_s)
        headers.append(("retry-after", str(math.ceil(after_s))))
        headers.append(("mm-retry-after-ms", str(math.ceil(after_s * 1000))))
    if failure.executed or failure.reason is Reason.WORKER_CRASHED:
        headers.append(("x-mm-executed", "maybe"))
    return http_status(failure), error_body(failure.message), tuple(headers)


def failure_of(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """What an answer that is not 2xx says; the far end need not be ours."""
    code, fault, reason = (headers.get(name, "") for name in ("mm-code", "mm-fault", "mm-reason"))
    after_ms = _number(headers.get("mm-retry-after-ms", ""))
    after_s = _number(headers.get("retry-after", ""))
    return Failure(
        Code[code] if code in Code.__members__ else _CODE_BY_STATUS.get(status, Code.UNKNOWN),
        _message(body) if body else f"HTTP status {status}",
        Fault(fault) if fault in set(Fault) else Fault.CALLER,
        Reason(reason) if reason in set(Reason) else Reason.NONE,
        after_s if after_ms is None else after_ms / 1000,
        executed="x-mm-executed" in headers,
    )


def _number(digits: str) -> float | None:
    return float(digits) if digits.isascii() and digits.isdigit() and len(digits) < 16 else None


def _message(body: bytes) -> str:
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:1024].decode("utf-8", "replace")
    if isinstance(said, dict):
        said = said.get("error", said.get("detail", said))
    return said if isinstance(said, str) else orjson.dumps(said)[:1024].decode("utf-8", "replace")


def request_head(method: str, target: str, host: str, length: int, lines: Iterable[bytes]) -> bytes:
    """A request's head; raises `UnsafeHeader` for a method or target that would break it."""
    if not _TOKEN(method) or not target.isascii() or not target.isprintable() or " " in target:
        raise UnsafeHeader("not a method and a path")
    start = f"{method} {target} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n"
    return b"".join((start.encode(), *lines, b"\r\n"))
