"""From a REST inference request to the serving room: the hot path of both REST faces.

The body is passed on as it came, and so is the answer: only the model's name is decoded, and the
headers are looked through once for those that mean something.
"""

from typing import Final

from modelmesh.api.addressing import address
from modelmesh.api.rest_answers import NotFoundByName, model_name
from modelmesh.api.serving_face import Serving
from modelmesh.errors import invalid
from modelmesh.wire.kinds import BINARY_HEADER, MODEL_ID, MODEL_ID_BIN
from modelmesh.wire.transport import NO_METADATA, Call, Metadata, text

_ENCODING: Final = "content-encoding"
_WATCHED: Final = frozenset(
    {BINARY_HEADER, MODEL_ID, MODEL_ID_BIN, "mm-vmodel-id", "mm-vmodel-id-bin", _ENCODING}
)


def infer(serving: Serving, kind: str, raw_name: str, call: Call) -> None:
    """Pass the call on as one of this kind; raises `MeshError` for what contradicts itself."""
    model_id = model_name(raw_name)
    metadata = NO_METADATA
    for name, _ in call.metadata:
        if name in _WATCHED:
            metadata = _checked(call.metadata, model_id)
            break
    reply = call.reply
    if not serving.is_registered(model_id):
        reply = NotFoundByName(reply, model_id)
    serving.infer(model_id, Call(kind, call.body, reply, metadata, call.deadline))


def _checked(metadata: Metadata, model_id: str) -> Metadata:
    """What the runtime needs of the headers, once they agree with the path and each other."""
    named, _ = address(metadata)
    if named and named != model_id:
        raise invalid("a header names another model than the URL does")
    for name, value in metadata:
        if name == _ENCODING and text(value).lower() != "identity":
            raise invalid("a body with a Content-Encoding is not understood")
    return tuple(header for header in metadata if header[0] == BINARY_HEADER)
