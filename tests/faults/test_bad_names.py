"""Names from hell: what may be registered works everywhere, what may not is refused everywhere.

A name is no path. What is accepted is registered, listed, loaded, asked over gRPC (in the message
and in a header) and over both REST protocols, told in statuses, and unregistered again; what is
refused leaves no trace, and whoever asks for it learns that there is no such model.
"""

from typing import Final
from urllib.parse import quote

import grpc
import pytest

from modelmesh.pb import admin_pb2
from modelmesh.pb import model_mesh_pb2 as mesh_pb
from tests.app.client import CALL_S, Refused, request_of
from tests.faults.scene import INFER, Scene, head, post

ODD: Final[dict[str, str]] = {
    "dot": ".",
    "dots": "..",
    "a way out": "../../etc/passwd",
    "an absolute path": "/etc/passwd",
    "slashes": "//",
    "a backslash": "a\\b",
    "a colon": "a:predict",
    "escapes": "%2e%2e%2f%00",
    "spaces": "   ",
    "a leading space": " a",
    "a leading dash": "--help",
    "a star": "*",
    "quotes": "'\"; drop table records; --",
    "markup": "<script>alert(1)</script>",
    "a query": "a?b=c#d",
    "a script's word": "__proto__",
    "a header's": "a,b; c=d",
    "emoji": "🦊🏳️‍🌈",
    "right to left": "\u202e\u05de\u05d5\u05d3\u05dc",
    "composed": "caf\u00e9",
    "decomposed": "cafe\u0301",
    "upper case": "IRIS",
    "another width": "\uff49\uff52\uff49\uff53",
    "no width": "a\u200bb",
    "beyond the plane": "\U000e0041",
    "1,024 bytes": "n" * 1024,
    "1,024 bytes of emoji": "🦊" * 256,
}


@pytest.mark.parametrize("name", ODD.values(), ids=ODD.keys())
def test_an_odd_name_is_a_name(name: str, scene: Scene) -> None:
    daemon = scene.daemon
    assert daemon.register(name, "dummy") == "NOT_LOADED"
    try:
        assert daemon.load(name) == "LOADED"
        assert name in daemon.models()
        assert daemon.infer(name, 2.0).outputs == {"model": name, "sum": 2.0}
        header = (("mm-model-id-bin", name.encode()),)
        assert name.encode() in answered(scene.call(INFER, request_of("", [1.0]), header))
        in_url = quote(name, safe="")
        answer = scene.send(*post(f"/v1/models/{in_url}:predict", b'{"instances": [[1.0]]}'))
        assert answer.document == {"predictions": [{"model": name, "sum": 1.0}]}
        answer = scene.send(head(b"GET", f"/v2/models/{in_url}/ready".encode()))
        assert answer.document == {"name": name, "ready": True}
        assert daemon.state(name) == "LOADED"
        listed = scene.send(head(b"GET", b"/v1/models")).document["models"]
        assert name in listed
    finally:
        daemon.unregister(name)
    assert daemon.state(name) == "NOT_FOUND"


IMPOSSIBLE: Final[dict[str, str]] = {
    "empty": "",
    "NUL": "\0",
    "NUL at the end": "iris\0",
    "CRLF": "a\r\nset-cookie: a=b",
    "a line end": "a\nb",
    "a tab": "a\tb",
    "escape": "\x1b[2J",
    "delete": "\x7f",
    "a C1 control": "\x85",
    "a line separator": "a\u2028b",
    "a paragraph separator": "a\u2029b",
    "1,025 bytes": "n" * 1025,
    "1,028 bytes of emoji": "🦊" * 257,
    "10,000 characters": "n" * 10_000,
    "10 MB": "n" * (10 << 20),
}


@pytest.mark.parametrize("name", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_an_impossible_name_is_refused_and_unknown(name: str, scene: Scene) -> None:
    daemon = scene.daemon
    with pytest.raises(grpc.RpcError) as failed:
        daemon.register(name, "dummy")
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    said = failed.value.details() or ""
    assert "modelId" in said
    assert len(said) < 200
    assert said.isprintable(), "the name is not repeated"
    if not name:
        assert bulk(scene, name) == "INVALID_ARGUMENT"
        return
    assert daemon.state(name) == "NOT_FOUND"
    daemon.unregister(name)
    assert daemon.refused(name).code == "NOT_FOUND"
    if len(name) < 5000:
        assert bulk(scene, name) == "INVALID_ARGUMENT"
        header = (("mm-model-id-bin", name.encode()),)
        refused = scene.call(INFER, request_of("", [1.0]), header)
        assert isinstance(refused, Refused)
        assert refused.code == "NOT_FOUND"
        path = f"/v1/models/{quote(name, safe='')}:predict"
        answer = scene.send(*post(path, b'{"instances": [[1.0]]}'))
        assert (answer.status, "set-cookie" in answer.headers) == (404, False)


REGISTRATIONS: Final[dict[str, tuple[mesh_pb.ModelInfo, str]]] = {
    "no type": (mesh_pb.ModelInfo(), "type"),
    "an unknown type": (mesh_pb.ModelInfo(type="no"), "no"),
    "a scheme that is not supported": (mesh_pb.ModelInfo(type="sklearn", path="s3://a/b"), "s3"),
    "a scheme that nobody knows": (mesh_pb.ModelInfo(type="sklearn", path="no://a"), "no"),
    "a way out": (mesh_pb.ModelInfo(type="sklearn", path="/models/../etc/passwd"), "'..'"),
    "NUL in the path": (mesh_pb.ModelInfo(type="sklearn", path="/models/\0"), "NUL"),
    "a path of 5,000 bytes": (mesh_pb.ModelInfo(type="sklearn", path="/" + "p" * 5000), "bytes"),
    "another machine's file": (mesh_pb.ModelInfo(type="sklearn", path="file://far/m"), "far"),
    "a broken escape": (mesh_pb.ModelInfo(type="sklearn", path="file:///a%zz"), "%"),
}


@pytest.mark.parametrize(("info", "said"), REGISTRATIONS.values(), ids=REGISTRATIONS.keys())
def test_what_can_never_be_served_is_refused_at_registration(
    info: mesh_pb.ModelInfo, said: str, scene: Scene
) -> None:
    request = mesh_pb.RegisterModelRequest(modelId="impossible", modelInfo=info)
    with pytest.raises(grpc.RpcError) as failed:
        scene.daemon.mesh.registerModel(request, timeout=CALL_S)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert said in (failed.value.details() or "")
    assert scene.daemon.state("impossible") == "NOT_FOUND"


def test_other_attributes_under_a_name_that_is_taken(scene: Scene) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        scene.daemon.register("iris", "dummy")
    assert failed.value.code() is grpc.StatusCode.ALREADY_EXISTS


def bulk(scene: Scene, name: str) -> str:
    """The code of one model's registration in bulk."""
    item = admin_pb2.RegisterModelsRequest.Item(model_id=name, type="dummy")
    request = admin_pb2.RegisterModelsRequest(models=[item])
    (result,) = scene.daemon.admin.RegisterModels(request, timeout=CALL_S).results
    return str(result.code)


def answered(answer: Refused | bytes) -> bytes:
    assert isinstance(answer, bytes), answer
    return answer
