"""What the REST faces share: names in paths, KServe's forms of answers, and replies that translate.

KServe gives the form of an error's body (`{"error": ...}`, and FastAPI's `{"detail": ...}` where no
route is met); the status contract decides its code.
"""

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

import orjson

from modelmesh.domain.names import EMPTY
from modelmesh.errors import Code, Failure, Fault, MeshError, invalid
from modelmesh.serving.status import Readiness
from modelmesh.wire.http1_heads import STATUS
from modelmesh.wire.replies import Passing
from modelmesh.wire.transport import NO_METADATA, Call, Metadata, Reply

_BROKEN_ESCAPE: Final = re.compile("%(?![0-9A-Fa-f]{2})").search


def model_name(raw: str) -> str:
    """One segment of a raw path, decoded once: what the result holds is a name and no path."""
    if not raw:
        raise MeshError(EMPTY)
    if "%" not in raw:
        return raw
    if _BROKEN_ESCAPE(raw):
        raise invalid("the model's name in the URL holds a % that escapes nothing")
    try:
        return unquote(raw, errors="strict")
    except UnicodeDecodeError:
        raise invalid("the model's name in the URL is not UTF-8") from None


def unknown(model_id: str) -> Failure:
    return Failure(Code.NOT_FOUND, f"Model with name {model_id} does not exist.")


def no_route(call: Call) -> None:
    call.reply.answer(b'{"detail":"Not Found"}', ((STATUS, "404"),))


def wrong_verb(call: Call, allowed: str) -> None:
    call.reply.answer(b'{"detail":"Method Not Allowed"}', ((STATUS, "405"), ("allow", allowed)))


def answer(call: Call, value: object) -> None:
    """200 with compact JSON."""
    call.reply.answer(orjson.dumps(value))


def answer_names(call: Call, names: Iterator[str]) -> None:
    answer(call, {"models": list(names)})


def answer_readiness(call: Call, model_id: str, readiness: Readiness) -> None:
    """Whether a request would be served, as both protocols say it."""
    if not readiness.known:
        raise MeshError(unknown(model_id))
    if not readiness.ready:
        message = f"Model with name {model_id} is not ready. {readiness.detail}"
        raise MeshError(Failure(Code.UNAVAILABLE, message.rstrip(), Fault.MODEL))
    answer(call, {"name": model_id, "ready": True})


class NotFoundByName(Passing):
    """Says NOT_FOUND as KServe does: with the model's name."""

    __slots__ = ("_model_id",)

    def __init__(self, reply: Reply, model_id: str) -> None:
        super().__init__(reply)
        self._model_id = model_id

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        if failure is not None and failure.code is Code.NOT_FOUND:
            failure = unknown(self._model_id)
        self._reply.finish(failure, metadata)
