"""`etcd3` (PyPI, 2020) reads what we wrote, and we read what it wrote: a client that shares no line
with ours, and, as it was published, not even the protos.

It runs in a process of its own: its symbols are etcd's, as ours are, and one process takes only one
of them. Twice, because of its stubs: as published they need protobuf's pure-Python implementation
(tens to thousands of times slower, for the whole process). Regenerated ones are ours: they need it
not, and suffice for reading.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelmesh.registry.store import Put
from tests.registry.etcd_server import EtcdServer
from tests.registry.patient import PatientStore

pytestmark = pytest.mark.timeout(400)

WITNESS = Path(__file__).with_name("witness.py")
ROOT = Path(__file__).resolve().parents[2]
VALUE = b"\0\xff{}"


def said_by_witness(server: EtcdServer, stubs: str) -> dict[str, object]:
    """What the witness says that lies there; the published one leaves `from-witness` behind."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if stubs == "published":
        environment["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"
    said = subprocess.run(
        [sys.executable, str(WITNESS), stubs, str(server.place.client_port)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert said.returncode == 0, said.stderr
    document: dict[str, object] = json.loads(said.stdout)
    return document


@pytest.mark.parametrize("stubs", ["published", "regenerated"])
async def test_an_independent_client_reads_what_we_wrote(etcd: EtcdServer, stubs: str) -> None:
    async with PatientStore(etcd.config("/ns/mm/svc/")) as store:
        lease = await store.grant(600)
        first = await store.commit([], [Put("registry/m 🦊", VALUE), Put("registry/n", b"old")])
        second = await store.commit([], [Put("registry/n", b""), Put("instances/i", b"1", lease)])
        assert said_by_witness(etcd, stubs) == {
            "/ns/mm/svc/registry/m 🦊": [VALUE.hex(), first.revision, first.revision, 0],
            "/ns/mm/svc/registry/n": ["", first.revision, second.revision, 0],
            "/ns/mm/svc/instances/i": [b"1".hex(), second.revision, second.revision, lease],
            "lease's keys": ["/ns/mm/svc/instances/i"],
        }
        found = await store.get("from-witness")
        assert (found and found.value) == (VALUE if stubs == "published" else None)
