"""The model id inside a serialised protobuf message: read it, or put another in its place.

A request is routed by a name that stands inside a message which nobody here wants to decode:
decoding costs more than everything else on the way. So the wire format is walked, one level of
fields for each number of the path, and nothing is copied but the id. What is found is exactly what
a decoder would see: of repeated occurrences of the string the last one wins, over all occurrences
of its parents, which a decoder merges. (ModelMesh's splicer took the first; then a router and the
model behind it could read two different ids from one message.)

Pure. Must never change a byte beside the field and the lengths around it, and must raise nothing
but `MalformedMessage` for bytes that come from outside. A path is one or more field numbers, such
as (1,) for ModelInferRequest.model_name; all but the last are embedded messages.
"""

from collections.abc import Sequence
from typing import Final

Message = bytes | bytearray | memoryview
Path = tuple[int, ...]
_Span = tuple[int, int, int]  # of one field: where its tag, its value and what follows it begin

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5

# Fields of one level that are looked at: the walk costs about 0.1 us a field on the event loop, and
# two bytes make a field. Real messages have a handful; 65,536 (10 ms) is none that we know.
MOST_FIELDS: Final = 65_536


class MalformedMessage(ValueError):
    """Not a protobuf message, cut off, with groups, or with text that is not UTF-8."""


def find(message: Message, path: Path) -> str:
    """The string at the path; "" if it is absent, as for any string of proto3."""
    spans = [(0, 0, len(message))]
    for number in path:
        spans = _occurrences(message, number, spans)
    if not spans:
        return ""
    _, start, end = spans[-1]
    try:
        return str(message[start:end], "utf-8")
    except UnicodeDecodeError as error:
        raise MalformedMessage("the model id is not valid UTF-8") from error


def inject(message: Message, path: Path, model_id: str) -> bytes:
    """The message with this id at the path, parents created where they are missing."""
    return b"".join(_spliced(memoryview(message), path, model_id.encode(), 0, len(message)))


def _spliced(
    message: memoryview, path: Path, value: bytes, start: int, end: int
) -> Sequence[bytes | memoryview]:
    """The pieces of the new message between `start` and `end`.

    Only the last occurrence is replaced at each level: it comes last in the decoder's merge too.
    """
    spans = _occurrences(message, path[0], [(start, start, end)])
    tag_at, inner_start, inner_end = spans[-1] if spans else (start, start, start)
    inner: Sequence[bytes | memoryview] = [value]
    if len(path) > 1:
        inner = _spliced(message, path[1:], value, inner_start, inner_end)
    tag = _encoded(path[0] << 3 | _LENGTH_DELIMITED)
    size = _encoded(sum(map(len, inner)))
    return [message[start:tag_at], tag, size, *inner, message[inner_end:end]]


def _occurrences(message: Message, number: int, parents: list[_Span]) -> list[_Span]:
    """Every length-delimited field of this number in the values of these parents, in order.

    The whole level is walked, so that a later occurrence is seen and what is cut off is refused.
    Tags and sizes of one byte, nearly all there are, are read in place.
    """
    spans: list[_Span] = []
    wanted = number << 3 | _LENGTH_DELIMITED
    left = MOST_FIELDS
    for _, at, end in parents:
        while at < end:
            tag_at = at
            tag = message[at]
            at += 1
            if tag > 127:
                tag, at = _decoded(message, tag_at, end)
            wire_type = tag & 7
            if wire_type == _LENGTH_DELIMITED and at < end:
                size = message[at]
                at += 1
                if size > 127:
                    size, at = _decoded(message, at - 1, end)
                if tag == wanted:
                    spans.append((tag_at, at, at + size))
                at += size
            elif wire_type == _VARINT:
                _, at = _decoded(message, at, end)
            elif wire_type == _FIXED64:
                at += 8
            elif wire_type == _FIXED32:
                at += 4
            else:
                raise MalformedMessage(f"wire type {wire_type} at byte {tag_at}, or cut off there")
            left -= 1
            if not 8 <= tag < 1 << 32 or not left:
                raise MalformedMessage(f"field number out of range, or too many, at byte {tag_at}")
        if at != end:
            raise MalformedMessage(f"cut off: {at - end} bytes are missing")
    return spans


def _decoded(message: Message, at: int, end: int) -> tuple[int, int]:
    """The varint at this place, and what follows it."""
    value = shift = 0
    for position in range(at, min(at + 10, end)):
        byte = message[position]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position + 1
        shift += 7
    raise MalformedMessage(f"a number is cut off or too long at byte {at}")


def _encoded(value: int) -> bytes:
    """The number as a varint."""
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    digits.append(value)
    return bytes(digits)
