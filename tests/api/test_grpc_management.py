"""mmesh.ModelMesh: the texts, codes and times that ModelMesh's clients rely on."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.api.management import last_used_ms
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code
from modelmesh.pb import model_mesh_pb2 as pb
from tests.api.fakes import NOW_MS, Rooms, call, grpc_port, refused, rooms

SERVICE = "/mmesh.ModelMesh/"
STATUS = pb.ModelStatusInfo.ModelStatus
HOUR_MS = 3_600_000


def registration(model_id: str = "m", **fields: object) -> bytes:
    info = pb.ModelInfo(type="dummy", path="/p", key='{"k":1}')
    request = pb.RegisterModelRequest(modelId=model_id, modelInfo=info)
    for name, value in fields.items():
        setattr(request, name, value)
    return bytes(request.SerializeToString())


async def status(daemon: Rooms, method: str, body: bytes) -> pb.ModelStatusInfo:
    answer = await call(grpc_port(daemon).handler, SERVICE + method, body)
    assert isinstance(answer, bytes), answer
    said = pb.ModelStatusInfo()
    said.ParseFromString(answer)
    return said


# --- registering


async def test_register_keeps_what_was_given() -> None:
    daemon = rooms()
    said = await status(daemon, "registerModel", registration())
    assert said.status == STATUS.NOT_LOADED
    used_ms = NOW_MS - 6 * HOUR_MS
    assert daemon.records == {"m": ModelRecord("dummy", "/p", '{"k":1}', last_used_ms=used_ms)}
    assert (await status(daemon, "registerModel", registration())).status == STATUS.NOT_LOADED
    other = pb.RegisterModelRequest(modelId="m", modelInfo=pb.ModelInfo(type="dummy", path="/q"))
    said_other = await refused(
        grpc_port(daemon).handler, SERVICE + "registerModel", other.SerializeToString()
    )
    assert said_other[0] is Code.ALREADY_EXISTS


async def test_register_and_load() -> None:
    daemon = rooms()
    said = await status(daemon, "registerModel", registration(loadNow=True, sync=True))
    assert said.status == STATUS.LOADED
    assert daemon.ensured == [("m", NOW_MS - HOUR_MS, True)]
    (copy,) = said.modelCopyInfos
    assert (copy.location, copy.copyStatus, copy.time) == ("one", STATUS.LOADED, NOW_MS)


async def test_balanced_counts_for_loads_too() -> None:
    daemon = rooms("m")
    handler = grpc_port(daemon).handler
    ensure = pb.EnsureLoadedRequest(modelId="m").SerializeToString()
    for metadata in ((("mm-balanced", "true"),), (("mm-balanced", "no"),), ()):
        await call(handler, SERVICE + "ensureLoaded", ensure, metadata)
        await call(handler, SERVICE + "registerModel", registration("new", loadNow=True), metadata)
    assert daemon.balanced == [True, True, False, False, False, False]


async def test_a_failed_load_is_a_status_and_no_error() -> None:
    daemon = rooms()
    daemon.failing = {"m"}
    said = await status(daemon, "registerModel", registration(loadNow=True, sync=True))
    assert (said.status, list(said.errors)) == (STATUS.LOADING_FAILED, ["newest", "older"])
    again = await status(
        daemon, "ensureLoaded", pb.EnsureLoadedRequest(modelId="m").SerializeToString()
    )
    assert again == said


@pytest.mark.parametrize(
    ("given_ms", "load_now", "used_ms"),
    [
        (0, False, NOW_MS - 6 * HOUR_MS),
        (0, True, NOW_MS - HOUR_MS),
        (1, False, 1),
        (NOW_MS - 1, True, NOW_MS - 1),
        (NOW_MS, False, NOW_MS),
        (NOW_MS + 1, False, NOW_MS),
        (2**64 - 1, True, NOW_MS),
    ],
)
async def test_when_a_new_model_counts_as_used(given_ms: int, load_now: bool, used_ms: int) -> None:
    assert last_used_ms(given_ms, NOW_MS, load_now) == used_ms
    daemon = rooms()
    body = registration(lastUsedTime=given_ms, loadNow=load_now)
    await status(daemon, "registerModel", body)
    assert daemon.records["m"].last_used_ms == used_ms


# --- refused before any room is asked

EMPTY = (Code.INVALID_ARGUMENT, "must provide non-empty modelId")


@pytest.mark.parametrize(
    ("method", "body", "said"),
    [
        ("registerModel", registration(""), EMPTY),
        ("unregisterModel", b"", EMPTY),
        ("getModelStatus", b"", EMPTY),
        ("ensureLoaded", b"", EMPTY),
        (
            "registerModel", pb.RegisterModelRequest(modelId="m").SerializeToString(),
            (Code.INVALID_ARGUMENT, "must provide non-empty type in modelInfo"),
        ),
        (
            "registerModel", registration("a\r\nb"),
            (Code.INVALID_ARGUMENT, "the modelId must not contain U+000D (at character 1)"),
        ),
        (
            "registerModel", registration("x" * 10_000),
            (Code.INVALID_ARGUMENT, "the modelId has 10000 bytes of UTF-8, more than 1024"),
        ),
        (
            "registerModel", b"\xff",
            (Code.INVALID_ARGUMENT, "malformed RegisterModelRequest"),
        ),
        (
            "registerModel", b"\x0a\x03\xed\xa0\xbe",  # half a surrogate pair
            (Code.INVALID_ARGUMENT, "malformed RegisterModelRequest"),
        ),
    ],
)  # fmt: skip
async def test_refused(method: str, body: bytes, said: tuple[Code, str]) -> None:
    daemon = rooms()
    assert await refused(grpc_port(daemon).handler, SERVICE + method, body) == said
    assert not daemon.records


@pytest.mark.parametrize("model_id", ["..", "a/b", "🦊", "***GETSTATE***", "x" * 1024])
async def test_odd_names_are_names(model_id: str) -> None:
    daemon = rooms()
    await status(daemon, "registerModel", registration(model_id))
    asked = pb.GetStatusRequest(modelId=model_id).SerializeToString()
    assert (await status(daemon, "getModelStatus", asked)).status == STATUS.NOT_LOADED


async def test_a_name_that_cannot_be_registered_can_be_removed() -> None:
    daemon = rooms("a\nb")
    body = pb.UnregisterModelRequest(modelId="a\nb").SerializeToString()
    assert await call(grpc_port(daemon).handler, SERVICE + "unregisterModel", body) == b""
    assert not daemon.records


# --- asking and loading


async def test_status_of_an_unknown_model_is_a_status() -> None:
    said = await status(
        rooms(), "getModelStatus", pb.GetStatusRequest(modelId="m").SerializeToString()
    )
    assert said == pb.ModelStatusInfo(status=STATUS.NOT_FOUND)


@pytest.mark.parametrize(("given_ms", "used_ms"), [(0, NOW_MS), (5, 5), (NOW_MS + 9, NOW_MS)])
async def test_ensure_loaded(given_ms: int, used_ms: int) -> None:
    daemon = rooms("m")
    body = pb.EnsureLoadedRequest(modelId="m", lastUsedTime=given_ms, sync=True)
    assert (await status(daemon, "ensureLoaded", body.SerializeToString())).status == STATUS.LOADED
    assert daemon.ensured == [("m", used_ms, True)]
    unknown = pb.EnsureLoadedRequest(modelId="unknown").SerializeToString()
    not_found = (Code.NOT_FOUND, "model not found")
    assert await refused(grpc_port(daemon).handler, SERVICE + "ensureLoaded", unknown) == not_found


async def test_unregister_is_idempotent() -> None:
    daemon = rooms("m")
    body = pb.UnregisterModelRequest(modelId="m").SerializeToString()
    for _ in range(2):
        assert await call(grpc_port(daemon).handler, SERVICE + "unregisterModel", body) == b""
        assert not daemon.records


@pytest.mark.parametrize("service", ["/mmesh.ModelMesh/", "/com.ibm.watson.tas.proto.TasRuntime/"])
async def test_legacy_names(service: str) -> None:
    daemon = rooms()
    handler = grpc_port(daemon).handler
    await call(handler, service + "addModel", registration())
    assert "m" in daemon.records
    removal = pb.UnregisterModelRequest(modelId="m").SerializeToString()
    assert await call(handler, service + "deleteModel", removal) == b""
    assert not daemon.records
    await call(handler, service + "registerModel", registration())
    assert "m" in daemon.records


# --- any bytes at all


@pytest.mark.parametrize(
    "method",
    [*pb.DESCRIPTOR.services_by_name["ModelMesh"].methods_by_name, "addModel", "deleteModel"],
)
def test_any_bytes_are_answered_or_refused_and_never_break(method: str) -> None:
    handler = grpc_port(rooms("m")).handler

    @given(st.binary(max_size=64))
    def check(body: bytes) -> None:
        outcome = asyncio.run(call(handler, SERVICE + method, body))
        assert isinstance(outcome, bytes) or outcome.code in (
            Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.UNIMPLEMENTED, Code.ALREADY_EXISTS,
        )  # fmt: skip

    check()
