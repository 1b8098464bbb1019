"""Vmodels of one real daemon, over gRPC and REST, while it is asked without a pause."""

import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelmesh.pb import model_mesh_pb2 as pb
from tests.app.daemon import Running, running

INLINE = {"tier": "inline"}
VSTATUS = pb.VModelStatusInfo.VModelStatus


def set_vmodel(daemon: Running, target: str, vmodel_id: str = "v", **fields: Any) -> Any:
    key = fields.pop("key", "")
    request = pb.SetVModelRequest(vModelId=vmodel_id, targetModelId=target, **fields)
    request.modelInfo.CopyFrom(pb.ModelInfo(type="dummy", key=key))
    return daemon.mesh.setVModel(request, timeout=60)


def test_vmodels_over_grpc_and_rest(tmp_path: Path) -> None:
    with running(kv_store=f"sqlite:{tmp_path / 'r.db'}", default_vmodel_owner="us") as daemon:
        first = set_vmodel(daemon, "m1", sync=True, autoDeleteTargetModel=True)
        assert (first.status, first.owner) == (VSTATUS.DEFINED, "us")
        assert first.activeModelStatus.status == pb.ModelStatusInfo.LOADED
        failures: list[str] = []
        over = threading.Event()
        answered = [0]

        def ask() -> None:
            while not over.is_set():
                try:
                    daemon.infer("v", 1.0)
                    daemon.begin("m1-by-header", 1.0, metadata=(("mm-vmodel-id", "v"),)).result()
                    answered[0] += 1
                except grpc.RpcError as error:
                    failures.append(str(error.details()))
                if daemon.predict("v", 1.0).status != 200:
                    failures.append("REST")

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for thread in asking:
            thread.start()
        try:
            for n in range(2, 6):
                said = set_vmodel(
                    daemon, f"m{n}", sync=True, autoDeleteTargetModel=True, key='{"load_s":0.2}'
                )
                assert (said.status, said.activeModelId) == (VSTATUS.DEFINED, f"m{n}")
        finally:
            over.set()
            for thread in asking:
                thread.join()
        assert answered[0] > 0
        assert not failures
        assert set(daemon.models()) == {"m5"}
        refused = pb.UnregisterModelRequest(modelId="m5")
        with pytest.raises(grpc.RpcError, match="has referents"):
            daemon.mesh.unregisterModel(refused, timeout=10)
        daemon.mesh.deleteVModel(pb.DeleteVModelRequest(vModelId="v", owner="us"), timeout=10)
        assert not daemon.models()
        said = daemon.refused("v")
        assert said.code == "NOT_FOUND"


def test_a_target_that_does_not_load_leaves_the_active_one() -> None:
    with running(kv_store="memory", **INLINE) as daemon:
        set_vmodel(daemon, "good", sync=True)
        said = set_vmodel(daemon, "bad", sync=True, key='{"load_error":"no such colour"}')
        assert said.status == VSTATUS.TRANSITION_FAILED
        assert (said.activeModelId, said.targetModelId) == ("good", "bad")
        assert any("no such colour" in error for error in said.targetModelStatus.errors)
        daemon.infer("v", 1.0)
        forced = set_vmodel(daemon, "better", force=True)
        assert (forced.status, forced.activeModelId) == (VSTATUS.DEFINED, "better")
        daemon.infer("v", 1.0)


def test_a_static_model_may_be_the_target_of_a_vmodel() -> None:
    static = (
        '[{"modelId":"m","modelInfo":{"type":"dummy"},"vModelId":"v","ensureLoaded":true},'
        '{"modelId":"k","modelInfo":{"type":"dummy"},"vModelId":"w","retainAfterTransition":true}]'
    )
    with running(kv_store="memory", auto_register=static, **INLINE) as daemon:
        assert daemon.loaded() == {"m"}
        daemon.infer("v", 1.0)
        for vmodel_id in "vw":
            set_vmodel(daemon, "n", vmodel_id, force=True)
        assert set(daemon.models()) == {"k", "n"}
