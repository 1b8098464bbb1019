"""Model ids inside serialised messages: read and replaced without decoding."""

from contextlib import suppress

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.codec import splice
from modelmesh.codec.proto_v2 import encode_request
from modelmesh.codec.splice import MalformedMessage, find, inject
from modelmesh.codec.tensors import InferRequest
from modelmesh.pb import inference_pb2 as pb
from tests.codec.strategies import names, requests

NAME = (1,)
NESTED = (5, 1)  # the name of an input


@given(requests())
def test_it_finds_what_a_decoder_finds(request_: InferRequest) -> None:
    body = encode_request(request_)
    assert find(body, NAME) == request_.model_name
    assert find(memoryview(bytearray(body)), (3,)) == request_.id
    on_the_wire = [tensor.name for tensor in request_.inputs if tensor.name]
    assert find(body, NESTED) == (on_the_wire[-1] if on_the_wire else "")


@given(requests(), names)
def test_injection_changes_nothing_but_the_field(request_: InferRequest, name: str) -> None:
    body = encode_request(request_)
    expected = pb.ModelInferRequest.FromString(body)
    expected.model_name = name
    injected = inject(body, NAME, name)
    assert find(injected, NAME) == name
    assert pb.ModelInferRequest.FromString(injected) == expected


@given(requests(), names)
def test_injection_fixes_the_lengths_around_a_nested_field(
    request_: InferRequest, name: str
) -> None:
    body = encode_request(request_)
    expected = pb.ModelInferRequest.FromString(body)
    (expected.inputs[-1] if expected.inputs else expected.inputs.add()).name = name
    assert pb.ModelInferRequest.FromString(inject(body, NESTED, name)) == expected


@given(names, st.integers(120, 70_000))
def test_lengths_of_every_width(name: str, size_bytes: int) -> None:
    body = pb.ModelInferRequest(raw_input_contents=[b"x" * size_bytes]).SerializeToString()
    long = inject(body, (40_000, 9), name * size_bytes)  # parents are created
    assert find(long, (40_000, 9)) == name * size_bytes
    assert pb.ModelInferRequest.FromString(long).raw_input_contents == [b"x" * size_bytes]


def test_the_last_occurrence_counts_as_it_does_for_a_decoder() -> None:
    body = b"\x0a\x01a" + b"\x1a\x01i" + b"\x0a\x01b"
    assert find(body, NAME) == pb.ModelInferRequest.FromString(body).model_name == "b"
    assert pb.ModelInferRequest.FromString(inject(body, NAME, "c")).model_name == "c"
    merged = b"\x0a\x03\x0a\x01a" + b"\x0a\x03\x12\x01x"  # two parents, the id only in the first
    assert find(merged, (1, 1)) == "a"
    assert find(inject(merged, (1, 1), "b"), (1, 1)) == "b"


def test_numbers_of_every_wire_type_are_passed_over() -> None:
    varint, fixed64, fixed32 = b"\x10\x96\x01", b"\x19" + b"\xff" * 8, b"\x25" + b"\xff" * 4
    assert find(varint + fixed64 + fixed32 + b"\x0a\x02id", NAME) == "id"
    assert find(b"\x08\x05", NAME) == ""  # field 1, but a number


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a",  # a tag alone
        b"\x0a\x05abc",  # cut off
        b"\x0a\x01a\x12\x7f",  # cut off behind the id
        b"\x0a\x01a\x10",  # a varint that is not there
        b"\x0a\x01a\x10" + b"\x80" * 11,  # a varint that does not end
        b"\x0a\x01a\x0b\x0c",  # a group
        b"\x0a\x01a\x0e",  # wire type 6
        b"\x02\x01a",  # field number 0
        b"\x0a\x01a\xfa\xff\xff\xff\xff\x01\x01a",  # field number beyond 2^29
        b"\x0a\x01a\x19\x01",  # cut off in 8 bytes
        b"\x0a\x01a\x25\x01",  # cut off in 4 bytes
        b"\x0a\x02\xff\xfe",  # not UTF-8
        b"\x0a\x01a\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a size beyond everything
    ],
)
def test_what_is_malformed_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        find(body, NAME)


def test_a_message_of_countless_fields_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="too many"):
        find(b"\x10\x01" * splice.MOST_FIELDS, NAME)
    assert find(b"\x10\x01" * (splice.MOST_FIELDS - 2) + b"\x0a\x01a", NAME) == "a"


@given(st.binary(max_size=60), st.sampled_from([(1,), (5, 1), (2, 2, 2)]))
def test_any_bytes_are_read_or_refused(body: bytes, path: splice.Path) -> None:
    try:
        find(body, path)
        injected = inject(body, path, "id")
    except MalformedMessage:
        return
    assert find(injected, path) == "id"


@given(st.binary(max_size=40))
def test_what_a_decoder_accepts_reads_the_same(body: bytes) -> None:
    try:
        found = find(body, NAME)
    except MalformedMessage:
        return
    with suppress(DecodeError):  # the decoder also reads what lies beside the path
        assert found == pb.ServerMetadataResponse.FromString(body).name
