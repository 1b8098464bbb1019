"""Memory and cores, as a cgroup bounds them (files under a root of the test's own)."""

from pathlib import Path

import pytest

from modelmesh.observe import machine

GIB = 1 << 30


def _root(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": f"MemTotal: {8 * GIB // 1024} kB\n", **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8 * GIB),
        ({"sys/fs/cgroup/memory.max": f"{2 * GIB}\n"}, 2 * GIB),
        ({"sys/fs/cgroup/memory.max": "max\n"}, 8 * GIB),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 8 * GIB),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n"}, GIB),
    ],
)
def test_the_smallest_bound_counts(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert machine.memory_bytes(_root(tmp_path, files)) == expected


def test_a_quota_below_one_core_is_one_core(tmp_path: Path) -> None:
    root = _root(tmp_path, {"sys/fs/cgroup/cpu.max": "50000 100000\n"})
    assert machine.cores(root) == 1


def test_this_machine_has_some_of_both() -> None:
    assert machine.memory_bytes() > 0
    assert machine.cores() >= 1
