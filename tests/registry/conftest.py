"""Every test that asks for `door` runs once over each implementation that has tables; one that asks
for `any_door`, over each implementation, etcd in every version that is to be found."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.registry import etcd_server
from tests.registry.doors import DOORS, AnyDoor, Door
from tests.registry.etcd_door import STORES
from tests.registry.etcd_server import PROGRAMS, EtcdServer


@pytest.fixture(params=list(DOORS))
def door(request: pytest.FixtureRequest, tmp_path: Path) -> Door:
    return DOORS[request.param](tmp_path)


@pytest.fixture(params=list(STORES))
def any_door(request: pytest.FixtureRequest, tmp_path: Path) -> AnyDoor[Any]:
    door: AnyDoor[Any] = STORES[request.param](tmp_path)
    return door


@pytest.fixture(params=list(PROGRAMS))
def etcd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EtcdServer]:
    """An etcd for one test to mistreat."""
    server = EtcdServer(PROGRAMS[request.param], tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session", autouse=True)
def _shared_servers() -> Iterator[None]:
    yield
    etcd_server.stop_shared("contract")
