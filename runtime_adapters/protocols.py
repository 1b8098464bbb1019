"""A call of one of the inference kinds -> what the model is asked, and back.

Here the protocols end: below this file there are arrays, above it there are bytes. Each reader
decodes one kind and leaves behind how its answer is to be encoded.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from modelmesh.codec import json_v1, json_v2, proto_v2
from modelmesh.codec.tensors import InferRequest, InferResponse
from modelmesh.wire import kinds
from modelmesh.wire.transport import NO_METADATA, Body, Call, Metadata, text
from runtime_adapters import tensors
from runtime_adapters.base import Array, BadInput, Inputs

Outputs = Mapping[str, Array]
Encoded = tuple[Body, Metadata]

_BINARY_SWITCH: Final = "binary_data_output"  # of the protocol, not of the model


@dataclass(frozen=True, slots=True)
class Ask:
    """One decoded call: what it asks, and how its answer is written."""

    call: Call
    inputs: Inputs
    encode: Callable[[Outputs], Encoded]


def read(call: Call, model_id: str) -> Ask:
    """Decode a call; raises MeshError or BadInput for what its caller got wrong."""
    return Ask(call, *_READERS[call.kind](call, model_id))


def write_explanation(explanation: object) -> bytes:
    """Any JSON value, numpy's included; raises TypeError for anything else."""
    return orjson.dumps(explanation, option=orjson.OPT_SERIALIZE_NUMPY)


def _read_proto(call: Call, model_id: str) -> tuple[Inputs, Callable[[Outputs], Encoded]]:
    request = proto_v2.decode_request(call.body)

    def encode(outputs: Outputs) -> Encoded:
        response = _response(request, model_id, outputs, raw=request.is_raw)
        return proto_v2.encode_response(response, request), NO_METADATA

    return _inputs(request), encode


def _read_v2(call: Call, model_id: str) -> tuple[Inputs, Callable[[Outputs], Encoded]]:
    header = text(call.header(kinds.BINARY_HEADER))
    request = json_v2.decode_request(call.body, model_id, header)

    def encode(outputs: Outputs) -> Encoded:
        response = _response(
            request, model_id, outputs, raw=False, answer_id=request.id or str(uuid.uuid4())
        )
        body, header_bytes = json_v2.encode_response(response, request)
        if header_bytes is None:
            return body, NO_METADATA
        return body, ((kinds.BINARY_HEADER, str(header_bytes)), kinds.BINARY_BODY)

    return _inputs(request), encode


def _read_v1(call: Call, model_id: str) -> tuple[Inputs, Callable[[Outputs], Encoded]]:
    instances = json_v1.instances(json_v1.decode_request(call.body))
    arrays, parameters = tensors.of_instances(instances)

    def encode(outputs: Outputs) -> Encoded:
        response = InferResponse(
            model_id,
            tuple(tensors.of_array(name, array, raw=False) for name, array in outputs.items()),
        )
        return json_v1.encode_response(json_v1.from_response(response)), NO_METADATA

    return Inputs(arrays, parameters), encode


def _inputs(request: InferRequest) -> Inputs:
    arrays = {tensor.name: tensors.to_array(tensor) for tensor in request.inputs}
    if len(arrays) != len(request.inputs):
        raise BadInput("two inputs have the same name")
    parameters = request.parameters
    if _BINARY_SWITCH in parameters:
        parameters = {name: value for name, value in parameters.items() if name != _BINARY_SWITCH}
    return Inputs(arrays, parameters, tuple(output.name for output in request.outputs))


def _response(
    request: InferRequest, model_id: str, outputs: Outputs, *, raw: bool, answer_id: str = ""
) -> InferResponse:
    return InferResponse(
        request.model_name or model_id,
        tuple(tensors.of_array(name, array, raw=raw) for name, array in outputs.items()),
        request.model_version,
        answer_id or request.id,
    )


_READERS: Final = {
    kinds.MODEL_INFER: _read_proto,
    kinds.V2_INFER: _read_v2,
    kinds.V1_PREDICT: _read_v1,
    kinds.V1_EXPLAIN: _read_v1,
}
KINDS: Final = frozenset(_READERS)
