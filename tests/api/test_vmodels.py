"""Vmodels as their callers see them: gRPC's methods, and names in requests of every face."""

import pytest

from modelmesh.api.asking import Tasks
from modelmesh.api.rest import rest_handler
from modelmesh.domain.records import ModelRecord
from modelmesh.domain.vmodels import VModelRecord
from modelmesh.errors import Code, Failure
from modelmesh.pb import admin_pb2, inference_pb2
from modelmesh.pb import model_mesh_pb2 as pb
from modelmesh.policy.transition import SetVModel
from modelmesh.wire.kinds import MODEL_INFER, MODEL_METADATA
from tests.api.fakes import NOW_MS, Rooms, call, grpc_port, refused, rooms

SERVICE = "/mmesh.ModelMesh/"
HOUR_MS = 3_600_000
VSTATUS = pb.VModelStatusInfo.VModelStatus


def house() -> Rooms:
    daemon = rooms("m1", "m2")
    daemon.vmodels = {"v": VModelRecord("m1", "m2", "me"), "m2": VModelRecord("m1", "m1")}
    return daemon


async def vstatus(daemon: Rooms, method: str, body: bytes) -> pb.VModelStatusInfo:
    answer = await call(grpc_port(daemon).handler, SERVICE + method, body)
    assert isinstance(answer, bytes), answer
    said = pb.VModelStatusInfo()
    said.ParseFromString(answer)
    return said


# --- ModelMesh's methods


async def test_every_field_of_a_request_arrives() -> None:
    daemon = house()
    request = pb.SetVModelRequest(
        vModelId="w", targetModelId="m2", updateOnly=True, autoDeleteTargetModel=True,
        modelInfo=pb.ModelInfo(type="dummy", path="/p", key="k"), loadNow=True, force=True,
        sync=True, expectedTargetModelId="m1", owner="o",
    )  # fmt: skip
    said = await vstatus(daemon, "setVModel", request.SerializeToString())
    record = ModelRecord("dummy", "/p", "k", last_used_ms=NOW_MS - HOUR_MS)
    assert daemon.set_requests == [
        SetVModel(
            "w", "m2", record, update_only=True, auto_delete=True, load_now=True, force=True,
            sync=True, expected_target="m1", owner="o",
        )
    ]  # fmt: skip
    assert (said.status, said.activeModelId, said.owner) == (VSTATUS.DEFINED, "m2", "o")
    bare = pb.SetVModelRequest(vModelId="w", targetModelId="m1")
    await vstatus(daemon, "setVModel", bare.SerializeToString())
    assert daemon.set_requests[1] == SetVModel("w", "m1")


async def test_the_status_says_both_models_while_it_is_on_its_way() -> None:
    daemon = house()
    asked = pb.GetVModelStatusRequest(vModelId="v").SerializeToString()
    said = await vstatus(daemon, "getVModelStatus", asked)
    assert (said.status, said.activeModelId, said.targetModelId, said.owner) == (
        VSTATUS.TRANSITIONING, "m1", "m2", "me",
    )  # fmt: skip
    assert said.activeModelStatus.status == pb.ModelStatusInfo.ModelStatus.NOT_LOADED
    assert said.HasField("targetModelStatus")
    settled = pb.GetVModelStatusRequest(vModelId="m2").SerializeToString()
    assert not (await vstatus(daemon, "getVModelStatus", settled)).HasField("targetModelStatus")


async def test_somebody_elses_vmodel_does_not_exist() -> None:
    daemon = house()
    asked = pb.GetVModelStatusRequest(vModelId="v", owner="you").SerializeToString()
    assert await vstatus(daemon, "getVModelStatus", asked) == pb.VModelStatusInfo()
    for owner, left in (("you", True), ("me", False)):
        body = pb.DeleteVModelRequest(vModelId="v", owner=owner).SerializeToString()
        assert await call(grpc_port(daemon).handler, SERVICE + "deleteVModel", body) == b""
        assert ("v" in daemon.vmodels) is left


@pytest.mark.parametrize(
    ("method", "body", "said"),
    [
        (
            "setVModel",
            pb.SetVModelRequest(
                vModelId="v", targetModelId="m", modelInfo=pb.ModelInfo(path="/p")
            ).SerializeToString(),
            (Code.INVALID_ARGUMENT, "must provide non-empty type in modelInfo"),
        ),
        (
            "setVModel",
            pb.SetVModelRequest(vModelId="v", targetModelId="refused").SerializeToString(),
            (Code.FAILED_PRECONDITION, "not that one"),
        ),
        ("setVModel", b"\xff", (Code.INVALID_ARGUMENT, "malformed SetVModelRequest")),
        ("deleteVModel", b"", (Code.INVALID_ARGUMENT, "must provide non-empty vModelId")),
        ("getVModelStatus", b"", (Code.INVALID_ARGUMENT, "must provide non-empty vModelId")),
    ],
)
async def test_refused(method: str, body: bytes, said: tuple[Code, str]) -> None:
    for service in (SERVICE, "/com.ibm.watson.tas.proto.TasRuntime/"):
        assert await refused(grpc_port(house()).handler, service + method, body) == said


async def test_a_listing_has_pages() -> None:
    daemon = rooms()
    daemon.vmodels = {f"v{n:04}": VModelRecord("a", "b", "me") for n in range(600)}
    daemon.vmodels["w"] = VModelRecord("a", "a")
    names: list[str] = []
    token = ""
    while True:
        asked = admin_pb2.ListVModelsRequest(prefix="v", page_size=299, page_token=token)
        answer = await call(
            grpc_port(daemon).handler,
            "/modelmesh.admin.v1.Admin/ListVModels",
            asked.SerializeToString(),
        )
        assert isinstance(answer, bytes)
        page = admin_pb2.ListVModelsResponse.FromString(answer)
        names += [each.vmodel_id for each in page.vmodels]
        token = page.next_page_token
        if not token:
            break
    assert names == sorted(set(daemon.vmodels) - {"w"})
    assert page.vmodels[0] == admin_pb2.VModel(
        vmodel_id=page.vmodels[0].vmodel_id, active_model_id="a", target_model_id="b",
        owner="me", state="TRANSITIONING",
    )  # fmt: skip


# --- requests


def body(name: str) -> bytes:
    return bytes(inference_pb2.ModelInferRequest(model_name=name).SerializeToString())


@pytest.mark.parametrize(
    ("metadata", "name", "asked"),
    [
        ((("mm-vmodel-id", "v"),), "m2", "m1"),
        ((("mm-vmodel-id-bin", b"v"),), "", "m1"),
        ((), "v", "m1"),
        ((), "m2", "m1"),  # a vmodel has the name: it wins
        ((("mm-model-id", "m2"),), "v", "m2"),  # a model is named outright
        ((), "m1", "m1"),
    ],
)
async def test_which_name_wins(
    metadata: tuple[tuple[str, str], ...], name: str, asked: str
) -> None:
    for kind in (MODEL_INFER, MODEL_METADATA):
        daemon = house()
        assert await call(grpc_port(daemon).handler, kind, body(name), metadata) == b"answer"
        assert [model_id for model_id, _ in daemon.inferred] == [asked]


async def test_several_vmodels_in_one_call_and_other_methods() -> None:
    daemon = house()
    both = (("mm-vmodel-id", "v"), ("mm-vmodel-id", "m2"))
    handler = grpc_port(daemon).handler
    assert await call(handler, "/their.Service/Predict", b"", both) == b"answeranswer"
    assert await call(handler, "/their.Service/Predict", b"", both[:1]) == b"answer"
    unknown = (("mm-vmodel-id", "none"),)
    assert await refused(handler, MODEL_INFER, body("m1"), unknown) == (
        Code.NOT_FOUND, "vmodel not found",
    )  # fmt: skip


async def test_a_vmodel_is_as_ready_as_its_model_and_is_loaded_with_it() -> None:
    daemon = house()
    handler = grpc_port(daemon).handler
    inference = "/inference.GRPCInferenceService/"
    ready = inference_pb2.ModelReadyRequest(name="v").SerializeToString()
    yes = inference_pb2.ModelReadyResponse(ready=True).SerializeToString()
    assert await call(handler, inference + "ModelReady", ready) == yes
    load = inference_pb2.RepositoryModelLoadRequest(model_name="v").SerializeToString()
    assert isinstance(await call(handler, inference + "RepositoryModelLoad", load), bytes)
    assert daemon.loaded == {"m1"}
    header = (("mm-vmodel-id", "none"),)
    said = await call(handler, inference + "RepositoryModelUnload", load, header)
    assert isinstance(said, Failure)
    assert said.code is Code.NOT_FOUND


@pytest.mark.parametrize(
    ("kind", "metadata", "asked"),
    [
        ("POST /v1/models/v:predict", (), "m1"),
        ("POST /v2/models/v/infer", (), "m1"),
        ("POST /v2/models/v/infer", (("mm-vmodel-id", "v"),), "m1"),
        ("POST /v2/models/m2/infer", (("mm-model-id", "m2"),), "m2"),
        ("POST /v2/models/m2/infer", (), "m1"),
    ],
)
async def test_rest_paths_may_name_a_vmodel(
    kind: str, metadata: tuple[tuple[str, str], ...], asked: str
) -> None:
    daemon, tasks = house(), Tasks()
    assert await call(rest_handler(daemon, daemon, tasks), kind, b"{}", metadata) == b"answer"
    assert [model_id for model_id, _ in daemon.inferred] == [asked]
    for path in ("/v1/models/v", "/v2/models/v/ready"):
        assert isinstance(await call(rest_handler(daemon, daemon, tasks), f"GET {path}"), bytes)
    loads = rest_handler(daemon, daemon, tasks)
    assert isinstance(await call(loads, "POST /v2/repository/models/v/load"), bytes)
    assert daemon.loaded == {"m1"}
    await tasks.close()


async def test_a_header_and_a_path_that_name_different_vmodels_contradict() -> None:
    daemon, tasks = house(), Tasks()
    said = await refused(
        rest_handler(daemon, daemon, tasks), "POST /v2/models/m2/infer", b"{}",
        (("mm-vmodel-id", "v"),),
    )  # fmt: skip
    assert said == (Code.INVALID_ARGUMENT, "a header names another model than the URL does")
