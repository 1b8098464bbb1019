"""The V2 protocol as protobuf: bytes of ModelInferRequest and ModelInferResponse <-> tensors.

Two pairs. A host that runs a model decodes a request and encodes the answer; a daemon in front of
an external gRPC runtime encodes the request that came as JSON and decodes the runtime's answer.

Raw contents are all or none (KServe's rules and texts). An answer is raw if its request was, or if
an output is of FP16 or BF16, which have no typed contents; else its contents are typed. Requested
outputs select and order the answer, as over REST (KServe's own gRPC server ignores them).

Pure. Raw contents are handed on untouched, never element by element.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.message import DecodeError

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
    datatype_of,
    is_raw_only,
    model_error,
    to_list,
    to_raw,
)
from modelmesh.errors import MeshError, invalid
from modelmesh.pb import inference_pb2 as pb


def decode_request(body: Raw) -> InferRequest:
    """A ModelInferRequest with every tensor checked; INVALID_ARGUMENT says what is wrong."""
    message = pb.ModelInferRequest()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise invalid(f"malformed ModelInferRequest: {error}") from error
    raws = message.raw_input_contents
    if raws:
        _check_raw_rules(message)
    return InferRequest(
        message.model_name,
        _tensors(message.inputs, raws),
        message.model_version,
        message.id,
        _parameters(message.parameters),
        tuple(
            RequestedOutput(output.name, _parameters(output.parameters))
            for output in message.outputs
        ),
    )


def encode_request(request: InferRequest) -> bytes:
    """A ModelInferRequest with the tensors of a request that was decoded from elsewhere."""
    message = pb.ModelInferRequest(
        model_name=request.model_name, model_version=request.model_version, id=request.id
    )
    _put_parameters(message.parameters, request.parameters)
    raw = request.is_raw or any(map(is_raw_only, request.inputs))
    for tensor in request.inputs:
        _put(message.inputs.add(), tensor, message.raw_input_contents if raw else None)
    for output in request.outputs:
        _put_parameters(message.outputs.add(name=output.name).parameters, output.parameters)
    serialized: bytes = message.SerializeToString()
    return serialized


def decode_response(body: Raw) -> InferResponse:
    """A runtime's ModelInferResponse; what is wrong with it is the model's fault (INTERNAL)."""
    message = pb.ModelInferResponse()
    try:
        message.ParseFromString(body)
        raws = message.raw_output_contents
        if raws and len(raws) != len(message.outputs):
            raise invalid(f"{len(message.outputs)} outputs, but {len(raws)} raw contents")
        outputs = _tensors(message.outputs, raws)
    except (DecodeError, MeshError) as error:
        raise model_error(f"malformed ModelInferResponse: {error}") from error
    return InferResponse(
        message.model_name,
        outputs,
        message.model_version,
        message.id,
        _parameters(message.parameters),
    )


def encode_response(response: InferResponse, request: InferRequest) -> bytes:
    """The ModelInferResponse that answers this request."""
    outputs = answered(response, request)
    message = pb.ModelInferResponse(
        model_name=response.model_name,
        model_version=response.model_version,
        id=response.id or request.id,
    )
    raw = request.is_raw or any(map(is_raw_only, outputs))
    try:
        _put_parameters(message.parameters, response.parameters)
        for tensor in outputs:
            _put(message.outputs.add(), tensor, message.raw_output_contents if raw else None)
    except MeshError as error:
        raise model_error(f"an answer that protobuf cannot carry: {error}") from error
    serialized: bytes = message.SerializeToString()
    return serialized


def _check_raw_rules(message: pb.ModelInferRequest) -> None:
    inputs, raws = len(message.inputs), len(message.raw_input_contents)
    if inputs != raws:
        raise invalid(
            f"the number of inputs ({inputs}) does not match the expected number of raw input "
            f"contents ({raws}) for model '{message.model_name}'."
        )
    for tensor in message.inputs:
        if tensor.HasField("contents"):
            raise invalid(
                "contents field must not be specified when using raw_input_contents for input "
                f"'{tensor.name}' for model '{message.model_name}'"
            )


def _tensors(fields: Iterable[Any], raws: Iterable[bytes]) -> tuple[Tensor, ...]:
    """Input or output tensors, with the raw contents that stand behind them, if any do."""
    waiting = iter(raws)
    tensors = []
    for field in fields:
        name, datatype = field.name, field.datatype.upper()
        contents: Contents | None = next(waiting, None)
        if contents is None:
            contents_field = datatype_of(name, datatype).contents_field
            contents = list(getattr(field.contents, contents_field)) if contents_field else []
        tensor = Tensor(name, datatype, tuple(field.shape), contents, _parameters(field.parameters))
        check(tensor)
        tensors.append(tensor)
    return tuple(tensors)


def _put(field: Any, tensor: Tensor, raws: Any) -> None:
    """Fill an input or output message, contents either typed or appended to `raws`."""
    field.name, field.datatype = tensor.name, tensor.datatype
    field.shape.extend(tensor.shape)
    _put_parameters(field.parameters, tensor.parameters)
    if raws is not None:
        raws.append(bytes(to_raw(tensor)))
        return
    values = to_list(tensor)
    if tensor.datatype == "BYTES":
        values = [value.encode() if isinstance(value, str) else value for value in values]
    contents_field = datatype_of(tensor.name, tensor.datatype).contents_field
    getattr(field.contents, contents_field).extend(values)


def _parameters(fields: Mapping[str, pb.InferParameter]) -> Parameters:
    if not fields:
        return {}
    return {
        name: getattr(value, choice)
        for name, value in fields.items()
        if (choice := value.WhichOneof("parameter_choice"))
    }


def _put_parameters(fields: Any, parameters: Parameters) -> None:
    for name, value in parameters.items():
        field = fields[name]
        try:
            if isinstance(value, bool):
                field.bool_param = value
            elif isinstance(value, str):
                field.string_param = value
            elif isinstance(value, float):
                field.double_param = value
            elif value < 2**63:
                field.int64_param = value
            else:
                field.uint64_param = value
        except (ValueError, TypeError) as error:
            raise invalid(f"parameter {name!r}: {error}") from error
