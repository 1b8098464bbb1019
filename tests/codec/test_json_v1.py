"""V1: KServe's rules and texts, and the translation towards V2 runtimes."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.codec.json_v1 import (
    decode_request,
    encode_response,
    from_response,
    instances,
    to_request,
)
from modelmesh.codec.tensors import InferResponse, Tensor, to_list
from modelmesh.errors import Code, Fault, MeshError
from tests.codec.strategies import IN_JSON, floats, json_values, read_or_refused, responses


def test_the_iris_example() -> None:
    request_ = decode_request(b'{"instances":[[6.8,2.8,4.8,1.4],[6.0,3.4,4.5,1.6]]}')
    assert instances(request_) == [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]
    assert encode_response({"predictions": [1, 1]}) == b'{"predictions":[1,1]}'
    assert encode_response({"predictions": [[1, 2]]}) == b'{"predictions":[[1,2]]}'


def test_inputs_take_precedence_and_other_keys_pass_through() -> None:
    request_ = decode_request(memoryview(b'{"inputs":[1],"instances":[2],"signature_name":"s"}'))
    assert instances(request_) == [1]
    assert request_["signature_name"] == "s"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"instances":1}', 'Expected "instances" to be a list'),
        (b'{"instances":null}', 'Expected "instances" to be a list'),
        (b'{"inputs":{"a":1}}', 'Expected "inputs" to be a list'),
        (b"[1]", "Unrecognized request format: the body is not a JSON object"),
        (
            b"",
            "Unrecognized request format: Input is a zero-length, empty document: "
            "line 1 column 1 (char 0)",
        ),
    ],
)
def test_what_is_no_request_is_refused_word_for_word(body: bytes, message: str) -> None:
    with pytest.raises(MeshError) as caught:
        decode_request(body)
    assert str(caught.value) == message
    assert caught.value.failure.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "body",
    [
        b"instances=1",
        b'{"instances":[NaN]}',
        b'{"instances":[Infinity]}',
        b'{"instances":[1e400]}',
        b'{"instances":' + b"[" * 3000 + b"]" * 3000 + b"}",
        b'{"instances":[1',
        b'{"instances":["\xff"]}',
        b'{"instances":[' + b"9" * 1000 + b"]}",
    ],
)
def test_hostile_json_has_kserves_words_in_front_of_the_parsers(body: bytes) -> None:
    with pytest.raises(MeshError) as caught:
        decode_request(body)
    with pytest.raises(orjson.JSONDecodeError) as parser:
        orjson.loads(body)
    assert str(caught.value) == f"Unrecognized request format: {parser.value}"


def test_of_duplicate_keys_the_last_one_wins() -> None:
    assert decode_request(b'{"instances":[1],"instances":[2]}') == {"instances": [2]}


def test_a_request_without_instances_is_refused_when_they_are_wanted() -> None:
    with pytest.raises(MeshError, match='Expected "instances" to be a list'):
        instances(decode_request(b"{}"))


@pytest.mark.parametrize("answer", [object(), 2**70, "\ud800", {1: 2}, b"x"])
def test_an_answer_that_is_no_json_is_the_models_fault(answer: object) -> None:
    with pytest.raises(MeshError) as caught:
        encode_response({"predictions": [answer]})
    assert caught.value.failure.fault is Fault.MODEL


def test_not_a_number_is_written_as_null() -> None:
    answer = encode_response({"predictions": [float("nan"), float("inf")]})
    assert answer == b'{"predictions":[null,null]}'


@pytest.mark.parametrize(
    ("rows", "datatype", "shape", "values"),
    [
        ([[1, 2], [3, 4]], "INT64", (2, 2), [1, 2, 3, 4]),
        ([[1, 2.5]], "FP64", (1, 2), [1, 2.5]),
        ([2**63], "FP64", (1,), [2**63]),
        (["a", "b"], "BYTES", (2,), ["a", "b"]),
        ([[True], [False]], "BOOL", (2, 1), [True, False]),
        ([], "FP64", (0,), []),
        ([[], []], "FP64", (2, 0), []),
    ],
)
def test_instances_become_one_tensor(
    rows: list[Any], datatype: str, shape: tuple[int, ...], values: list[Any]
) -> None:
    (tensor,) = to_request("m", {"instances": rows}).inputs
    assert tensor == Tensor("input-0", datatype, shape, values)


@pytest.mark.parametrize("rows", [[[1], [1, 2]], [1, "a"], [None], [{"x": 1}], [True, 1]])
def test_instances_without_one_type_and_shape_are_refused(rows: list[Any]) -> None:
    with pytest.raises(MeshError) as caught:
        to_request("m", {"instances": rows})
    assert caught.value.failure.code is Code.INVALID_ARGUMENT


def test_outputs_become_predictions() -> None:
    labels = Tensor("label", "BYTES", (2,), [b"cat", "dog"])
    scores = Tensor("score", "FP64", (2, 2), floats(1, 2, 3, 4))
    assert from_response(InferResponse("m", (scores,))) == {"predictions": [[1, 2], [3, 4]]}
    assert from_response(InferResponse("m", (labels, scores))) == {
        "predictions": [
            {"label": "cat", "score": [1, 2]},
            {"label": "dog", "score": [3, 4]},
        ]
    }
    assert from_response(InferResponse("m", ())) == {"predictions": []}


@pytest.mark.parametrize(
    "outputs",
    [
        (Tensor("a", "FP64", (1,), [1]), Tensor("b", "FP64", (2,), [1, 2])),
        (Tensor("a", "BF16", (1,), b"12"),),
        (Tensor("a", "BYTES", (1,), [b"\xff"]),),
        (Tensor("a", "FP64", (2,), [1.0]),),
    ],
)
def test_outputs_that_v1_cannot_express_are_not_the_callers_fault(
    outputs: tuple[Tensor, ...],
) -> None:
    with pytest.raises(MeshError) as caught:
        from_response(InferResponse("m", outputs))
    assert caught.value.failure.code is Code.INTERNAL


@given(responses(IN_JSON, finite=True))
def test_a_single_output_is_all_there_in_the_predictions(response: InferResponse) -> None:
    for tensor in response.outputs:
        rows = from_response(InferResponse("m", (tensor,)))["predictions"]
        for _ in tensor.shape[1:]:
            rows = [value for row in rows for value in row]
        values = [v.decode() if isinstance(v, bytes) else v for v in to_list(tensor)]
        assert rows == values


@given(json_values | st.dictionaries(st.sampled_from(["instances", "inputs"]), json_values))
def test_any_json_is_a_request_or_the_callers_fault(value: Any) -> None:
    with read_or_refused():
        to_request("m", decode_request(orjson.dumps(value)))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_request_or_the_callers_fault(body: bytes) -> None:
    with read_or_refused():
        to_request("m", decode_request(body))
