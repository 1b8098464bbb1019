"""The V1 protocol: `{"instances": [...]}` in, `{"predictions": [...]}` out.

V1 has no types: instances are whatever the model understands, so a request stays a Python dict with
all its keys. Only towards an external runtime, which speaks V2, are instances made into one tensor
and outputs into predictions.

NaN and Infinity are no JSON: a request with them is refused, in an answer they become null.
CloudEvents are not understood here: an event in binary mode is plain JSON to this room.
Pure, and without numpy: answers are plain Python values.
"""

from typing import Any

import orjson

from modelmesh.codec.json_body import parse_object
from modelmesh.codec.tensors import (
    InferRequest,
    InferResponse,
    Raw,
    Tensor,
    check,
    check_values,
    flatten,
    model_error,
    nest,
    to_list,
    to_text,
)
from modelmesh.errors import MeshError, invalid


def decode_request(body: Raw) -> dict[str, Any]:
    """The request with all its keys; `instances` and `inputs` are lists where they are there."""
    request = parse_object(body)
    for key in ("instances", "inputs"):
        if key in request and not isinstance(request[key], list):
            raise invalid(f'Expected "{key}" to be a list')
    return request


def instances(request: dict[str, Any]) -> list[Any]:
    """What to predict: `inputs` if the request has them, else `instances`; one must be there."""
    found = request.get("inputs", request.get("instances"))
    if not isinstance(found, list):
        raise invalid('Expected "instances" to be a list')
    return found


def encode_response(answer: dict[str, Any]) -> bytes:
    """The body of an answer; what JSON cannot hold is the model's fault (INTERNAL)."""
    try:
        return orjson.dumps(answer)
    except TypeError as error:
        raise model_error(f"the model's answer is not JSON: {error}") from error


def to_request(model_name: str, request: dict[str, Any]) -> InferRequest:
    """The V2 request that an external runtime gets: one tensor `input-0` of all instances.

    Numbers become INT64 if all are whole, else FP64; strings BYTES; true and false BOOL.
    """
    shape, values = flatten("instances", instances(request))
    tensor = Tensor("input-0", _datatype(values), shape, values)
    check(tensor)
    check_values(tensor)
    return InferRequest(model_name, (tensor,))


def from_response(response: InferResponse) -> dict[str, Any]:
    """The V1 answer: the rows of the only output, or of several, an object by name for each row."""
    columns = {tensor.name: _rows(tensor) for tensor in response.outputs}
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    if len(set(map(len, columns.values()))) > 1:
        raise model_error("the outputs differ in their number of rows, which V1 cannot express")
    rows = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}


def _datatype(values: list[Any]) -> str:
    kinds = set(map(type, values))
    if kinds <= {int, float}:
        return "INT64" if kinds == {int} and max(values) < 2**63 else "FP64"
    if kinds == {str}:
        return "BYTES"
    if kinds == {bool}:
        return "BOOL"
    raise invalid("this model takes instances of numbers, of strings, or of true and false only")


def _rows(tensor: Tensor) -> list[Any]:
    try:
        check(tensor)
        values = to_text(tensor) if tensor.datatype == "BYTES" else to_list(tensor)
    except MeshError as error:
        raise model_error(f"an answer that V1 cannot express: {error}") from error
    return nest(values, tensor.shape)
