"""One etcd for the fleets of a worker that leave it as it is; an etcd of its own for the others."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.fleet import Fleet, fleet_of
from tests.registry.etcd_server import PROGRAMS, EtcdServer, shared, stop_shared

VERSION = next(iter(PROGRAMS))


@pytest.fixture(scope="session")
def etcd() -> Iterator[EtcdServer]:
    """Left as it is: every fleet has a root of its own in it."""
    yield shared(VERSION, "fleets")
    stop_shared("fleets")


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    """For one test to mistreat."""
    server = EtcdServer(PROGRAMS[VERSION], tmp_path / "etcd")
    server.start()
    yield server
    server.resume()
    server.stop()


StartFleet = Callable[..., Fleet]


@pytest.fixture
def start_fleet(tmp_path: Path) -> Iterator[StartFleet]:
    """`start_fleet(etcd, "a", "b", **settings)`: a fleet that ends with the test."""
    with ExitStack() as stack:

        def start(etcd: EtcdServer, *instance_ids: str, **settings: Any) -> Fleet:
            made: AbstractContextManager[Fleet] = fleet_of(
                etcd, tmp_path, *instance_ids, **settings
            )
            return stack.enter_context(made)

        yield start
