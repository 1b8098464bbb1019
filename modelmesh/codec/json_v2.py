"""The V2 protocol over REST: JSON, and JSON with raw tensors behind it, <-> tensors.

The bytes of an answer are KServe's, key for key: in plain JSON the absent is null; in the binary
form keys stand in another order and the absent is left out. Data are always written flat.
An output is binary if its own `binary_data` says so, else if the request's `binary_data_output`
does (KServe forgets the latter as soon as any output is listed). Parameters of an answer are what
the model gave; the request's are not echoed by themselves, its id is.

NaN and Infinity are no JSON: in a request they are refused, in an answer they become null, and so
null in floating-point data is read as NaN. FP16 and BF16 travel in binary only.

Pure. Whatever bytes come in, nothing but INVALID_ARGUMENT comes out.
"""

from dataclasses import dataclass
from math import nan
from typing import Any, Final

import orjson

from modelmesh.codec.json_body import parse_object
from modelmesh.codec.tensors import (
    Contents,
    InferRequest,
    InferResponse,
    Parameters,
    Raw,
    RequestedOutput,
    Tensor,
    answered,
    check,
    check_values,
    datatype_of,
    flatten,
    is_raw_only,
    model_error,
    to_list,
    to_raw,
    to_text,
)
from modelmesh.errors import MeshError, invalid

_NO_HEADER: Final = (
    "received byte inputs, but the'Inference-Header-Content-Length' header is missing."
)
_PARAMETER_TYPES: Final = (str, bool, int, float)


def decode_request(body: Raw, model_name: str, header_length: str = "") -> InferRequest:
    """A request with every tensor checked.

    `header_length` is the value of `Inference-Header-Content-Length`, "" if there was none.
    """
    fields, tail = _split(body, header_length)
    inputs = fields.get("inputs")
    if not isinstance(inputs, list):
        raise invalid(f"'inputs' must be a list of tensors for model '{model_name}'")
    tensors = tuple(_input(value, model_name, tail) for value in inputs)
    if tail.rest():
        raise invalid(f"{tail.rest()} bytes are left behind the last binary input")
    return InferRequest(
        model_name,
        tensors,
        id="" if fields.get("id") is None else _text(fields["id"], "'id'"),
        parameters=_parameters(fields, "binary_data_output"),
        outputs=_requested(fields),
    )


def encode_response(response: InferResponse, request: InferRequest) -> tuple[bytes, int | None]:
    """The body that answers this request, and the length of its JSON if raw tensors follow it."""
    outputs = answered(response, request)
    default = request.parameters.get("binary_data_output") is True
    asked = {o.name: o.parameters.get("binary_data", default) for o in request.outputs}
    binary = [asked.get(tensor.name, default) is True for tensor in outputs]
    answer_id = response.id or request.id or None
    try:
        if any(binary):
            return _binary(response, answer_id, list(zip(outputs, binary, strict=True)))
        answer = {
            "model_name": response.model_name,
            "model_version": response.model_version or None,
            "id": answer_id,
            "parameters": response.parameters or None,
            "outputs": [
                {
                    "name": tensor.name,
                    "shape": tensor.shape,
                    "datatype": tensor.datatype,
                    "parameters": tensor.parameters or None,
                    "data": _data(tensor),
                }
                for tensor in outputs
            ],
        }
        return orjson.dumps(answer), None
    except TypeError as error:
        raise model_error(f"the model's answer is not JSON: {error}") from error


def _binary(
    response: InferResponse, answer_id: str | None, outputs: list[tuple[Tensor, bool]]
) -> tuple[bytes, int]:
    """The form with raw tensors behind the JSON."""
    raws: list[Raw] = []
    described = []
    for tensor, is_binary in outputs:
        output: dict[str, Any] = {
            "name": tensor.name,
            "shape": tensor.shape,
            "datatype": tensor.datatype,
        }
        parameters = tensor.parameters
        if is_binary:
            raws.append(to_raw(tensor))
            parameters = {**parameters, "binary_data_size": memoryview(raws[-1]).nbytes}
        if parameters:
            output["parameters"] = parameters
        if not is_binary:
            output["data"] = _data(tensor)
        described.append(output)
    answer: dict[str, Any] = {
        "id": answer_id,
        "model_name": response.model_name,
        "model_version": response.model_version or None,
        "outputs": described,
    }
    if response.parameters:
        answer["parameters"] = response.parameters
    header = orjson.dumps(answer)
    return b"".join([header, *raws]), len(header)


def _data(tensor: Tensor) -> list[Any]:
    """The elements of an output as JSON takes them."""
    if is_raw_only(tensor):
        raise _no_json(tensor.name, tensor.datatype, "output")
    return to_text(tensor) if tensor.datatype == "BYTES" else to_list(tensor)


def _no_json(name: str, datatype: str, role: str) -> MeshError:
    return invalid(
        f"Sending {datatype} data via JSON is not supported. "
        f"Please use the binary data format for {role} {name}"
    )


@dataclass(slots=True)
class _Tail:
    """The raw tensors behind the JSON of a request, taken from the front; None: no such form."""

    raw: memoryview | None
    at: int = 0

    def take(self, size_bytes: object, name: str) -> memoryview:
        if self.raw is None:
            raise invalid(_NO_HEADER)
        if type(size_bytes) is not int or not 0 <= size_bytes <= self.rest():
            raise invalid(
                f"'binary_data_size' of input '{name}' is {size_bytes!r}, "
                f"and {self.rest()} bytes are left in the body"
            )
        self.at += size_bytes
        return self.raw[self.at - size_bytes : self.at]

    def rest(self) -> int:
        return 0 if self.raw is None else len(self.raw) - self.at


def _split(body: Raw, header_length: str) -> tuple[dict[str, Any], _Tail]:
    """The JSON and what follows it."""
    if not header_length:
        try:
            return parse_object(body), _Tail(None)
        except MeshError:
            if _has_tail(bytes(body)):
                raise invalid(_NO_HEADER) from None
            raise
    view = memoryview(body)
    digits = header_length.isascii() and header_length.isdigit() and len(header_length) < 20
    size = int(header_length) if digits else -1
    if not 0 <= size <= len(view):
        raise invalid(
            f"'Inference-Header-Content-Length' is {header_length[:40]!r}, "
            f"and the body has {len(view)} bytes"
        )
    return parse_object(view[:size]), _Tail(view[size:])


def _has_tail(body: bytes) -> bool:
    """Whether what is no JSON looks like JSON with raw tensors behind it: bytes no text has."""
    try:
        return "\0" in body.decode()
    except UnicodeDecodeError:
        return True


def _input(value: object, model_name: str, tail: _Tail) -> Tensor:
    """One input, its contents from the JSON or from the tail."""
    if not isinstance(value, dict):
        raise invalid(f"'inputs' must be a list of tensors for model '{model_name}'")
    name = _text(value.get("name"), "the name of an input")
    datatype = value.get("datatype")
    datatype = datatype_of(name, datatype.upper() if isinstance(datatype, str) else datatype).name
    shape = value.get("shape")
    if not isinstance(shape, list) or not set(map(type, shape)) <= {int}:
        raise invalid(f"'shape' of input '{name}' must be a list of integers")
    parameters = _parameters(value, "")
    size_bytes = parameters.pop("binary_data_size", None)
    contents: Contents
    if (data := value.get("data")) is not None:
        contents = _values(name, datatype, data)
    elif size_bytes is not None:
        contents = tail.take(size_bytes, name)
    else:
        raise invalid(f"'data' field is missing for input '{name}' for model '{model_name}'")
    tensor = Tensor(name, datatype, tuple(shape), contents, parameters)
    check(tensor)
    check_values(tensor)
    return tensor


def _values(name: str, datatype: str, data: object) -> list[Any]:
    """The flat elements of JSON data, made into the types of the datatype where nothing is lost."""
    if not isinstance(data, list):
        raise invalid(f"'data' of input '{name}' must be a list")
    _, values = flatten(name, data)
    if not values:
        return values
    if datatype in ("FP16", "BF16"):
        raise _no_json(name, datatype, "input")
    kinds = set(map(type, values))
    if datatype == "BYTES":
        return [value.encode() if isinstance(value, str) else value for value in values]
    if datatype == "BOOL":
        return [bool(value) if value in (0, 1) else value for value in values]
    if datatype in ("FP32", "FP64"):
        return [nan if v is None else v for v in values] if type(None) in kinds else values
    return [_whole(value) for value in values] if float in kinds else values


def _whole(value: object) -> object:
    """1.0 is 1 where an integer is wanted: some clients write all numbers so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _requested(fields: dict[str, Any]) -> tuple[RequestedOutput, ...]:
    outputs = fields.get("outputs")
    if outputs is None:
        return ()
    if not isinstance(outputs, list) or not set(map(type, outputs)) <= {dict}:
        raise invalid("'outputs' must be a list of requested outputs")
    return tuple(
        RequestedOutput(
            _text(output.get("name"), "the name of an output"),
            _parameters(output, "binary_data"),
        )
        for output in outputs
    )


def _parameters(fields: dict[str, Any], switch: str) -> Parameters:
    """The `parameters` of a request, input or output; the one called `switch` must be a bool."""
    parameters = fields.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise invalid("'parameters' must be an object")
    for name, value in parameters.items():
        if not isinstance(value, _PARAMETER_TYPES) or (
            name == switch and not isinstance(value, bool)
        ):
            raise invalid(f"parameter '{name}' has a value of the wrong type")
    return parameters


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise invalid(f"{what} must be a string")
    return value
