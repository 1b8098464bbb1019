"""V2 as protobuf: round trips, KServe's rules for raw contents, hostile bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.codec.proto_v2 import (
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from modelmesh.codec.tensors import (
    InferRequest,
    InferResponse,
    RequestedOutput,
    Tensor,
    is_raw_only,
    to_list,
)
from modelmesh.errors import Code, Fault, MeshError
from modelmesh.pb import inference_pb2 as pb
from tests.codec.strategies import floats, read_or_refused, requests, responses

IRIS = [6.8, 2.8, 4.8, 1.4, 6.0, 3.4, 4.5, 1.6]
ASK_NOTHING = InferRequest("m", ())


def _listed(tensors: tuple[Tensor, ...]) -> list[tuple[object, ...]]:
    return [(t.name, t.datatype, t.shape, to_list(t), t.parameters) for t in tensors]


@given(requests())
def test_a_request_comes_back_as_it_was(request_: InferRequest) -> None:
    back = decode_request(memoryview(encode_request(request_)))
    assert _listed(back.inputs) == _listed(request_.inputs)
    assert back.is_raw == any(map(is_raw_only, request_.inputs))
    assert (back.model_name, back.model_version, back.id, back.parameters, back.outputs) == (
        request_.model_name,
        request_.model_version,
        request_.id,
        request_.parameters,
        request_.outputs,
    )


@given(responses(), st.booleans())
def test_a_response_comes_back_as_it_was(response: InferResponse, raw: bool) -> None:
    asked = InferRequest("m", (Tensor("x", "FP64", (1,), floats(1)),)) if raw else ASK_NOTHING
    body = encode_response(response, asked)
    back = decode_response(body)
    assert _listed(back.outputs) == _listed(response.outputs)
    assert (back.model_name, back.id, back.parameters) == (
        response.model_name,
        response.id,
        response.parameters,
    )
    is_raw = raw or any(map(is_raw_only, response.outputs))
    raws = pb.ModelInferResponse.FromString(body).raw_output_contents
    assert len(raws) == (len(response.outputs) if is_raw else 0)


def test_the_iris_request_typed_and_raw() -> None:
    message = pb.ModelInferRequest(model_name="iris", id="7")
    tensor = message.inputs.add(name="input-0", datatype="FP64", shape=[2, 4])
    message.raw_input_contents.append(floats(*IRIS))
    raw = decode_request(message.SerializeToString())
    assert (raw.id, raw.is_raw, raw.inputs[0].contents) == ("7", True, floats(*IRIS))
    del message.raw_input_contents[:]
    tensor.contents.fp64_contents.extend(IRIS)
    assert decode_request(message.SerializeToString()).inputs[0].contents == IRIS


def test_the_answer_is_as_raw_as_the_question_and_echoes_its_id() -> None:
    answer = InferResponse("m", (Tensor("out", "INT64", (2,), [1, 1]),))
    typed = pb.ModelInferResponse.FromString(encode_response(answer, InferRequest("m", (), id="7")))
    assert (typed.id, typed.outputs[0].contents.int64_contents) == ("7", [1, 1])
    asked = InferRequest("m", (Tensor("x", "FP64", (0,), b""),))
    raw = pb.ModelInferResponse.FromString(encode_response(answer, asked))
    assert raw.raw_output_contents == [b"\1\0\0\0\0\0\0\0" * 2]
    assert not raw.outputs[0].HasField("contents")


def test_half_precision_makes_the_whole_answer_raw() -> None:
    outputs = (Tensor("a", "FP32", (1,), [1.0]), Tensor("b", "FP16", (1,), [1.0]))
    message = pb.ModelInferResponse.FromString(
        encode_response(InferResponse("m", outputs), ASK_NOTHING)
    )
    assert message.raw_output_contents == [floats(1, code="f"), b"\x00\x3c"]


def test_requested_outputs_select_and_order_and_an_unknown_one_is_refused() -> None:
    outputs = tuple(Tensor(name, "FP64", (1,), [1.0]) for name in "abc")
    asked = InferRequest("m", (), outputs=(RequestedOutput("c"), RequestedOutput("a")))
    message = decode_response(encode_response(InferResponse("m", outputs), asked))
    assert [tensor.name for tensor in message.outputs] == ["c", "a"]
    with pytest.raises(MeshError) as caught:
        encode_response(InferResponse("m", outputs[:1]), asked)
    assert str(caught.value) == "Unexpected inference output 'c' for model 'm'"


def _request(*inputs: pb.ModelInferRequest.InferInputTensor, raw: tuple[bytes, ...] = ()) -> bytes:
    message = pb.ModelInferRequest(model_name="m", inputs=inputs, raw_input_contents=raw)
    return bytes(message.SerializeToString())


def _input(
    datatype: str = "FP32", shape: tuple[int, ...] = (1,), **contents: object
) -> pb.ModelInferRequest.InferInputTensor:
    return pb.ModelInferRequest.InferInputTensor(
        name="x",
        datatype=datatype,
        shape=shape,
        contents=pb.InferTensorContents(**contents) if contents else None,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            _request(_input(), _input(), raw=(b"1234",)),
            "the number of inputs (2) does not match the expected number of raw input contents "
            "(1) for model 'm'.",
        ),
        (
            _request(_input(fp32_contents=[1]), raw=(b"1234",)),
            "contents field must not be specified when using raw_input_contents for input 'x' "
            "for model 'm'",
        ),
        (_request(_input("FP99", fp32_contents=[1])), "invalid datatype None in the input"),
        (_request(_input("", fp32_contents=[1])), "invalid datatype None in the input"),
        (_request(_input("FP32", int_contents=[1])), "which is 1 elements, but 0"),
        (_request(_input("FP16", fp32_contents=[1])), "which is 1 elements, but 0"),
        (_request(_input("UINT8", uint_contents=[256])), "UINT8"),
        (_request(_input("FP32", (-1,), fp32_contents=[1])), "impossible shape"),
        (_request(_input("FP32", (2**62, 4), fp32_contents=[1])), "impossible shape"),
        (_request(_input("FP32", (2,)), raw=(b"1234567",)), "7 bytes of raw contents"),
        (b"\x0a\x05ab", "malformed ModelInferRequest"),
        (b"\x0a\x01\xff", "malformed ModelInferRequest"),
        (b"GET / HTTP/1.1", "malformed ModelInferRequest"),
    ],
)
def test_a_wrong_request_is_refused_with_its_reason(body: bytes, message: str) -> None:
    with pytest.raises(MeshError) as caught:
        decode_request(body)
    assert message in str(caught.value)
    assert caught.value.failure.code is Code.INVALID_ARGUMENT


def test_lower_case_datatypes_and_empty_parameters_are_read() -> None:
    message = pb.ModelInferRequest(inputs=[_input("fp32", fp32_contents=[1])])
    message.parameters["nothing"].SetInParent()
    message.parameters["big"].uint64_param = 2**64 - 1
    decoded = decode_request(message.SerializeToString())
    assert decoded.inputs[0].datatype == "FP32"
    assert decoded.parameters == {"big": 2**64 - 1}


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a\x05ab",
        pb.ModelInferResponse(raw_output_contents=[b"1"]).SerializeToString(),
        pb.ModelInferResponse(
            outputs=[pb.ModelInferResponse.InferOutputTensor(datatype="FP32", shape=[1])]
        ).SerializeToString(),
    ],
)
def test_a_runtimes_broken_answer_is_not_the_callers_fault(body: bytes) -> None:
    with pytest.raises(MeshError) as caught:
        decode_response(body)
    assert caught.value.failure.code is Code.INTERNAL
    assert caught.value.failure.fault is Fault.MODEL


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, None, [1]])
def test_a_parameter_that_protobuf_cannot_carry_is_the_models_fault(value: object) -> None:
    with pytest.raises(MeshError) as caught:
        encode_response(InferResponse("m", (), parameters={"p": value}), ASK_NOTHING)  # type: ignore[dict-item]
    assert caught.value.failure.fault is Fault.MODEL


@given(st.binary(max_size=80))
def test_any_bytes_are_a_request_or_the_callers_fault(body: bytes) -> None:
    with read_or_refused():
        decode_request(body)


@given(requests(), st.data())
def test_a_damaged_request_is_a_request_or_the_callers_fault(
    request_: InferRequest, data: st.DataObject
) -> None:
    body = bytearray(encode_request(request_)) + b"\0"
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with read_or_refused():
        decode_request(body)
