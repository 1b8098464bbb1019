"""A registry that ModelMesh left behind: its models are listed and served as they stand there."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from modelmesh.registry.etcd.config import EtcdConfig
from modelmesh.registry.store import MODELS, VMODELS, Change, Put
from tests.app.daemon import joined
from tests.registry.etcd_server import PROGRAMS, EtcdServer, shared, stop_shared
from tests.registry.patient import PatientStore


@pytest.fixture(scope="module")
def etcd() -> Any:
    yield shared(next(iter(PROGRAMS)), "what ModelMesh left")
    stop_shared("what ModelMesh left")


# As ModelMesh writes them (defaults left out), copies on pods that are long gone included.
LEFT = {
    MODELS + "plain": {"type": "dummy", "mPath": "", "lu": 1700000000000},
    MODELS + "copied": {
        "type": "rt:dummy",
        "encKey": '{"size_bytes": 2000}',
        "instanceIds": {"7d9c5f-abcde": 1700000000000, "7d9c5f-fghij": 1700000000001},
        "refs": 1,
        "autoDel": True,
        "actionable": True,
    },
    MODELS + "failed": {
        "type": "dummy",
        "failedIn": {"7d9c5f-abcde": 1700000000000},
        "fails": {"7d9c5f-abcde": {"msg": "no such file"}},
    },
    MODELS + "remote": {"type": "sklearn", "mPath": "s3://bucket/model"},
    MODELS + "foreign": {"mPath": "/models/nl"},  # of the default type
    VMODELS + "alias": {"o": "ksp", "amid": "copied", "tmid": "copied"},
}


async def leave_behind(server: EtcdServer, service: str) -> None:
    store = PatientStore(EtcdConfig((server.address,), f"/mm/{service}/"))
    try:
        puts: list[Change] = [Put(key, json.dumps(said).encode()) for key, said in LEFT.items()]
        await store.commit([], puts)
    finally:
        await store.close()


async def left(server: EtcdServer, service: str, key: str) -> dict[str, Any]:
    store = PatientStore(EtcdConfig((server.address,), f"/mm/{service}/"))
    try:
        entry = await store.get(key)
        assert entry is not None
        return dict(json.loads(entry.value))
    finally:
        await store.close()


async def test_its_models_are_listed_and_served(etcd: EtcdServer, tmp_path: Path) -> None:
    service = f"left-{uuid4().hex}"
    await leave_behind(etcd, service)
    with ExitStack() as stack:
        daemon = joined(
            stack,
            kv_store=f"etcd:{etcd.address}",
            kvstore_prefix="mm",
            service_name=service,
            instance_id="new",
            data_dir=str(tmp_path),
            peer_port=0,
            tier="inline",
        )
        rows = daemon.models()
        assert set(rows) == {"plain", "copied", "failed", "remote", "foreign"}
        for model_id in ("plain", "copied", "failed"):
            assert daemon.infer(model_id)["model"] == model_id
        assert "s3" in rows["remote"].reason
        assert "NLCLASSIFIER" in rows["foreign"].reason
        assert daemon.refused("remote").code == "FAILED_PRECONDITION"
    record = await left(etcd, service, MODELS + "copied")
    assert (record["refs"], record["autoDel"], record["actionable"]) == (1, True, True)
