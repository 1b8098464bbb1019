"""What this process may use: memory and cores, as the cgroup or the machine bounds them."""

import os
from pathlib import Path

_CGROUP_V2 = "sys/fs/cgroup/memory.max"
_CGROUP_V1 = "sys/fs/cgroup/memory/memory.limit_in_bytes"
_UNBOUNDED = 1 << 60  # cgroup v1 writes a huge number for "no limit"
_QUOTA_V2 = "sys/fs/cgroup/cpu.max"


def memory_bytes(root: Path = Path("/")) -> int:
    """The smallest bound on memory that applies here."""
    bounds = [_physical_bytes(root)]
    for name in (_CGROUP_V2, _CGROUP_V1):
        text = _read(root / name)
        if text.isdigit() and int(text) < _UNBOUNDED:
            bounds.append(int(text))
    return min(bounds)


def cores(root: Path = Path("/")) -> int:
    """Cores that this process may use, at least 1: its affinity, bounded by the cgroup's quota."""
    usable = len(os.sched_getaffinity(0))
    quota, _, period = _read(root / _QUOTA_V2).partition(" ")
    if quota.isdigit() and period.isdigit():
        usable = min(usable, int(quota) // int(period))
    return max(usable, 1)


def _physical_bytes(root: Path) -> int:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
