"""Everything that can be wrong with a gRPC call: bytes that are no message, tensors that lie, ids
that contradict each other, too much of everything. An exact code each time, and no harm done."""

import gzip
import threading
from collections.abc import Iterator
from typing import Any, Final

import grpc
import pytest

from modelmesh.pb import inference_pb2 as pb
from modelmesh.pb import model_mesh_pb2
from tests.app.client import CALL_S, Refused, refusal_of, request_of
from tests.faults.scene import INFER, IRIS, ROW, Headers, Scene

INFERENCE: Final = "/inference.GRPCInferenceService/"
MESH: Final = "/mmesh.ModelMesh/"
ADMIN: Final = "/modelmesh.admin.v1.Admin/"
METHODS: Final = (
    *(INFERENCE + name for name in ("ModelInfer", "ModelReady", "ModelMetadata")),
    *(INFERENCE + name for name in ("RepositoryModelLoad", "RepositoryModelUnload")),
    *(MESH + name for name in ("registerModel", "unregisterModel", "getModelStatus")),
    MESH + "ensureLoaded",
    *(ADMIN + name for name in ("ListModels", "RegisterModels", "ExplainModel", "UnloadModel")),
)
GOOD: Final = request_of(IRIS, ROW)


def field(number: int, value: bytes) -> bytes:
    """A length-delimited field; `value` is shorter than 128 bytes."""
    return bytes((number << 3 | 2, len(value))) + value


NO_MESSAGES: Final[dict[str, bytes]] = {
    "a tag without a value": b"\x0a",
    "a value that is cut off": b"\x0a\x05iri",
    "a length that is cut off": b"\x0a\xff",
    "a length of 2^64": b"\x0a" + b"\xff" * 9 + b"\x01",
    "a number that never ends": b"\x08" + b"\xff" * 20,
    "field number 0": b"\x02\x00",
    "wire type 6": b"\x0e",
    "wire type 7": b"\x0f",
    "a group that nobody opened": b"\x0c",
    "a group that nobody closes": b"\x0b",
    "groups, 100,000 deep": b"\x0b" * 100_000,
    "an id that is not UTF-8": field(1, b"\xff\xfe"),
    "half a surrogate pair": field(1, b"\xed\xa0\x80"),
    "an over-long encoding": field(1, b"\xc0\x80"),
    "JSON": b'{"model_name": "iris"}',
}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.rpartition("/")[2])
@pytest.mark.parametrize("body", NO_MESSAGES.values(), ids=NO_MESSAGES.keys())
def test_bytes_that_are_no_message(method: str, body: bytes, scene: Scene) -> None:
    refused = scene.call(method, body)
    assert isinstance(refused, Refused)
    assert refused.code == "INVALID_ARGUMENT"
    assert refused.message
    assert refused.retry_s is None


def request(**changes: Any) -> pb.ModelInferRequest:
    """A good request, but for the fields of its only input."""
    contents = changes.pop("contents", {"fp64_contents": ROW})
    fields = {"name": "x", "datatype": "FP64", "shape": [1, 4]} | changes
    made = pb.ModelInferRequest(model_name=IRIS)
    made.inputs.add(**fields)
    if contents is not None:
        made.inputs[0].contents.CopyFrom(pb.InferTensorContents(**contents))
    return made


def raw(*blocks: bytes, **changes: Any) -> pb.ModelInferRequest:
    """The same with raw contents."""
    made = request(**{"contents": None} | changes)
    made.raw_input_contents.extend(blocks)
    return made


def asking(*outputs: str) -> pb.ModelInferRequest:
    made = request()
    for name in outputs:
        made.outputs.add(name=name)
    return made


def twice() -> pb.ModelInferRequest:
    made = request()
    made.inputs.append(made.inputs[0])
    return made


BAD_TENSORS: Final[dict[str, tuple[pb.ModelInferRequest, str]]] = {
    "no inputs": (pb.ModelInferRequest(model_name=IRIS), ""),
    "no datatype": (request(datatype=""), "invalid datatype None in the input"),
    "an unknown datatype": (request(datatype="FP128"), "invalid datatype None in the input"),
    "a negative shape": (request(shape=[-1, -4]), "impossible shape"),
    "a shape whose product overflows": (request(shape=[2**32, 2**32]), "impossible shape"),
    "65 dimensions": (request(shape=[1] * 65), "65 dimensions"),
    "a billion elements, it says": (request(shape=[10**9, 4]), "elements, but 4"),
    "fewer data than the shape says": (request(shape=[2, 4]), "which is 8 elements, but 4"),
    "more data than the shape says": (request(shape=[1, 3]), "which is 3 elements, but 4"),
    "the contents of another datatype": (request(datatype="INT64"), "4 elements, but 0"),
    "no contents": (request(contents=None), "4 elements, but 0"),
    "256 for a UINT8": (
        request(datatype="UINT8", contents={"uint_contents": [1, 2, 3, 256]}),
        "UINT8",
    ),
    "typed contents for FP16": (request(datatype="FP16"), "4 elements, but 0"),
    "raw and typed contents": (
        raw(bytes(32), contents={"fp64_contents": ROW}),
        "contents field must not be specified when using raw_input_contents for input 'x'",
    ),
    "raw contents without an input": (
        raw(bytes(32), bytes(32)),
        "number of inputs (1) does not match the expected number of raw input contents (2)",
    ),
    "raw contents that are too short": (raw(bytes(31)), "31 bytes of raw contents"),
    "raw contents that are too long": (raw(bytes(40)), "40 bytes of raw contents"),
    "raw contents of nothing": (raw(b""), "0 bytes of raw contents"),
    "raw BYTES that are cut off": (raw(b"\xff" * 32, datatype="BYTES"), "cut off"),
    "raw BYTES that are too many": (raw(bytes(32), datatype="BYTES"), "8 in its contents"),
    "raw NaN": (raw(b"\xff" * 32), "NaN"),
    "NaN": (request(contents={"fp64_contents": [float("nan")] * 4}), "NaN"),
    "infinity": (request(contents={"fp64_contents": [float("inf")] * 4}), "infinity"),
    "too few features": (request(shape=[1, 1], contents={"fp64_contents": [1]}), "features"),
    "one dimension": (request(shape=[4]), "2D"),
    "no dimension": (request(shape=[], contents={"fp64_contents": [1]}), ""),
    "no rows": (request(shape=[0, 4], contents={}), ""),
    "texts": (request(datatype="BYTES", contents={"bytes_contents": [b"a"] * 4}), ""),
    "texts that are not UTF-8": (
        request(datatype="BYTES", contents={"bytes_contents": [b"\xff"] * 4}),
        "UTF-8",
    ),
    "two inputs of one name": (twice(), "two inputs have the same name"),
    "an unknown output": (asking("y"), "Unexpected inference output 'y'"),
    "a known and an unknown output": (asking("output-0", "y"), "Unexpected inference output 'y'"),
    "an empty output": (asking(""), "Unexpected inference output ''"),
}


@pytest.mark.parametrize(("asked", "said"), BAD_TENSORS.values(), ids=BAD_TENSORS.keys())
def test_tensors_that_cannot_be_inferred(
    asked: pb.ModelInferRequest, said: str, scene: Scene
) -> None:
    refused = scene.call(INFER, asked.SerializeToString())
    assert isinstance(refused, Refused)
    assert refused.code == "INVALID_ARGUMENT"
    assert said in refused.message


def test_what_is_odd_and_understood(scene: Scene) -> None:
    """Unknown fields, an id that comes last or twice (the last one counts), lower case, gzip."""
    nameless = request_of("", ROW)
    for body in (
        GOOD + field(99 % 16, b"unknown"),
        nameless + field(1, IRIS.encode()),
        field(1, b"nobody") + nameless + field(1, IRIS.encode()),
        request(datatype="fp64").SerializeToString(),
    ):
        assert isinstance(scene.call(INFER, body), bytes)
    assert isinstance(scene.call(INFER, GOOD, compression=grpc.Compression.Gzip), bytes)


WHO: Final[dict[str, tuple[bytes, Headers, str, str]]] = {
    "nobody": (request_of("nobody", ROW), (), "NOT_FOUND", "model not found"),
    "nobody in a header": (GOOD, (("mm-model-id", "nobody"),), "NOT_FOUND", "model not found"),
    "no id": (request_of("", ROW), (), "INVALID_ARGUMENT", "must include mm-model-id header"),
    "an empty message": (b"", (), "INVALID_ARGUMENT", "must include mm-model-id header"),
    "an empty id in a header": (
        GOOD, (("mm-model-id", ""),),
        "INVALID_ARGUMENT", "provided model-id header must be non-empty",
    ),
    "both ids": (
        GOOD, (("mm-model-id", IRIS), ("mm-vmodel-id", "v")),
        "INVALID_ARGUMENT", "must include only one of model id and vmodel id",
    ),
    "both ids, one in binary": (
        GOOD, (("mm-model-id-bin", IRIS.encode()), ("mm-vmodel-id", "v")),
        "INVALID_ARGUMENT", "must include only one of model id and vmodel id",
    ),
    "a vmodel": (GOOD, (("mm-vmodel-id", "v"),), "NOT_FOUND", "vmodel not found"),
    "an empty vmodel": (
        GOOD, (("mm-vmodel-id", ""),),
        "INVALID_ARGUMENT", "provided vmodel-id header must be non-empty",
    ),
    "an id 100 times": (GOOD, (("mm-model-id", IRIS),) * 100, "INVALID_ARGUMENT", "more than 64"),
    "an id in binary that is not UTF-8": (
        GOOD, (("mm-model-id-bin", b"\xff"),), "INVALID_ARGUMENT", "not valid UTF-8",
    ),
    "NUL in binary": (GOOD, (("mm-model-id-bin", b"iris\0"),), "NOT_FOUND", "model not found"),
    "a field that is no text": (b"\x08\x01", (), "INVALID_ARGUMENT", "must include mm-model-id"),
    "a message of 100,000 fields": (
        b"\x10\x01" * 100_000, (), "INVALID_ARGUMENT", "too many",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "metadata", "code", "said"), WHO.values(), ids=WHO.keys())
def test_a_call_for_nobody(
    body: bytes, metadata: Headers, code: str, said: str, scene: Scene
) -> None:
    refused = scene.call(INFER, body, metadata)
    assert isinstance(refused, Refused)
    assert refused.code == code
    assert said in refused.message


UNKNOWN_METHODS: Final = (
    "/inference.GRPCInferenceService/ModelStreamInfer",
    "/inference.GRPCInferenceService/modelInfer",
    "/mmesh.ModelMesh/no",
    "/modelmesh.admin.v1.Admin/no",
    "/no.Such/Method",
    "/",
    "//",
    "/a/b/c",
    "/" + "x" * 5000,
)


@pytest.mark.parametrize("method", UNKNOWN_METHODS, ids=lambda method: method[:40])
def test_a_method_that_nobody_has(method: str, scene: Scene) -> None:
    refused = scene.call(method, GOOD)
    assert isinstance(refused, Refused)
    assert refused.code == "UNIMPLEMENTED"
    assert len(refused.message) < 400


# --- too much


def padded(size_bytes: int) -> bytes:
    """A good request of so many bytes."""
    return request_of(IRIS, ROW, padding=size_bytes - len(GOOD) - 5)


def test_the_largest_message_is_taken_and_seventeen_megabytes_are_not(scene: Scene) -> None:
    with scene.own_channel() as channel:
        infer = channel.unary_unary(INFER)
        assert infer(padded((16 << 20) - (64 << 10)), timeout=CALL_S)
        for method in (INFER, MESH + "registerModel", ADMIN + "RegisterModels"):
            call = channel.unary_unary(method).future(padded(17 << 20), timeout=CALL_S)
            assert refusal_of(call).code == "RESOURCE_EXHAUSTED"
        assert infer(GOOD, timeout=CALL_S), "on the same connection"


def test_a_bomb_of_zeros(scene: Scene) -> None:
    """17 MB of them are 17 KB on the wire."""
    body = padded(17 << 20)
    assert len(gzip.compress(body)) < 100_000
    with scene.own_channel() as channel:
        call = channel.unary_unary(INFER).future(
            body, timeout=CALL_S, compression=grpc.Compression.Gzip
        )
        assert refusal_of(call).code == "RESOURCE_EXHAUSTED"
        assert channel.unary_unary(INFER)(GOOD, timeout=CALL_S)


HEAVY: Final[dict[str, Headers]] = {
    "one of 9 KB": (("x-a", "a" * 9216),),
    "one of 1 MB": (("x-a", "a" * (1 << 20)),),
    "10,000 of them": tuple((f"x-{n}", "1") for n in range(10_000)),
    "an id 1,000 times": (("mm-model-id", IRIS),) * 1000,
    "an id of 10,000 characters": (("mm-model-id", "n" * 10_000),),
}


@pytest.mark.parametrize("metadata", HEAVY.values(), ids=HEAVY.keys())
def test_headers_that_are_too_heavy(metadata: Headers, scene: Scene) -> None:
    with scene.own_channel() as channel:
        infer = channel.unary_unary(INFER)
        refused = refusal_of(infer.future(GOOD, timeout=CALL_S, metadata=metadata))
        assert refused.code == "RESOURCE_EXHAUSTED"
        assert infer(GOOD, timeout=CALL_S), "on the same connection"


# --- streams where there are none


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.rpartition("/")[2])
def test_a_call_without_a_message(method: str, scene: Scene) -> None:
    call = scene.daemon.channel.stream_unary(method).future(iter(()), timeout=CALL_S)
    assert refusal_of(call).code == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    "method", [m for m in METHODS if m != INFER], ids=lambda m: m.rpartition("/")[2]
)
@pytest.mark.parametrize("more", [1, 100])
def test_a_second_message_of_a_unary_method(method: str, more: int, scene: Scene) -> None:
    """Whatever the messages are: nobody has looked into them."""
    messages = iter((GOOD, *(GOOD,) * more))
    call = scene.daemon.channel.stream_unary(method).future(messages, timeout=CALL_S)
    assert refusal_of(call).code == "UNIMPLEMENTED"


def test_inference_is_begun_with_its_first_message(scene: Scene) -> None:
    """As gRPC's own servers do it: to look for a second one would cost a third of a call."""
    call = scene.daemon.channel.stream_unary(INFER).future(iter((GOOD, GOOD)), timeout=CALL_S)
    assert pb.ModelInferResponse.FromString(call.result()).model_name == IRIS


def test_a_second_message_undoes_the_first(scene: Scene) -> None:
    register = MESH + "registerModel"
    first = model_mesh_pb2.RegisterModelRequest(modelId="twice", loadNow=False)
    first.modelInfo.type = "dummy"
    messages = iter((first.SerializeToString(),) * 2)
    call = scene.daemon.channel.stream_unary(register).future(messages, timeout=CALL_S)
    assert refusal_of(call).code == "UNIMPLEMENTED"
    status = scene.call(
        MESH + "getModelStatus",
        model_mesh_pb2.GetStatusRequest(modelId="twice").SerializeToString(),
    )
    assert isinstance(status, bytes)
    found = model_mesh_pb2.ModelStatusInfo.FromString(status)
    assert found.status == model_mesh_pb2.ModelStatusInfo.NOT_FOUND


def test_a_method_that_is_only_passed_through_is_taken_for_unary(scene: Scene) -> None:
    """Nobody here knows how many messages it takes: a second one is refused, never lost."""
    method = "/some.Other/Streaming"
    who = (("mm-model-id", IRIS),)
    call = scene.daemon.channel.stream_unary(method).future(
        iter((GOOD, GOOD)), metadata=who, timeout=CALL_S
    )
    refused = refusal_of(call)
    assert refused.code == "UNIMPLEMENTED"
    assert "one message" in refused.message


def test_a_caller_that_keeps_its_half_open_is_answered_when_it_ends_it(scene: Scene) -> None:
    ended = threading.Event()

    def one_and_then_silence() -> Iterator[bytes]:
        yield b""
        ended.wait(CALL_S)

    infer = scene.daemon.channel.stream_unary(INFERENCE + "ServerLive")
    late = infer.future(one_and_then_silence(), timeout=0.5)
    assert refusal_of(late).code == "DEADLINE_EXCEEDED"
    answered = infer.future(one_and_then_silence(), timeout=CALL_S)
    ended.set()
    assert answered.result()
