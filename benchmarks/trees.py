"""What a process and everything below it has used: CPU, private memory, who they are."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """One process of a tree."""

    pid: int
    parent: int
    name: str
    cpu_s: float


def tree(root: int) -> list[Process]:
    """The process and all its descendants that are alive, the root first."""
    everyone = {p.pid: p for p in _everyone()}
    family, grown = [root], True
    while grown:
        more = [p.pid for p in everyone.values() if p.parent in family and p.pid not in family]
        family += more
        grown = bool(more)
    return [everyone[pid] for pid in family if pid in everyone]


def cpu_s(root: int) -> float:
    """User and system seconds of the whole tree."""
    return sum(process.cpu_s for process in tree(root))


def private_bytes(pid: int) -> int:
    """Memory that only this process holds."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    lines = [line.split() for line in text.splitlines() if line.startswith("Private_")]
    return sum(int(fields[1]) for fields in lines) * 1024


def resident_bytes(pid: int) -> int:
    """Resident set size."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def busiest_host(root: int) -> int:
    """The model host of a daemon that has worked most; the others are spares, or new.

    Hosts are the leaves of the daemon's tree, each below its keeper, below the zygote.
    """
    family = tree(root)
    parents = {process.parent for process in family}
    leaves = [p for p in family[1:] if p.pid not in parents and p.parent != root]
    return max(leaves, key=lambda p: p.cpu_s).pid


def _everyone() -> list[Process]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            head, _, tail = (entry / "stat").read_text().rpartition(") ")
        except OSError:
            continue
        fields = tail.split()
        cpu = (int(fields[11]) + int(fields[12])) * _TICK_S
        found.append(Process(int(entry.name), int(fields[1]), head.partition("(")[2], cpu))
    return found
