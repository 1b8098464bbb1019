"""Health and reflection: over loopback in every corner, and with gRPC's own clients over TCP."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.api import fleet
from modelmesh.api.grpc_port import SERVICES, STREAMING, GrpcPort
from modelmesh.api.reflection import INFO
from modelmesh.api.streams import MOST_STREAMS
from modelmesh.api.watching import MOST_WATCHES
from modelmesh.errors import Code, Failure, Reason
from modelmesh.wire.grpcio import GrpcServer
from modelmesh.wire.transport import Call
from tests.api.fakes import call, grpc_port, refused, rooms, stream, until

CHECK = "/grpc.health.v1.Health/Check"
LIST = "/grpc.health.v1.Health/List"
WATCH = "/grpc.health.v1.Health/Watch"
SERVING, NOT_SERVING, UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"


def service(name: str) -> bytes:
    return bytes(health_pb2.HealthCheckRequest(service=name).SerializeToString())


def ended(failure: Failure | None) -> tuple[Code, str] | None:
    return None if failure is None else (failure.code, failure.message)


# --- health


@pytest.mark.parametrize("name", ["", *SERVICES])
async def test_check_of_each_service(name: str) -> None:
    daemon = rooms()
    handler = grpc_port(daemon).handler
    assert await call(handler, CHECK, service(name)) == SERVING
    daemon.draining = True
    assert await call(handler, CHECK, service(name)) == NOT_SERVING


async def test_check_of_what_is_unknown_or_malformed() -> None:
    handler = grpc_port(rooms()).handler
    assert await refused(handler, CHECK, service("x")) == (Code.NOT_FOUND, "unknown service")
    malformed = (Code.INVALID_ARGUMENT, "malformed HealthCheckRequest")
    assert await refused(handler, CHECK, b"\xff") == malformed


async def test_list_has_every_service() -> None:
    said = await call(grpc_port(rooms()).handler, LIST)
    assert isinstance(said, bytes)
    statuses = health_pb2.HealthListResponse.FromString(said).statuses
    assert set(statuses) == {"", *SERVICES}
    assert {each.status for each in statuses.values()} == {health_pb2.HealthCheckResponse.SERVING}


async def test_watchers_are_told_of_each_change_once() -> None:
    daemon = rooms()
    daemon.draining = True  # not ready yet
    port = grpc_port(daemon)
    known, unknown = (
        stream(port.handler, WATCH, service("")),
        stream(port.handler, WATCH, service("x")),
    )
    await until(lambda: known.messages and unknown.messages)
    port.changed()
    daemon.draining = False
    port.changed()
    port.changed()
    await until(lambda: len(known.messages) == 2)
    assert known.messages == [NOT_SERVING, SERVING]
    assert unknown.messages == [UNKNOWN]
    daemon.draining = True
    port.drain()
    for watch in (known, unknown):
        assert ended(await watch.failure()) == (Code.UNAVAILABLE, "this daemon is shutting down")
    assert known.messages == [NOT_SERVING, SERVING, NOT_SERVING]
    assert unknown.messages == [UNKNOWN]
    late = stream(port.handler, WATCH, service(""))
    assert ended(await late.failure()) == (Code.UNAVAILABLE, "this daemon is shutting down")
    assert late.messages == [NOT_SERVING]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([b"\xff"], "malformed HealthCheckRequest"),
        ([service(""), service("")], "Watch takes one request"),
        ([], "the stream ended without a request"),
    ],
)
async def test_a_watch_that_asks_wrongly(messages: list[bytes], message: str) -> None:
    watch = stream(grpc_port(rooms()).handler, WATCH, *messages)
    watch.inbound.end()
    assert ended(await watch.failure()) == (Code.INVALID_ARGUMENT, message)


async def test_a_watch_outlives_its_callers_last_message() -> None:
    port = grpc_port(daemon := rooms())
    watch = stream(port.handler, WATCH, service(""))
    watch.inbound.end()
    await until(lambda: watch.messages)
    daemon.draining = True
    port.changed()
    await until(lambda: watch.messages == [SERVING, NOT_SERVING])


@pytest.mark.parametrize("kind", sorted(STREAMING))
async def test_streams_are_bounded_and_free_their_place(kind: str) -> None:
    port = grpc_port(rooms())
    asked = b":\x00" if kind in INFO else b""
    most = MOST_WATCHES if kind == fleet.WATCH else MOST_STREAMS
    streams = [stream(port.handler, kind, asked) for _ in range(most)]
    await until(lambda: all(each.messages for each in streams))
    full = stream(port.handler, kind, asked)
    assert ended(await full.failure()) == (Code.RESOURCE_EXHAUSTED, "too many streams are open")
    streams[0].reply.leave()
    again = stream(port.handler, kind, asked)
    await until(lambda: again.messages)
    broken = again.inbound.say
    broken(b"\xff")  # a stream that fails frees its place as well
    assert await again.failure() is not None
    last = stream(port.handler, kind, asked)
    await until(lambda: last.messages)


# --- reflection


def question(**asked: Any) -> bytes:
    return bytes(reflection_pb2.ServerReflectionRequest(**asked).SerializeToString())


async def ask(kind: str, *questions: bytes) -> list[Any]:
    opened = stream(grpc_port(rooms()).handler, kind, *questions)
    opened.inbound.end()
    assert await opened.failure() is None
    return [reflection_pb2.ServerReflectionResponse.FromString(each) for each in opened.messages]


@pytest.mark.parametrize("kind", INFO)
async def test_every_service_is_listed_and_described(kind: str) -> None:
    (listed,) = await ask(kind, question(list_services="", host="h"))
    assert listed.valid_host == "h"
    assert listed.original_request.host == "h"
    names = [each.name for each in listed.list_services_response.service]
    assert names == sorted(SERVICES)
    answers = await ask(kind, *(question(file_containing_symbol=name) for name in names))
    pool = DescriptorPool()
    for answer in answers:
        for file in answer.file_descriptor_response.file_descriptor_proto:
            pool.AddSerializedFile(file)
    methods = {
        f"/{name}/{method}": found.input_type.full_name
        for name in names
        for method, found in pool.FindServiceByName(name).methods_by_name.items()
    }
    assert set(methods) > STREAMING
    assert methods[INFO[0]] == "grpc.reflection.v1.ServerReflectionRequest"
    handler = grpc_port(rooms()).handler
    for method in set(methods) - STREAMING:  # what is described is there
        said = await call(handler, method, b"")
        assert isinstance(said, bytes) or said.code is Code.INVALID_ARGUMENT, method


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("mmesh.ModelMesh", "modelmesh/pb/model_mesh.proto"),
        ("mmesh.ModelMesh.registerModel", "modelmesh/pb/model_mesh.proto"),
        ("mmesh.ModelStatusInfo.ModelStatus", "modelmesh/pb/model_mesh.proto"),
        ("inference.ModelInferRequest.InferInputTensor", "modelmesh/pb/inference.proto"),
        ("modelmesh.admin.v1.Model", "modelmesh/pb/admin.proto"),
        ("grpc.health.v1.Health", "grpc_health/v1/health.proto"),
        ("grpc.reflection.v1.ServerReflection.ServerReflectionInfo",
         "grpc_reflection/v1/reflection.proto"),
        ("grpc.reflection.v1alpha.ErrorResponse", "grpc_reflection/v1alpha/reflection.proto"),
    ],
)  # fmt: skip
async def test_symbols_and_files(symbol: str, file: str) -> None:
    by_symbol, by_name = await ask(
        INFO[0], question(file_containing_symbol=symbol), question(file_by_filename=file)
    )
    (described,) = by_symbol.file_descriptor_response.file_descriptor_proto
    assert FileDescriptorProto.FromString(described).name == file
    assert by_name.file_descriptor_response == by_symbol.file_descriptor_response


@pytest.mark.parametrize(
    "asked",
    [
        {"file_by_filename": "modelmesh/pb/model_runtime.proto"},  # not served here
        {"file_by_filename": "../protos/admin.proto"},
        {"file_containing_symbol": "google.protobuf.Any"},  # loaded, but not ours
        {"file_containing_symbol": ""},
        {"file_containing_symbol": "mmesh.ModelMesh.nothing"},
        {"all_extension_numbers_of_type": "mmesh.Nothing"},
        {
            "file_containing_extension": {
                "containing_type": "mmesh.ModelInfo",
                "extension_number": 5,
            }
        },
    ],
)
async def test_what_is_not_there_is_an_answer_and_the_stream_goes_on(asked: dict[str, Any]) -> None:
    missing, listed = await ask(INFO[1], question(**asked), question(list_services=""))
    assert missing.error_response.error_code == Code.NOT_FOUND
    assert missing.original_request == reflection_pb2.ServerReflectionRequest(**asked)
    assert listed.list_services_response.service


async def test_extensions_of_a_message_that_has_none() -> None:
    (said,) = await ask(INFO[0], question(all_extension_numbers_of_type="mmesh.ModelInfo"))
    assert said.all_extension_numbers_response.base_type_name == "mmesh.ModelInfo"
    assert not said.all_extension_numbers_response.extension_number


async def test_a_question_for_nothing_and_a_malformed_one() -> None:
    (nothing,) = await ask(INFO[0], question())
    assert nothing.error_response.error_code == Code.INVALID_ARGUMENT
    broken = stream(grpc_port(rooms()).handler, INFO[0], b"\xff")
    malformed = (Code.INVALID_ARGUMENT, "malformed ServerReflectionRequest")
    assert ended(await broken.failure()) == malformed


async def test_who_asks_without_reading_is_cut_off() -> None:
    opened = stream(grpc_port(rooms()).handler, INFO[0], question(list_services=""))
    await until(lambda: opened.messages)
    opened.reply.reads = False
    opened.inbound.say(question(list_services=""))
    failure = await opened.failure()
    assert failure is not None
    assert (failure.code, failure.reason) == (Code.RESOURCE_EXHAUSTED, Reason.OVERLOADED)


async def test_a_drain_ends_reflection() -> None:
    port = grpc_port(rooms())
    opened = stream(port.handler, INFO[0], question(list_services=""))
    await until(lambda: opened.messages)
    port.drain()
    assert ended(await opened.failure()) == (Code.UNAVAILABLE, "this daemon is shutting down")


@pytest.mark.parametrize("kind", sorted(STREAMING))
def test_any_bytes_are_answered_or_refused_and_never_break(kind: str) -> None:
    handler = grpc_port(rooms()).handler

    async def talk(messages: list[bytes]) -> Failure | None:
        opened = stream(handler, kind, *messages)
        opened.inbound.end()
        if kind in (WATCH, fleet.WATCH) and len(messages) == 1:
            await until(lambda: opened.messages or opened.reply.gone)
            opened.reply.leave()
        return None if opened.reply.gone else await opened.failure()

    @given(
        st.lists(
            st.binary(max_size=48) | st.text().map(lambda t: question(file_containing_symbol=t)),
            max_size=3,
        )
    )
    def check(messages: list[bytes]) -> None:
        failure = asyncio.run(talk(messages))
        assert failure is None or failure.code is Code.INVALID_ARGUMENT

    check()


# --- gRPC's own clients, over TCP


@pytest.fixture
async def served() -> AsyncIterator[tuple[GrpcPort, grpc.aio.Channel]]:
    port = grpc_port(rooms("iris"))
    server = GrpcServer(port.handler, STREAMING)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield port, channel
    await server.drain(1)
    await port.close()


async def test_real_health_client(served: tuple[GrpcPort, grpc.aio.Channel]) -> None:
    port, channel = served
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService")
    assert (await stub.Check(request, timeout=30)).status == health_pb2.HealthCheckResponse.SERVING
    watch = stub.Watch(request, timeout=30)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    port.drain()
    with pytest.raises(grpc.aio.AioRpcError) as gone:
        await watch.read()
    assert gone.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_real_reflection_client(served: tuple[GrpcPort, grpc.aio.Channel]) -> None:
    _, channel = served
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    talk = stub.ServerReflectionInfo(timeout=30)
    await talk.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = (await talk.read()).list_services_response
    assert [each.name for each in listed.service] == sorted(SERVICES)
    symbol = "inference.GRPCInferenceService"
    await talk.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol))
    (file,) = (await talk.read()).file_descriptor_response.file_descriptor_proto
    assert FileDescriptorProto.FromString(file).package == "inference"
    await talk.done_writing()
    assert await talk.read() is grpc.aio.EOF


async def test_a_real_caller_that_goes_frees_its_place(
    served: tuple[GrpcPort, grpc.aio.Channel],
) -> None:
    port, channel = served
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
    await watch.read()
    watches: dict[Call, Any] = port._health._watches.open
    assert len(watches) == 1
    watch.cancel()
    await until(lambda: not watches)
