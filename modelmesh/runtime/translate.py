"""V1 and V2 JSON for a model server that speaks gRPC only: to ModelInfer and back.

Our own hosts read the JSON themselves; only an external runtime needs this. Pure; above 64 KiB the
caller runs it off the loop.
"""

from collections.abc import Callable
from typing import Final

from modelmesh.codec import json_v1, json_v2, proto_v2
from modelmesh.wire import kinds
from modelmesh.wire.transport import NO_METADATA, Body, Metadata

OFF_LOOP_BYTES: Final = 64 << 10
TRANSLATED: Final = frozenset({kinds.V1_PREDICT, kinds.V2_INFER})

Translated = tuple[Body, Metadata]
Back = Callable[[Body], Translated]


def to_infer(kind: str, body: Body, header_length: str, model_id: str) -> tuple[bytes, Back]:
    """A ModelInferRequest, and what makes its response JSON again. `MeshError` for bad input."""
    if kind == kinds.V1_PREDICT:
        asked = json_v1.to_request(model_id, json_v1.decode_request(body))

        def back_v1(answer: Body) -> tuple[Body, Metadata]:
            response = proto_v2.decode_response(answer)
            return json_v1.encode_response(json_v1.from_response(response)), NO_METADATA

        return proto_v2.encode_request(asked), back_v1

    request = json_v2.decode_request(body, model_id, header_length)

    def back_v2(answer: Body) -> tuple[Body, Metadata]:
        written, json_bytes = json_v2.encode_response(proto_v2.decode_response(answer), request)
        if json_bytes is None:
            return written, NO_METADATA
        return written, ((kinds.BINARY_HEADER, str(json_bytes)), kinds.BINARY_BODY)

    return proto_v2.encode_request(request), back_v2
