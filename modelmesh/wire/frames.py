"""The frames of the `framed` wire: calls and answers as bytes on a stream between two processes.

A hop to a model host must cost microseconds, so a frame is a fixed head, then bytes that are copied
and never looked into. Little-endian:

    u32 length of what follows | u64 call id | u8 type | payload

    CALL, OPEN         f64 monotonic deadline, u32 size, (kind, metadata), body
    ANSWER, FINISH     f64 read_s, f64 written_s, u32 size, metadata, then the body, or the encoded
                       failure (empty: OK)
    MESSAGE, INBOUND   the message
    INBOUND_END, CANCEL  nothing

CALL, OPEN (a call with further messages), INBOUND, INBOUND_END and CANCEL speak of a call of the
sender; ANSWER, MESSAGE and FINISH of a call of the receiver: so both ends may call at once, each
with its own ids. A (kind, metadata) pair is a run of length-prefixed strings; the short ones are
memoised in both directions, since a daemon says the same few things all day. The times of an answer
are the seconds that its sender took to decode the call and to encode the answer; below zero, it
does not say.

The peer may be hostile (a host runs model code): whatever arrives, decoding raises `Malformed` or
nothing, and memory stays within the limit on a frame.

Pure: no sockets, no clock.
"""

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.wire.transport import NO_METADATA, Body, Metadata

CALL: Final = 1
OPEN: Final = 2
ANSWER: Final = 3
MESSAGE: Final = 4
FINISH: Final = 5
CANCEL: Final = 6
INBOUND: Final = 7
INBOUND_END: Final = 8

MOST_BYTES: Final = 64 << 20  # of one frame, unless told otherwise
LONGEST_RETRY_S: Final = 366 * 86400.0
LONGEST_TIME_S: Final = 86400.0

Frame = tuple[int, int, Body]  # type, call id, payload
Times = tuple[float, float]  # seconds for reading the call, and for writing its answer

NOT_TOLD: Final = -1.0
NO_TIMES: Final[Times] = (NOT_TOLD, NOT_TOLD)

_LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<IQB")
_CALL = struct.Struct("<IQBdI")
_CALL_PAYLOAD = struct.Struct("<dI")
_ANSWER = struct.Struct("<IQBddI")
_ANSWER_PAYLOAD = struct.Struct("<ddI")
_STRINGS = struct.Struct("<II")
_FAILURE = struct.Struct("<BBdIII")  # code, flags, retry_after_s, sizes of fault, reason, message

_AFTER_LENGTH: Final = _HEAD.size - _LENGTH.size
_CALL_REST: Final = _CALL.size - _LENGTH.size
_ANSWER_REST: Final = _ANSWER.size - _LENGTH.size
_EXECUTED, _RETRY = 1, 2

_MEMO_ENTRIES: Final = 1024
_MEMO_BYTES: Final = 1024  # longer (kind, metadata) pairs are not kept
_VIEW_BYTES: Final = 16384  # payloads from here on are views where that pins little else


class Malformed(ValueError):
    """The peer sent what is no frame, or one above the limit. The link is of no use any more."""


# --- writing: every function returns the buffers of one frame, to be joined or sent as they are


def call(
    call_id: int,
    kind: str,
    metadata: Metadata,
    deadline: float,
    body: Body,
    frame_type: int = CALL,
) -> tuple[Body, ...]:
    """A CALL, or an OPEN if told so."""
    strings = _known_call_strings(kind, metadata)
    size = _CALL_REST + len(strings) + len(body)
    return (_CALL.pack(size, call_id, frame_type, deadline, len(strings)), strings, body)


def answer(
    call_id: int, body: Body, metadata: Metadata = NO_METADATA, times: Times = NO_TIMES
) -> tuple[Body, ...]:
    """One message and OK."""
    return _with_metadata(call_id, ANSWER, metadata, body, times)


def finish(
    call_id: int,
    failure: Failure | None = None,
    metadata: Metadata = NO_METADATA,
    times: Times = NO_TIMES,
) -> tuple[Body, ...]:
    """The end of a reply; OK if `failure` is None."""
    return _with_metadata(
        call_id, FINISH, metadata, b"" if failure is None else _pack_failure(failure), times
    )


def message(call_id: int, body: Body, frame_type: int = MESSAGE) -> tuple[Body, ...]:
    """One message of a reply, or of the caller (INBOUND)."""
    return (_HEAD.pack(_AFTER_LENGTH + len(body), call_id, frame_type), body)


def sign(call_id: int, frame_type: int) -> tuple[Body, ...]:
    """A frame without payload: CANCEL or INBOUND_END."""
    return (_HEAD.pack(_AFTER_LENGTH, call_id, frame_type),)


def size_bytes(frame: tuple[Body, ...]) -> int:
    """What the frame's `length` will say."""
    size: int = _LENGTH.unpack_from(frame[0])[0]
    return size


def _with_metadata(
    call_id: int, frame_type: int, metadata: Metadata, body: Body, times: Times
) -> tuple[Body, ...]:
    strings = _call_strings("", metadata) if metadata else b""
    size = _ANSWER_REST + len(strings) + len(body)
    return (_ANSWER.pack(size, call_id, frame_type, *times, len(strings)), strings, body)


def _call_strings(kind: str, metadata: Metadata) -> bytes:
    first = kind.encode("utf-8", "replace")
    parts = [_STRINGS.pack(len(first), 0), first]
    for key, value in metadata:
        name = key.encode("utf-8", "replace")
        content = value.encode("utf-8", "replace") if isinstance(value, str) else value
        parts += (_STRINGS.pack(len(name), len(content)), name, content)
    return b"".join(parts)


# Not for answers: the few that have metadata have figures in it, which never come again.
_known_call_strings = lru_cache(_MEMO_ENTRIES)(_call_strings)


def _pack_failure(failure: Failure) -> bytes:
    retry = failure.retry_after_s
    flags = (_EXECUTED if failure.executed else 0) | (0 if retry is None else _RETRY)
    bounded = max(0.0, min(retry or 0.0, LONGEST_RETRY_S))
    texts = [text.encode("utf-8", "replace") for text in (failure.fault, failure.reason)]
    texts.append(failure.message.encode("utf-8", "replace"))
    return b"".join((_FAILURE.pack(failure.code, flags, bounded, *map(len, texts)), *texts))


# --- reading


class Decoder:
    """Bytes as they come from a socket -> frames. Raises `Malformed`, and is then of no use."""

    __slots__ = ("_most_bytes", "_need", "_rest")

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._rest = bytearray()  # the beginning of a frame that is not all here
        self._need = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes. Exhaust the iterator before the next `feed`.

        Small payloads are copies; a large one is a view of the buffer that it fills.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:
                return
            data = bytes(self._rest)
            self._rest = bytearray()
        have = len(data)
        at = 0
        while have - at >= 4:
            size = _LENGTH.unpack_from(data, at)[0]
            if not _AFTER_LENGTH <= size <= self._most_bytes:
                raise Malformed(f"a frame of {size} bytes")
            end = at + 4 + size
            if end > have:
                break
            _, call_id, frame_type = _HEAD.unpack_from(data, at)
            yield frame_type, call_id, _payload(data, at + _HEAD.size, end)
            at = end
        self._keep(data, at)

    def _keep(self, data: bytes, at: int) -> None:
        rest = len(data) - at
        if rest:
            self._rest += data[at:]
            self._need = 4 if rest < 4 else 4 + _LENGTH.unpack_from(data, at)[0]


def _payload(data: bytes, start: int, end: int) -> Body:
    if end - start < _VIEW_BYTES or 2 * (end - start) < len(data):
        return data[start:end]
    return memoryview(data)[start:end]


def parse_call(payload: Body) -> tuple[str, Metadata, float, Body]:
    """Kind, metadata, deadline and body of a CALL or OPEN."""
    try:
        deadline, size = _CALL_PAYLOAD.unpack_from(payload)
    except struct.error:
        raise Malformed("a call too short") from None
    if deadline != deadline:
        raise Malformed("a deadline that is no number")
    kind, metadata = _parse_strings(payload, _CALL_PAYLOAD.size, size)
    return kind, metadata, deadline, payload[_CALL_PAYLOAD.size + size :]


def parse_answer(payload: Body) -> tuple[Metadata, Body, Times]:
    """Metadata, body and times of an ANSWER."""
    try:
        read_s, written_s, size = _ANSWER_PAYLOAD.unpack_from(payload)
    except struct.error:
        raise Malformed("an answer too short") from None
    if not (NOT_TOLD <= read_s <= LONGEST_TIME_S and NOT_TOLD <= written_s <= LONGEST_TIME_S):
        raise Malformed("times that make no sense")
    start = _ANSWER_PAYLOAD.size
    metadata = _parse_strings(payload, start, size)[1] if size else NO_METADATA
    return metadata, payload[start + size :], (read_s, written_s)


def parse_finish(payload: Body) -> tuple[Failure | None, Metadata, Times]:
    """Failure (None: OK), metadata and times of a FINISH."""
    metadata, rest, times = parse_answer(payload)
    return (_parse_failure(bytes(rest)) if rest else None), metadata, times


def _parse_strings(payload: Body, start: int, size: int) -> tuple[str, Metadata]:
    if start + size > len(payload):
        raise Malformed("metadata beyond the end of its frame")
    block = bytes(payload[start : start + size])
    return _known_strings(block) if size <= _MEMO_BYTES else _strings(block)


def _strings(block: bytes) -> tuple[str, Metadata]:
    pairs: list[tuple[str, str | bytes]] = []
    at, end = 0, len(block)
    try:
        while at < end:
            key_size, value_size = _STRINGS.unpack_from(block, at)
            at += _STRINGS.size
            if at + key_size + value_size > end:
                raise Malformed("a string beyond the end of its frame")
            key = block[at : at + key_size].decode()
            value = block[at + key_size : at + key_size + value_size]
            pairs.append((key, value if key.endswith("-bin") else value.decode()))
            at += key_size + value_size
    except (struct.error, UnicodeDecodeError) as error:
        raise Malformed(f"strings that cannot be read: {error}") from None
    if not pairs:
        raise Malformed("no kind")
    return pairs[0][0], tuple(pairs[1:])


_known_strings = lru_cache(_MEMO_ENTRIES)(_strings)


def _parse_failure(block: bytes) -> Failure:
    try:
        code, flags, retry, *sizes = _FAILURE.unpack_from(block)
        if not 0 <= retry <= LONGEST_RETRY_S or sum(sizes) != len(block) - _FAILURE.size:
            raise Malformed("a failure whose numbers make no sense")
        fault_end = _FAILURE.size + sizes[0]
        reason_end = fault_end + sizes[1]
        return Failure(
            Code(code),
            block[reason_end:].decode(),
            Fault(block[_FAILURE.size : fault_end].decode()),
            Reason(block[fault_end:reason_end].decode()),
            retry if flags & _RETRY else None,
            bool(flags & _EXECUTED),
        )
    except (struct.error, ValueError) as error:
        raise Malformed(f"a failure that cannot be read: {error}") from None
