"""Memory for models: how much when nobody says, and when it is too little to start with."""

import pytest

from modelmesh.assembly import capacity_bytes
from modelmesh.errors import Code, MeshError
from modelmesh.observe import machine
from modelmesh.runtime.door import RuntimeStatus
from modelmesh.settings import Settings

MIB = 1 << 20


def status(capacity: int = 0, base: int = 0) -> RuntimeStatus:
    return RuntimeStatus(capacity, MIB, 1, 1.0, "", base_bytes=base)


def test_the_default_capacity_leaves_out_what_the_hosts_take() -> None:
    share = int(machine.memory_bytes() * 0.7)
    assert capacity_bytes(Settings(), status(base=200 * MIB)) == share - 200 * MIB
    assert capacity_bytes(Settings(capacity_bytes=5 * MIB), status()) == 5 * MIB
    assert capacity_bytes(Settings(), status(capacity=6 * MIB)) == 6 * MIB


def test_a_limit_on_memory_counts_where_it_is_the_smallest() -> None:
    limited = Settings(memory_limit_bytes=100 * MIB)
    assert capacity_bytes(limited, status(base=20 * MIB)) == 50 * MIB
    wished = Settings(memory_limit_bytes=machine.memory_bytes() * 2)
    assert capacity_bytes(wished, status()) == capacity_bytes(Settings(), status())


TOO_SMALL = {
    "operator": (Settings(capacity_bytes=MIB - 1), status(), "MM_CAPACITY_BYTES gives 1048575 b"),
    "negative": (Settings(capacity_bytes=-5), status(), "MM_CAPACITY_BYTES gives 0 bytes"),
    "runtime": (
        Settings(runtime_port=8085),
        status(capacity=1),
        "the runtime's capacity gives 1 bytes",
    ),
    "hosts": (
        Settings(memory_limit_bytes=100 * MIB),
        status(base=70 * MIB),
        "73400320 bytes of memory less 73400320 of hosts without a model leave 0 bytes",
    ),
    "process": (Settings(tier="process", capacity_bytes=2 * MIB), status(), "(4194304 bytes)"),
}


@pytest.mark.parametrize("case", TOO_SMALL)
def test_less_than_one_model_takes_is_refused_in_one_sentence(case: str) -> None:
    settings, said, expected = TOO_SMALL[case]
    with pytest.raises(MeshError) as refused:
        capacity_bytes(settings, said)
    assert refused.value.failure.code is Code.FAILED_PRECONDITION
    assert expected in refused.value.failure.message
    assert "MM_DEFAULT_MODEL_SIZE_BYTES" in refused.value.failure.message


@pytest.mark.parametrize(
    "settings",
    [
        Settings(capacity_bytes=MIB),
        Settings(capacity_bytes=4 * MIB, tier="process"),
        Settings(capacity_bytes=MIB, tier="process", runtime_port=8085),
    ],
)
def test_what_one_model_takes_is_enough(settings: Settings) -> None:
    assert capacity_bytes(settings, status()) == settings.capacity_bytes
