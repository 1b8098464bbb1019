"""From a REST inference request to the serving room: the hot path of both REST faces.

The body is passed on as it came, and so is the answer: only the model's name is decoded, and the
headers are looked through once for those that mean something.
"""

from typing import Final

from modelmesh.api.addressing import BALANCED, NOWHERE, Address, address
from modelmesh.api.rest_answers import NotFoundByName, model_name
from modelmesh.api.serving_face import Serving
from modelmesh.errors import invalid
from modelmesh.policy.resending import IDEMPOTENT_HEADER
from modelmesh.wire.kinds import BINARY_HEADER, MODEL_ID, MODEL_ID_BIN
from modelmesh.wire.transport import Call, Metadata, text

_ENCODING: Final = "content-encoding"
_NAMES: Final = frozenset({MODEL_ID, MODEL_ID_BIN, "mm-vmodel-id", "mm-vmodel-id-bin"})
_KEPT: Final = frozenset({BINARY_HEADER, IDEMPOTENT_HEADER})
_WATCHED: Final = _NAMES | _KEPT | {BALANCED, _ENCODING}


def infer(serving: Serving, kind: str, raw_name: str, call: Call) -> None:
    """Pass the call on as one of this kind; raises `MeshError` for what contradicts itself."""
    model_id = model_name(raw_name)
    there = NOWHERE
    for name, _ in call.metadata:
        if name in _WATCHED:
            there = _checked(call.metadata, model_id)
            break
    reply = call.reply
    if not serving.is_registered(model_id):
        reply = NotFoundByName(reply, model_id)
    call = Call(kind, call.body, reply, there.passed, call.deadline)
    if there.vmodel:
        serving.infer_vmodel(model_id, call, balanced=there.balanced)
    elif there.names:
        serving.infer(model_id, call, balanced=there.balanced)
    else:
        serving.infer_named(model_id, call, balanced=there.balanced)


def _checked(metadata: Metadata, model_id: str) -> Address:
    """What the headers say, once they agree with the path and each other; `passed` is what the
    runtime and the mesh need of them."""
    there = address(metadata)
    if there.names not in ((), (model_id,)):
        raise invalid("a header names another model than the URL does")
    for name, value in metadata:
        if name == _ENCODING and text(value).lower() != "identity":
            raise invalid("a body with a Content-Encoding is not understood")
    return there._replace(passed=tuple([header for header in metadata if header[0] in _KEPT]))
