"""What a call between daemons says beside its body: hops and model as metadata, and back.

The body is never touched, so all that the receiver has to know travels in headers of one prefix,
on the peer port only. Who does not know one of them ignores it: daemons of several versions talk to
each other. Kinds and answers' headers that gRPC would not carry get names that it does.

Pure. It must never decide anything by what it reads.
"""

from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

from modelmesh.domain.fleet import Hops, Intent
from modelmesh.domain.names import fits_header
from modelmesh.errors import MeshError, invalid
from modelmesh.wire.transport import NO_METADATA, Call, Metadata

PREFIX: Final = "mm-hop-"
INTENT: Final = "mm-hop-intent"
SENDER: Final = "mm-hop-sender"
TRIED: Final = "mm-hop-tried"
MODEL: Final = "mm-hop-model-bin"
QUEUE: Final = "mm-hop-queue"

SERVICE: Final = "/modelmesh.peer.v1.Peer/"
HEALTH: Final = SERVICE + "Health"

# More than any walk takes; a list without end would be somebody's mistake or attack.
MOST_TRIED: Final = 64

# Headers of REST answers that are the transport's own on gRPC.
_CARRIED: Final = {"content-type": "mm-hop-content-type", ":status": "mm-hop-status"}
_RESTORED: Final = {carried: name for name, carried in _CARRIED.items()}
_INTENTS: Final = {intent.value: intent for intent in Intent}


def to_metadata(hops: Hops, model_id: str, metadata: Metadata) -> Metadata:
    """The call's metadata and what it has behind it; hop headers that came along are dropped."""
    if metadata:
        metadata = tuple([header for header in metadata if header[0][:7] != PREFIX])
    tried = [(TRIED, _in_ascii(instance_id)) for instance_id in hops.tried] if hops.tried else ()
    return (
        *metadata,
        (INTENT, hops.intent.value),
        (SENDER, _in_ascii(hops.sender)),
        (MODEL, model_id.encode("utf-8", "surrogatepass")),
        *tried,
    )


def receive(call: Call) -> tuple[str, Hops]:
    """The model ("" if none) and the hops of a call that came from another daemon.

    The call keeps the metadata that its caller sent, and gets its own kind back. INVALID_ARGUMENT
    for what no daemon writes: no sender, an unknown intent, a header twice.
    """
    found: dict[str, str | bytes] = {}
    tried: list[str] = []
    rest: list[tuple[str, str | bytes]] = []
    for header in call.metadata:
        key, value = header
        if key[:7] != PREFIX:
            rest.append(header)
        elif key == TRIED:
            tried.append(_instance_id(value))
        elif key in found:
            raise invalid(f"{key} is repeated")
        else:
            found[key] = value
    intent = _INTENTS.get(_text(found.get(INTENT, "")))
    sender = _instance_id(found.get(SENDER, ""))
    if intent is None or not sender or len(tried) > MOST_TRIED:
        raise _malformed()
    call.metadata = tuple(rest)
    if call.kind.startswith(SERVICE):
        call.kind = call.kind[len(SERVICE) :]
    return _model_id(found.get(MODEL, b"")), Hops(intent, sender, tuple(tried))


def sent_kind(kind: str) -> str:
    """The method path that carries this kind: REST's kinds have none of their own."""
    return kind if kind[:1] == "/" else SERVICE + kind


def with_report(queue_depth: int | None, metadata: Metadata) -> Metadata:
    """An answer's metadata on its way back; None: nothing to report this time."""
    if metadata:
        metadata = tuple([(_CARRIED.get(key, key), value) for key, value in metadata])
    return metadata if queue_depth is None else (*metadata, (QUEUE, str(queue_depth)))


def report_of(metadata: Metadata) -> tuple[int | None, Metadata]:
    """The queue depth that an answer reports (None if it does not), and the caller's metadata."""
    if not metadata:
        return None, NO_METADATA
    queue_depth: int | None = None
    rest: list[tuple[str, str | bytes]] = []
    for key, value in metadata:
        if key == QUEUE:
            queue_depth = _count(value)
        elif key in _RESTORED:
            rest.append((_RESTORED[key], value))
        elif key[:7] != PREFIX:
            rest.append((key, value))
    return queue_depth, tuple(rest)


def _count(value: str | bytes) -> int | None:
    digits = _text(value)
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None


@lru_cache(1024)
def _in_ascii(instance_id: str) -> str:
    """As it is where a header carries it; else percent-encoded."""
    if fits_header(instance_id) and "%" not in instance_id:
        return instance_id
    return quote(instance_id, safe="")


def _instance_id(value: str | bytes) -> str:
    encoded = _text(value)
    if "%" not in encoded:
        return encoded
    try:
        return unquote(encoded, errors="strict")
    except UnicodeDecodeError:
        raise _malformed() from None


def _model_id(value: str | bytes) -> str:
    try:
        return value if isinstance(value, str) else value.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise _malformed() from None


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _malformed() -> MeshError:
    return invalid("these are not the headers of a call between daemons")
