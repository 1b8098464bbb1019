"""Memory for models, when nobody says how much."""

from modelmesh.assembly import capacity_bytes
from modelmesh.observe import machine
from modelmesh.runtime.door import RuntimeStatus
from modelmesh.settings import Settings


def test_the_default_capacity_leaves_out_what_the_hosts_take() -> None:
    status = RuntimeStatus(0, 1, 1, 1.0, "", base_bytes=200 << 20)
    share = int(machine.memory_bytes() * 0.7)
    assert capacity_bytes(Settings(), status) == share - (200 << 20)
    assert capacity_bytes(Settings(capacity_bytes=5), status) == 5
