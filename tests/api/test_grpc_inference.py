"""inference.GRPCInferenceService: what is answered here, and what goes on to which model."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh import __version__
from modelmesh.api import addressing
from modelmesh.api.addressing import address
from modelmesh.domain.fleet import Hops, Intent
from modelmesh.errors import Code, MeshError
from modelmesh.pb import inference_pb2 as pb
from modelmesh.peers.headers import HEALTH, INTENT, MODEL, SENDER, TRIED, to_metadata
from modelmesh.peers.headers import SERVICE as SERVICE_OF_PEERS
from modelmesh.wire.awaiting import FutureReply
from modelmesh.wire.kinds import MODEL_INFER, MODEL_METADATA, V1_PREDICT
from modelmesh.wire.transport import Call, Metadata
from tests.api.fakes import LOAD_FAILED, Rooms, call, grpc_port, refused, rooms

SERVICE = "/inference.GRPCInferenceService/"
PASSED_ON = "/tensorflow.serving.PredictionService/Predict"
NAMELESS = (Code.INVALID_ARGUMENT, "must include mm-model-id header")
NO_MODEL = (Code.NOT_FOUND, "model not found")


def infer_body(model_name: str) -> bytes:
    return bytes(pb.ModelInferRequest(model_name=model_name, id="1").SerializeToString())


# --- which model

ADDRESSED: list[tuple[Metadata, bytes, str]] = [
    ((("mm-model-id", "iris"),), b"", "iris"),
    ((("mm-model-id-bin", "ирис".encode()),), b"", "ирис"),
    ((("tas-model-id", "iris"),), b"", "iris"),
    ((("mm-model-id-bin", b"bin"), ("mm-model-id", "ascii")), b"", "ascii"),
    ((("tas-model-id", "old"), ("mm-model-id-bin", b"bin")), b"", "bin"),
    ((), infer_body("iris"), "iris"),
    ((), infer_body("🦊"), "🦊"),
    ((("x-request-id", "7"),), infer_body("iris"), "iris"),
    ((("mm-model-id", "header"),), infer_body("message"), "header"),
    ((("mm-model-id", "header"),), b"\xff not a message", "header"),
]


@pytest.mark.parametrize(("metadata", "body", "model_id"), ADDRESSED)
async def test_infer_goes_to_the_model_that_is_named(
    metadata: Metadata, body: bytes, model_id: str
) -> None:
    daemon = rooms(model_id)
    assert await call(grpc_port(daemon).handler, MODEL_INFER, body, metadata) == b"answer"
    ((chosen, passed),) = daemon.inferred
    assert (chosen, passed.kind, passed.body) == (model_id, MODEL_INFER, body)


REFUSED: list[tuple[Metadata, bytes, Code, str]] = [
    ((), b"", *NAMELESS),
    ((), infer_body(""), *NAMELESS),
    ((("mm-balanced", "true"),), b"", *NAMELESS),
    (
        (("mm-model-id", ""),), infer_body("m"),
        Code.INVALID_ARGUMENT, "provided model-id header must be non-empty",
    ),
    (
        (("mm-vmodel-id", ""),), b"",
        Code.INVALID_ARGUMENT, "provided vmodel-id header must be non-empty",
    ),
    (
        (("mm-model-id-bin", b""),), b"",
        Code.INVALID_ARGUMENT, "provided model-id header must be non-empty",
    ),
    (
        (("mm-model-id-bin", b"\xff"),), b"",
        Code.INVALID_ARGUMENT, "the mm-model-id-bin header is not valid UTF-8",
    ),
    (
        (("mm-model-id", "a"), ("mm-vmodel-id", "b")), b"",
        Code.INVALID_ARGUMENT, "must include only one of model id and vmodel id",
    ),
    (
        (("tas-model-id", "a"), ("mm-vmodel-id-bin", b"b")), b"",
        Code.INVALID_ARGUMENT, "must include only one of model id and vmodel id",
    ),
    ((("mm-vmodel-id", "v"),), infer_body("m"), Code.NOT_FOUND, "vmodel not found"),
    (
        (), b"\x0a\x05ab",
        Code.INVALID_ARGUMENT, "malformed ModelInferRequest: cut off: 3 bytes are missing",
    ),
    (
        (), b"\x0a\x01\xff",
        Code.INVALID_ARGUMENT, "malformed ModelInferRequest: the model id is not valid UTF-8",
    ),
    ((("mm-model-id", "unknown"),), b"", *NO_MODEL),
    ((), infer_body("x" * 10_000), *NO_MODEL),
    ((), infer_body("\0"), *NO_MODEL),
    ((), infer_body("../../etc/passwd"), *NO_MODEL),
]  # fmt: skip


@pytest.mark.parametrize(("metadata", "body", "code", "message"), REFUSED)
async def test_infer_that_names_no_model(
    metadata: Metadata, body: bytes, code: Code, message: str
) -> None:
    handler = grpc_port(rooms("m", "a", "b", "v")).handler
    assert await refused(handler, MODEL_INFER, body, metadata) == (code, message)


async def test_metadata_of_a_model_goes_to_the_model() -> None:
    daemon = rooms("iris")
    body = pb.ModelMetadataRequest(name="iris").SerializeToString()
    assert await call(grpc_port(daemon).handler, MODEL_METADATA, body) == b"answer"
    ((chosen, passed),) = daemon.inferred
    assert (chosen, passed.kind, passed.body) == ("iris", MODEL_METADATA, body)
    code, message = await refused(grpc_port(daemon).handler, MODEL_METADATA, b"\x0a\x05ab")
    assert code is Code.INVALID_ARGUMENT
    assert message == "malformed ModelMetadataRequest: cut off: 3 bytes are missing"


async def test_deadline_and_caller_go_with_the_call() -> None:
    daemon = rooms("iris")
    deadline = 1e12
    await call(grpc_port(daemon).handler, MODEL_INFER, b"", (("mm-model-id", "iris"),), deadline)
    assert daemon.inferred[0][1].deadline == deadline


# --- which headers the runtime sees

HEADERS: list[tuple[str, bool]] = [
    ("x-request-id", True),
    ("authorization", True),
    ("traceparent", True),
    ("inference-header-content-length", True),
    ("custom-bin", True),
    ("content-type-of-mine", True),
    ("mm-idempotent", True),  # for the mesh: no runtime is told of it
    ("mm-balanced", False),
    ("mm-vanity", False),
    ("grpc-timeout", False),
    ("grpc-trace-bin", False),
    ("content-type", False),
    ("user-agent", False),
]


@pytest.mark.parametrize(("key", "passed"), HEADERS)
def test_which_headers_are_passed_on(key: str, passed: bool) -> None:
    value = b"v" if key.endswith("-bin") else "v"
    metadata: Metadata = ((key, value), ("mm-model-id", "iris"), ("x-last", "1"))
    left = ((key, value), ("x-last", "1")) if passed else (("x-last", "1"),)
    assert address(metadata)[:2] == (("iris",), left)
    assert address(metadata)[:2] == (("iris",), left)  # once more, with what was learnt


def test_headers_that_all_pass_are_not_copied() -> None:
    metadata: Metadata = (("x-a", "1"), ("x-b", "2"))
    assert address(metadata)[1] is metadata


def test_what_is_learnt_of_keys_is_bounded() -> None:
    for n in range(2000):
        assert address(((f"x-{n}", "v"), (f"mm-{n}", "v")))[1] == ((f"x-{n}", "v"),)
    assert len(addressing._roles) <= 1024


# --- what the headers wish


@pytest.mark.parametrize(
    ("value", "balanced"), [("true", True), ("True", True), ("false", False), ("1", False)]
)
async def test_balanced_is_said_of_each_call(value: str, balanced: bool) -> None:
    daemon = rooms("iris")
    handler = grpc_port(daemon).handler
    by_header: Metadata = (("mm-model-id", "iris"), ("mm-balanced", value))
    await call(handler, MODEL_INFER, b"", by_header)
    await call(handler, MODEL_INFER, infer_body("iris"), (("mm-balanced", value),))
    await call(handler, PASSED_ON, b"", by_header)
    await call(handler, MODEL_INFER, infer_body("iris"))
    assert daemon.balanced == [balanced, balanced, balanced, False]
    assert all(passed.metadata == () for _, passed in daemon.inferred)


async def test_no_caller_can_speak_for_a_daemon() -> None:
    """What daemons say to each other stays outside: no intent, no sender, no other model."""
    daemon = rooms("iris", "forged")
    forged = to_metadata(Hops(Intent.LOAD, "a", ("b",)), "forged", ())
    assert {key for key, _ in forged} == {INTENT, SENDER, TRIED, MODEL}
    handler = grpc_port(daemon).handler
    for kind in (MODEL_INFER, PASSED_ON):
        await call(handler, kind, infer_body("iris"), (*forged, ("mm-model-id", "iris")))
    assert [(model_id, passed.metadata) for model_id, passed in daemon.inferred] == [
        ("iris", ()),
        ("iris", ()),
    ]
    for kind in ("/modelmesh.peer.v1.Peer/modelmesh:load", HEALTH, SERVICE_OF_PEERS + V1_PREDICT):
        assert (await refused(handler, kind, b"", forged))[0] is Code.UNIMPLEMENTED


# --- other methods


@pytest.mark.parametrize("kind", [PASSED_ON, SERVICE + "ModelStreamInfer", "/a.B/c"])
async def test_any_other_method_passes_through_by_its_header(kind: str) -> None:
    daemon = rooms("iris")
    handler = grpc_port(daemon).handler
    metadata: Metadata = (("mm-model-id", "iris"), ("x-a", "1"), ("mm-b", "2"))
    assert await call(handler, kind, b"\xff\x00", metadata) == b"answer"
    ((chosen, passed),) = daemon.inferred
    assert (chosen, passed.kind, passed.body) == ("iris", kind, b"\xff\x00")
    assert passed.metadata == (("x-a", "1"),)


@pytest.mark.parametrize(
    ("kind", "metadata"),
    [
        (PASSED_ON, ()),
        (PASSED_ON, (("x-a", "1"),)),
        ("/mmesh.ModelRuntime/unloadModel", (("mm-model-id", "iris"),)),
        ("/com.ibm.watson.tas.internal.proto.ModelServer/unloadModel", (("mm-model-id", "iris"),)),
        ("/mmesh.ModelMesh/noSuchMethod", (("mm-model-id", "iris"),)),
        ("/modelmesh.admin.v1.Admin/NoSuchMethod", (("mm-model-id", "iris"),)),
        ("/grpc.health.v1.Health/Wash", (("mm-model-id", "iris"),)),
        ("v1:predict", (("mm-model-id", "iris"),)),
        ("", (("mm-model-id", "iris"),)),
    ],
)
async def test_what_no_runtime_may_be_asked(kind: str, metadata: Metadata) -> None:
    daemon = rooms("iris")
    said = await refused(grpc_port(daemon).handler, kind, b"", metadata)
    assert said == (Code.UNIMPLEMENTED, f"Method not found or not permitted: {kind[1:]}")
    assert not daemon.inferred


# --- the server


async def test_live_ready_and_metadata() -> None:
    daemon = rooms()
    handler = grpc_port(daemon).handler
    assert await answered(daemon, "ServerReady", b"") == b"\x08\x01"
    daemon.draining = True
    assert await answered(daemon, "ServerReady", b"") == b""
    assert await answered(daemon, "ServerLive", b"") == b"\x08\x01"
    said = pb.ServerMetadataResponse.FromString(await answered(daemon, "ServerMetadata", b""))
    assert (said.name, said.version) == ("modelmesh", __version__)
    assert list(said.extensions) == ["model_repository_extension"]
    malformed = (Code.INVALID_ARGUMENT, "malformed ServerLiveRequest")
    assert await refused(handler, SERVICE + "ServerLive", b"\xff") == malformed


async def answered(daemon: Rooms, method: str, body: bytes, metadata: Metadata = ()) -> bytes:
    answer = await call(grpc_port(daemon).handler, SERVICE + method, body, metadata)
    assert isinstance(answer, bytes), answer
    return answer


@pytest.mark.parametrize(
    ("name", "ready"), [("cold", True), ("loaded", True), ("failing", False), ("unknown", False)]
)
async def test_model_ready_asks_and_never_loads(name: str, ready: bool) -> None:
    daemon = rooms("cold", "loaded", "failing")
    daemon.loaded, daemon.failing = {"loaded"}, {"failing"}
    for body, metadata in (
        (pb.ModelReadyRequest(name=name).SerializeToString(), ()),
        (b"", (("mm-model-id", name),)),
        (pb.ModelReadyRequest(name="else").SerializeToString(), (("mm-model-id", name),)),
    ):
        response = pb.ModelReadyResponse.FromString(
            await answered(daemon, "ModelReady", body, metadata)
        )
        assert response.ready is ready
    assert daemon.loaded == {"loaded"}
    assert not daemon.inferred
    assert await refused(grpc_port(daemon).handler, SERVICE + "ModelReady") == NAMELESS


# --- the repository


async def test_index_lists_what_would_be_served_and_why_not() -> None:
    daemon = rooms(*(f"m{n:04}" for n in range(1200)), "failing")
    daemon.failing = {"failing"}
    body = pb.RepositoryIndexRequest(repository_name="any").SerializeToString()
    index = pb.RepositoryIndexResponse.FromString(await answered(daemon, "RepositoryIndex", body))
    rows = {row.name: (row.version, row.state, row.reason) for row in index.models}
    assert list(rows) == sorted(daemon.records)
    assert rows.pop("failing") == ("", "UNAVAILABLE", "not a model")
    assert set(rows.values()) == {("", "READY", "")}
    body = pb.RepositoryIndexRequest(ready=True).SerializeToString()
    index = pb.RepositoryIndexResponse.FromString(await answered(daemon, "RepositoryIndex", body))
    assert [row.name for row in index.models] == sorted(rows)


KSERVE = pb.RepositoryModelLoadRequest(repository_name="m")
TRITON = pb.RepositoryModelLoadRequest(repository_name="repository", model_name="m")
TRITON_WITHOUT_REPOSITORY = pb.RepositoryModelLoadRequest(model_name="m")


@pytest.mark.parametrize("asked", [KSERVE, TRITON, TRITON_WITHOUT_REPOSITORY])
async def test_load_and_unload_take_both_layouts(asked: pb.RepositoryModelLoadRequest) -> None:
    daemon, body = rooms("m", "repository"), asked.SerializeToString()
    loaded = await answered(daemon, "RepositoryModelLoad", body)
    assert loaded == b"\x0a\x01m\x10\x01"  # model_name = 1, isLoaded = 2, as KServe has them
    assert daemon.loaded == {"m"}
    unloaded = await answered(daemon, "RepositoryModelUnload", body)
    assert unloaded == b"\x0a\x01m\x10\x01"
    assert not daemon.loaded
    assert await answered(daemon, "RepositoryModelUnload", body) == unloaded


async def test_load_and_unload_of_what_cannot_be() -> None:
    daemon = rooms("failing")
    daemon.failing = {"failing"}
    handler = grpc_port(daemon).handler
    failing = pb.RepositoryModelLoadRequest(model_name="failing").SerializeToString()
    unknown = pb.RepositoryModelLoadRequest(model_name="unknown").SerializeToString()
    assert await call(handler, SERVICE + "RepositoryModelLoad", failing) == LOAD_FAILED
    for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
        assert await refused(handler, SERVICE + method, unknown) == NO_MODEL
        assert await refused(handler, SERVICE + method, b"") == NAMELESS


# --- any bytes at all

METHODS = [
    SERVICE + name
    for name in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
]


@pytest.mark.parametrize("kind", METHODS)
def test_any_bytes_are_answered_or_refused_and_never_break(kind: str) -> None:
    handler = grpc_port(rooms("m")).handler

    @given(st.binary(max_size=64))
    def check(body: bytes) -> None:
        outcome = asyncio.run(call(handler, kind, body))
        assert isinstance(outcome, bytes) or outcome.code in (
            Code.INVALID_ARGUMENT,
            Code.NOT_FOUND,
        )

    check()


IDS = ["mm-model-id", "mm-model-id-bin", "mm-vmodel-id", "mm-vmodel-id-bin", "tas-model-id"]
KEYS = st.sampled_from([*IDS, "x-a", "mm-a", "x-bin", "grpc-a", "user-agent"])


@given(st.lists(st.tuples(KEYS, st.binary(max_size=4)), max_size=6))
def test_any_headers_name_a_model_or_are_refused(headers: list[tuple[str, bytes]]) -> None:
    metadata: Metadata = tuple(
        (key, value if key.endswith("-bin") else value.decode("latin-1")) for key, value in headers
    )
    try:
        names, passed, vmodel, _, _ = address(metadata)
    except MeshError as error:
        refusal = error.failure.code
    else:
        there = {key for key, _ in metadata}
        assert bool(names) == bool(there & set(IDS))
        assert vmodel == any(key.startswith("mm-vmodel") for key in there)
        assert passed == tuple(pair for pair in metadata if pair[0] in ("x-a", "x-bin"))
        return
    assert refusal in (Code.INVALID_ARGUMENT, Code.NOT_FOUND)


async def test_a_call_that_needs_no_change_is_handed_on_itself() -> None:
    daemon = rooms("iris")
    reply = FutureReply()
    mine = Call(MODEL_INFER, infer_body("iris"), reply, (("x-a", "1"),))
    grpc_port(daemon).handler([mine])
    assert daemon.inferred == [("iris", mine)]
    assert await reply.future == [b"answer"]
