"""One daemon whose start fails at each of its steps, and whose end comes at odd moments."""

import asyncio
import json
import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from modelmesh.app import App
from modelmesh.errors import MeshError
from modelmesh.settings import Settings
from tests.runtime.waiting import until


def _settings(data_dir: Path, **changes: Any) -> Settings:
    chosen: dict[str, Any] = {
        "host": "127.0.0.1",
        "grpc_port": 0,
        "rest_port": 0,
        "probe_port": "0",
        "metrics": "prometheus:port=0",
        "data_dir": str(data_dir),
        "shutdown_timeout_s": 2.0,
    }
    return Settings(**(chosen | changes))


@contextmanager
def _taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def _descriptors() -> Counter[str]:
    """What is open, by kind; without what gRPC keeps for its next server."""
    kinds: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            kinds[os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]] += 1
    del kinds["anon_inode"]
    return kinds


async def _fails(settings: Settings) -> BaseException:
    """What the start says; the stop after it must end in time and leave no process, no port."""
    grpc.aio.init_grpc_aio()  # what it keeps for the process's life is there before we count
    children, descriptors = _children(), _descriptors()
    app = App(settings)
    with pytest.raises((MeshError, OSError)) as caught:
        await asyncio.wait_for(app.start(), 60)
    await asyncio.wait_for(app.stop(), 60)
    await until(lambda: _children() <= children)
    await until(lambda: _descriptors() <= descriptors)
    return caught.value


async def test_models_that_cannot_be_read(tmp_path: Path) -> None:
    await _fails(_settings(tmp_path, auto_register="{"))


async def test_a_registry_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"not a database, but long enough to be read" * 100)
    await _fails(_settings(tmp_path))


async def test_a_data_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    await _fails(_settings(tmp_path / "file" / "below"))


async def test_hosts_that_never_get_ready(tmp_path: Path) -> None:
    hanging = "tests.runtime.hanging_import:Never"
    await _fails(_settings(tmp_path, runtimes=hanging, runtime_start_s=1.0))


async def test_an_external_runtime_that_is_not_there(tmp_path: Path) -> None:
    with _taken() as port:
        settings = _settings(tmp_path, runtime_port=port, runtime_start_s=0.5)
        first = App(settings)  # from its first call on, gRPC keeps sockets for its poller
        with pytest.raises(MeshError, match="did not become ready"):
            await first.start()
        await first.stop()
        await _fails(settings)


@pytest.mark.parametrize("which", ["rest_port", "grpc_port", "probe_port", "metrics"])
async def test_a_port_that_is_taken(tmp_path: Path, which: str) -> None:
    with _taken() as port:
        value = {"metrics": f"prometheus:port={port}", "probe_port": str(port)}.get(which, port)
        await _fails(_settings(tmp_path, **{which: value}))


async def test_static_models_that_do_not_load(tmp_path: Path) -> None:
    broken = {
        "modelId": "m",
        "modelInfo": {"type": "dummy", "path": "", "key": '{"load_error": "no"}'},
        "ensureLoaded": True,
    }
    error = await _fails(_settings(tmp_path, auto_register=json.dumps([broken])))
    assert "m does not load" in str(error)


async def test_a_start_that_is_given_up_while_a_static_model_loads(tmp_path: Path) -> None:
    slow = {
        "modelId": "m",
        "modelInfo": {"type": "dummy", "path": "", "key": '{"load_s": 300}'},
        "ensureLoaded": True,
    }
    children = _children()
    app = App(_settings(tmp_path, auto_register=json.dumps([slow])))
    start = asyncio.create_task(app.start())
    await until(lambda: app._daemon is not None and app._daemon.parts.loader.is_coming("m"), 60.0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await asyncio.wait_for(app.stop(), 60)
    await until(lambda: _children() <= children)


@pytest.mark.parametrize("moment_s", [0.0, 0.01, 0.3, 1.0])
async def test_a_start_that_is_given_up_at_any_moment(tmp_path: Path, moment_s: float) -> None:
    children = _children()
    app = App(_settings(tmp_path))
    start = asyncio.create_task(app.start())
    await asyncio.wait([start], timeout=moment_s)
    start.cancel()
    await asyncio.wait([start])
    await asyncio.wait_for(app.stop(), 60)
    await until(lambda: _children() <= children)


async def test_an_inline_runtime_that_cannot_be_imported(tmp_path: Path) -> None:
    settings = _settings(tmp_path, tier="inline", runtimes="tests.no_such_module:Runtime")
    assert "no_such_module" in str(await _fails(settings))
