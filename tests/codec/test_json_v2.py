"""V2 over REST: KServe's bytes and texts, binary tensors, hostile JSON."""

import math
import struct
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.codec import proto_v2
from modelmesh.codec.json_v2 import decode_request, encode_response
from modelmesh.codec.tensors import (
    InferRequest,
    InferResponse,
    Parameters,
    RequestedOutput,
    Tensor,
    is_raw_only,
    to_list,
    to_raw,
)
from modelmesh.errors import Code, Fault, MeshError
from tests.codec.strategies import (
    IN_JSON,
    floats,
    json_values,
    read_or_refused,
    requests,
    responses,
)

IRIS = [6.8, 2.8, 4.8, 1.4, 6.0, 3.4, 4.5, 1.6]
ASK = InferRequest("m", (), id="123")
NO_HEADER = "received byte inputs, but the'Inference-Header-Content-Length' header is missing."


def _body(tensor: dict[str, Any], **fields: Any) -> bytes:
    whole = {"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]} | tensor
    return orjson.dumps({"inputs": [{k: v for k, v in whole.items() if v is not ...}], **fields})


def _refused(body: bytes, header_length: str = "") -> str:
    with pytest.raises(MeshError) as caught:
        decode_request(body, "m", header_length)
    assert caught.value.failure.code is Code.INVALID_ARGUMENT
    return str(caught.value)


# Golden bytes

FP16_AND_FP32 = InferResponse(
    "FP16OutputModel",
    (
        Tensor("fp16_output", "FP16", (8,), struct.pack("<8e", *IRIS)),
        Tensor("fp32_output", "FP32", (8,), struct.pack("<8f", *IRIS)),
    ),
)
_FP32_JSON = (
    b"[6.800000190734863,2.799999952316284,4.800000190734863,1.399999976158142,6.0,"
    b"3.4000000953674316,4.5,1.600000023841858]"
)
_FP16_RAW = b"\xcdF\x9aA\xcdD\x9a=\x00F\xcdB\x80Df>"
_FP32_RAW = (
    b"\x9a\x99\xd9@333@\x9a\x99\x99@33\xb3?\x00\x00\xc0@\x9a\x99Y@\x00\x00\x90@\xcd\xcc\xcc?"
)


def _asking(*outputs: tuple[str, Parameters], **request_parameters: bool) -> InferRequest:
    listed = tuple(RequestedOutput(name, parameters) for name, parameters in outputs)
    return replace(ASK, outputs=listed, parameters=dict(request_parameters))


def test_plain_json_has_kserves_order_and_its_nulls() -> None:
    answer = InferResponse(
        "FP16InputModel",
        (
            Tensor("str_output", "BYTES", (8,), [b"cat", b"dog"] * 4),
            Tensor(
                "fp32_output", "FP32", (8,), struct.pack("<8f", *struct.unpack("<8e", _FP16_RAW))
            ),
        ),
    )
    assert encode_response(answer, ASK) == (
        b'{"model_name":"FP16InputModel","model_version":null,"id":"123","parameters":null,'
        b'"outputs":[{"name":"str_output","shape":[8],"datatype":"BYTES","parameters":null,'
        b'"data":["cat","dog","cat","dog","cat","dog","cat","dog"]},{"name":"fp32_output",'
        b'"shape":[8],"datatype":"FP32","parameters":null,"data":[6.80078125,2.80078125,'
        b"4.80078125,1.400390625,6.0,3.400390625,4.5,1.599609375]}]}",
        None,
    )


def test_a_requested_output_alone() -> None:
    asked = _asking(("fp32_output", {"binary_data": False}))
    assert encode_response(FP16_AND_FP32, asked) == (
        b'{"model_name":"FP16OutputModel","model_version":null,"id":"123","parameters":null,'
        b'"outputs":[{"name":"fp32_output","shape":[8],"datatype":"FP32","parameters":null,'
        b'"data":' + _FP32_JSON + b"}]}",
        None,
    )


@pytest.mark.parametrize("by_default", [{}, {"binary_data_output": True}])
def test_one_binary_output_has_the_other_order_and_precedes_the_default(
    by_default: dict[str, bool],
) -> None:
    asked = _asking(
        ("fp16_output", {"binary_data": True}),
        ("fp32_output", {"binary_data": False}),
        **by_default,
    )
    assert encode_response(FP16_AND_FP32, asked) == (
        b'{"id":"123","model_name":"FP16OutputModel","model_version":null,"outputs":[{"name":'
        b'"fp16_output","shape":[8],"datatype":"FP16","parameters":{"binary_data_size":16}},'
        b'{"name":"fp32_output","shape":[8],"datatype":"FP32","data":'
        + _FP32_JSON
        + b"}]}"
        + _FP16_RAW,
        345,
    )


def test_all_outputs_binary() -> None:
    assert encode_response(FP16_AND_FP32, _asking(binary_data_output=True)) == (
        b'{"id":"123","model_name":"FP16OutputModel","model_version":null,"outputs":[{"name":'
        b'"fp16_output","shape":[8],"datatype":"FP16","parameters":{"binary_data_size":16}},'
        b'{"name":"fp32_output","shape":[8],"datatype":"FP32","parameters":'
        b'{"binary_data_size":32}}]}' + _FP16_RAW + _FP32_RAW,
        256,
    )


def test_binary_bytes_elements_are_prefixed() -> None:
    answer = InferResponse("test_model", (Tensor("output3", "BYTES", (1,), [b"test"]),), id="1")
    body, size = encode_response(answer, _asking(binary_data_output=True))
    assert size is not None
    assert body[size:] == b"\x04\0\0\0test"
    assert b'"binary_data_size":8' in body


def test_the_default_holds_for_listed_outputs_that_say_nothing() -> None:
    body, size = encode_response(
        FP16_AND_FP32, _asking(("fp16_output", {}), binary_data_output=True)
    )
    assert size is not None
    assert body[size:] == _FP16_RAW


def test_parameters_of_the_answer_are_the_models_and_the_id_is_echoed() -> None:
    tensor = Tensor("y", "INT64", (1,), [1], {"scale": 1.5})
    answer = InferResponse("m", (tensor,), "2", "", {"note": True})
    body, _ = encode_response(answer, replace(ASK, parameters={"asked": 1}))
    assert body == (
        b'{"model_name":"m","model_version":"2","id":"123","parameters":{"note":true},"outputs":'
        b'[{"name":"y","shape":[1],"datatype":"INT64","parameters":{"scale":1.5},"data":[1]}]}'
    )
    body, size = encode_response(answer, _asking(binary_data_output=True))
    assert body[:size] == (
        b'{"id":"123","model_name":"m","model_version":"2","outputs":[{"name":"y","shape":[1],'
        b'"datatype":"INT64","parameters":{"scale":1.5,"binary_data_size":8}}],'
        b'"parameters":{"note":true}}'
    )
    assert encode_response(replace(answer, id="own"), ASK)[0].count(b'"id":"own"') == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (_asking(("none", {})), "Unexpected inference output 'none' for model 'FP16OutputModel'"),
        (
            ASK,
            "Sending FP16 data via JSON is not supported. "
            "Please use the binary data format for output fp16_output",
        ),
    ],
)
def test_an_answer_that_was_asked_for_wrongly(asked: InferRequest, message: str) -> None:
    with pytest.raises(MeshError) as caught:
        encode_response(FP16_AND_FP32, asked)
    assert str(caught.value) == message
    assert caught.value.failure.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("y", "FP64", (2,), [1.0]),
        Tensor("y", "INT64", (1,), [2**70]),
        Tensor("y", "FP64", (1,), [object()]),
        Tensor("y", "FP64", (1,), [1.0], {"p": object()}),  # type: ignore[dict-item]
        Tensor("\ud800", "FP64", (1,), [1.0]),
    ],
)
def test_an_answer_that_is_no_json_is_the_models_fault(tensor: Tensor) -> None:
    with pytest.raises(MeshError) as caught:
        encode_response(InferResponse("m", (tensor,)), ASK)
    assert caught.value.failure.fault is Fault.MODEL


# Requests


def test_the_iris_request_nested_and_flat() -> None:
    nested = b'{"id":"7","inputs":[{"name":"input-0","shape":[2,4],"datatype":"fp64","data":'
    for data in (b"[[6.8,2.8,4.8,1.4],[6.0,3.4,4.5,1.6]]", b"[6.8,2.8,4.8,1.4,6.0,3.4,4.5,1.6]"):
        request_ = decode_request(memoryview(nested + data + b"}]}"), "iris")
        assert request_ == InferRequest("iris", (Tensor("input-0", "FP64", (2, 4), IRIS),), id="7")


def test_json_and_raw_inputs_mix_in_order() -> None:
    header = orjson.dumps(
        {
            "id": "123",
            "inputs": [
                {
                    "name": "a",
                    "shape": [8],
                    "datatype": "FP16",
                    "parameters": {"binary_data_size": 16, "kept": 1},
                },
                {"name": "b", "shape": [2], "datatype": "BYTES", "data": ["cat", "dög"]},
                {
                    "name": "c",
                    "shape": [1],
                    "datatype": "BYTES",
                    "parameters": {"binary_data_size": 7},
                },
            ],
            "outputs": [{"name": "o", "parameters": {"binary_data": True}}],
            "parameters": {"binary_data_output": False},
        }
    )
    request_ = decode_request(header + _FP16_RAW + b"\3\0\0\0abc", "m", str(len(header)))
    assert request_ == InferRequest(
        "m",
        (
            Tensor("a", "FP16", (8,), memoryview(_FP16_RAW), {"kept": 1}),
            Tensor("b", "BYTES", (2,), [b"cat", "dög".encode()]),
            Tensor("c", "BYTES", (1,), memoryview(b"\3\0\0\0abc")),
        ),
        id="123",
        parameters={"binary_data_output": False},
        outputs=(RequestedOutput("o", {"binary_data": True}),),
    )


def test_values_are_taken_where_nothing_is_lost() -> None:
    def read(datatype: str, data: list[Any]) -> list[Any]:
        body = _body({"datatype": datatype, "shape": [len(data)], "data": data})
        return to_list(decode_request(body, "m").inputs[0])

    assert read("BOOL", [1, 0, True]) == [True, False, True]
    assert read("INT64", [1.0, 2]) == [1, 2]
    assert all(map(math.isnan, read("FP32", [None])))
    assert read("FP16", []) == []


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ({"datatype": "FP128"}, "invalid datatype None in the input"),
        ({"datatype": None}, "invalid datatype None in the input"),
        ({"datatype": ["FP32"]}, "invalid datatype None in the input"),
        ({"datatype": ...}, "invalid datatype None in the input"),
        ({"name": ...}, "the name of an input must be a string"),
        ({"name": 5}, "the name of an input must be a string"),
        ({"shape": ...}, "'shape' of input 'x' must be a list of integers"),
        ({"shape": [1.0]}, "'shape' of input 'x' must be a list of integers"),
        ({"shape": [True]}, "'shape' of input 'x' must be a list of integers"),
        ({"shape": [-1]}, "impossible shape"),
        ({"shape": [2**62, 2**62]}, "impossible shape"),
        ({"shape": [2**64 - 1, 0], "data": []}, "impossible shape"),
        ({"shape": [2]}, "which is 2 elements, but 1"),
        ({"data": ...}, "'data' field is missing for input 'x' for model 'm'"),
        ({"data": None}, "'data' field is missing for input 'x' for model 'm'"),
        ({"data": 1.0}, "'data' of input 'x' must be a list"),
        ({"data": [[1], [2, 3]]}, "ragged"),
        ({"data": ["1"]}, "cannot hold str"),
        ({"data": [{}]}, "cannot hold dict"),
        ({"data": [True]}, "cannot hold bool"),
        ({"datatype": "INT64", "data": [None]}, "cannot hold NoneType"),
        ({"datatype": "INT64", "data": [1.5]}, "cannot hold float"),
        ({"datatype": "INT8", "data": [128]}, "of INT8"),
        ({"datatype": "INT64", "data": [2**63]}, "of INT64"),
        ({"datatype": "FP32", "data": [1e39]}, "of FP32"),
        ({"datatype": "BOOL", "data": [2]}, "cannot hold int"),
        ({"datatype": "BYTES", "data": [1]}, "cannot hold int"),
        (
            {"datatype": "FP16"},
            "Sending FP16 data via JSON is not supported. "
            "Please use the binary data format for input x",
        ),
        ({"parameters": []}, "'parameters' must be an object"),
        ({"parameters": {"p": None}}, "parameter 'p' has a value of the wrong type"),
        ({"parameters": {"p": {}}}, "parameter 'p' has a value of the wrong type"),
        ({"data": ..., "parameters": {"binary_data_size": 8}}, NO_HEADER),
    ],
)
def test_a_wrong_input_is_refused_with_its_reason(tensor: dict[str, Any], message: str) -> None:
    assert message in _refused(_body(tensor))


@pytest.mark.parametrize(
    "fields",
    [
        {"id": 5},
        {"id": []},
        {"parameters": [1]},
        {"parameters": {"p": []}},
        {"parameters": {"binary_data_output": "yes"}},
        {"outputs": {}},
        {"outputs": [1]},
        {"outputs": [{}]},
        {"outputs": [{"name": 1}]},
        {"outputs": [{"name": "o", "parameters": {"binary_data": 1}}]},
        {"inputs": None},
        {"inputs": {}},
        {"inputs": ["x"]},
    ],
)
def test_wrong_types_beside_the_inputs_are_refused(fields: dict[str, Any]) -> None:
    decode_request(_body({}), "m")  # it is the fields that are wrong
    _refused(_body({}, **fields))


@pytest.mark.parametrize("size", [9, -1, True, "8", 8.0, 2**63, None])
def test_binary_sizes_beyond_the_body_are_refused(size: object) -> None:
    header = _body({"data": ..., "parameters": {"binary_data_size": size}})
    _refused(header + floats(1), str(len(header)))


def test_a_tail_that_no_input_takes_is_refused() -> None:
    header = _body({})
    assert "8 bytes are left" in _refused(header + floats(1), str(len(header)))


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "+5", "٣", "9" * 5000, "99999"])
def test_a_header_length_that_is_none_is_refused(length: str) -> None:
    assert "Inference-Header-Content-Length" in _refused(_body({}), length)


@pytest.mark.parametrize("tail", [floats(1), b"\0\0\0\0", b"\xff"])
def test_raw_bytes_without_the_header_are_named_as_such(tail: bytes) -> None:
    header = _body({"data": ..., "parameters": {"binary_data_size": len(tail)}})
    assert _refused(header + tail) == NO_HEADER


@pytest.mark.parametrize(
    "body", [b"", b"x=1", b"{", b"[]", b'{"inputs":[NaN]}', b'{"a":1e400}', b'{"a":' + b"[" * 5000]
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert _refused(body).startswith("Unrecognized request format: ")


def test_deep_data_cost_no_recursion() -> None:
    deep = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":%s1%s}]}'
    request_ = decode_request(deep % (b"[" * 1000, b"]" * 1000), "m")
    assert request_.inputs[0].contents == [1]


# Properties


def _as_json(request_: InferRequest, binary: set[int]) -> tuple[bytes, str]:
    """What a client sends: the inputs of these positions raw, the others in JSON."""
    inputs, raws = [], []
    for position, tensor in enumerate(request_.inputs):
        fields: dict[str, Any] = {
            "name": tensor.name,
            "shape": tensor.shape,
            "datatype": tensor.datatype,
            "parameters": tensor.parameters,
        }
        if position in binary or is_raw_only(tensor):
            raws.append(bytes(to_raw(tensor)))
            fields["parameters"] = {**tensor.parameters, "binary_data_size": len(raws[-1])}
        else:
            values = to_list(tensor)
            fields["data"] = [v.decode() if isinstance(v, bytes) else v for v in values]
        inputs.append(fields)
    outputs = [{"name": o.name, "parameters": o.parameters} for o in request_.outputs]
    whole = {"id": request_.id, "inputs": inputs, "parameters": request_.parameters}
    header = orjson.dumps(whole | {"outputs": outputs})
    return header + b"".join(raws), str(len(header))


@given(requests(finite=True), st.sets(st.integers(0, 2)))
def test_a_request_comes_back_as_it_was_and_survives_protobuf(
    request_: InferRequest, binary: set[int]
) -> None:
    body, header_length = _as_json(request_, binary)
    back = decode_request(body, request_.model_name, header_length)
    through = proto_v2.decode_request(proto_v2.encode_request(back))
    for version in (back, through):
        assert replace(version, inputs=(), model_version="") == replace(
            request_, inputs=(), model_version=""
        )
        for tensor, expected in zip(version.inputs, request_.inputs, strict=True):
            assert replace(tensor, contents=to_list(tensor)) == expected


@given(responses(IN_JSON, finite=True), st.sets(st.integers(0, 2)))
def test_the_same_answer_stands_in_json_and_in_binary(
    response: InferResponse, binary: set[int]
) -> None:
    named = tuple(replace(t, name=str(i)) for i, t in enumerate(response.outputs))
    listed = tuple(
        RequestedOutput(t.name, {"binary_data": i in binary}) for i, t in enumerate(named)
    )
    body, size = encode_response(replace(response, outputs=named), replace(ASK, outputs=listed))
    answer, at = orjson.loads(body[:size]), size or 0
    for fields, expected in zip(answer["outputs"], named, strict=True):
        if "data" in fields:
            values = [v.encode() if isinstance(v, str) else v for v in fields["data"]]
        else:
            end = at + fields["parameters"]["binary_data_size"]
            values = to_list(replace(expected, contents=body[at:end]))
            at = end
        assert (values, tuple(fields["shape"])) == (expected.contents, expected.shape)
    assert at == (len(body) if size else 0)


_keys = st.sampled_from(["name", "shape", "datatype", "data", "parameters"])
_almost = st.fixed_dictionaries(
    {},
    optional={
        "id": json_values,
        "parameters": json_values,
        "outputs": json_values | st.lists(st.dictionaries(_keys, json_values, max_size=3)),
        "inputs": st.lists(
            st.fixed_dictionaries(
                {"name": st.just("x")},
                optional={
                    "shape": st.lists(st.integers(-1, 3) | st.integers()) | json_values,
                    "datatype": st.sampled_from(["FP64", "INT8", "BYTES", "BOOL"]) | json_values,
                    "data": json_values,
                    "parameters": st.dictionaries(
                        st.just("binary_data_size"), st.integers(-1, 9) | json_values
                    )
                    | json_values,
                },
            ),
            max_size=3,
        ),
    },
)


@given(json_values | _almost, st.binary(max_size=9))
def test_any_json_with_anything_behind_it_is_a_request_or_the_callers_fault(
    value: Any, tail: bytes
) -> None:
    try:
        header = orjson.dumps(value)
    except orjson.JSONEncodeError:  # an integer beyond 64 bits
        header = repr(value).encode()
    for body, length in ((header, ""), (header + tail, ""), (header + tail, str(len(header)))):
        with read_or_refused():
            decode_request(body, "m", length)


@given(st.binary(max_size=60), st.text(max_size=3) | st.integers(0, 70).map(str))
def test_any_bytes_are_a_request_or_the_callers_fault(body: bytes, length: str) -> None:
    with read_or_refused():
        decode_request(body, "m", length)
