"""Daemons to be measured: started on free ports, given models, stopped."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from benchmarks.load import pin
from modelmesh.pb import admin_pb2, admin_pb2_grpc, model_mesh_pb2, model_mesh_pb2_grpc

V1_BODY = b'{"instances":[[6.8,2.8,4.8,1.4],[6.0,3.4,4.5,1.6]]}'


@dataclass
class Daemon:
    """A running daemon."""

    process: subprocess.Popen[bytes]
    grpc_port: int
    rest_port: int
    ready_s: float
    peer_port: int = 0  # of one that is in a fleet

    @property
    def pid(self) -> int:
        return self.process.pid

    def channel(self) -> Any:
        return grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}")

    def register(self, model_id: str, kind: str, path: str = "", key: str = "") -> None:
        """Register one model and load it."""
        info = model_mesh_pb2.ModelInfo(type=kind, path=path, key=key)
        request = model_mesh_pb2.RegisterModelRequest(
            modelId=model_id, modelInfo=info, loadNow=True, sync=True
        )
        with self.channel() as channel:
            status = model_mesh_pb2_grpc.ModelMeshStub(channel).registerModel(request, timeout=60)
        assert status.status == model_mesh_pb2.ModelStatusInfo.LOADED, status

    def register_many(self, items: Sequence[tuple[str, str, str, str]]) -> None:
        """Register (id, type, path, key) in bulk; nothing is loaded."""
        with self.channel() as channel:
            stub = admin_pb2_grpc.AdminStub(channel)
            for start in range(0, len(items), 5000):
                part = [
                    admin_pb2.RegisterModelsRequest.Item(model_id=i, type=t, path=p, key=k)
                    for i, t, p, k in items[start : start + 5000]
                ]
                answer = stub.RegisterModels(
                    admin_pb2.RegisterModelsRequest(models=part), timeout=120
                )
                assert not any(result.error for result in answer.results)

    def predict(self, model_id: str, body: bytes = V1_BODY) -> bytes:
        """One V1 predict over REST."""
        url = f"http://127.0.0.1:{self.rest_port}/v1/models/{model_id}:predict"
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
            return bytes(answer.read())


@contextmanager
def daemon(folder: Path, core: int | None = 0, **settings: str) -> Iterator[Daemon]:
    """Start a daemon (settings by their variables' names), wait until it is ready, end it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MM_")}
    environment |= {"MM_PROBE_PORT": "NONE", "MM_METRICS": "disabled", "MM_LOG_FORMAT": "json"}
    environment |= {"MM_SVC_GRPC_PORT": "0", "MM_REST_PORT": "0", "MM_DATA_DIR": str(folder)}
    started = time.monotonic()
    log = (folder.parent / f"{folder.name}.log").open("w+b")
    process = subprocess.Popen(
        [sys.executable, "-m", "modelmesh", "serve"],
        env=environment | settings,
        stderr=log,
        preexec_fn=pin(core) if core is not None else None,
    )
    try:
        ports = _ports(process, Path(log.name))
        ready_s = time.monotonic() - started
        yield Daemon(process, ports["grpc"], ports["rest"], ready_s, ports.get("peer", 0))
    finally:
        process.terminate()
        process.wait(timeout=60)
        log.close()


def _ports(process: subprocess.Popen[bytes], log: Path) -> dict[str, int]:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        for line in log.read_text().splitlines():
            if re.search(r'"event":\s*"ready"', line):
                ports: dict[str, int] = json.loads(line)
                return ports
        time.sleep(0.005)
    raise SystemExit(f"the daemon did not start:\n{log.read_text()}")


@contextmanager
def echo() -> Iterator[tuple[int, int]]:
    """The baseline server: (pid, port)."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.echo"], stdout=subprocess.PIPE, preexec_fn=pin(0)
    )
    assert process.stdout is not None
    try:
        yield process.pid, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
