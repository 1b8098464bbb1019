"""What processes weigh, and for how long they stood in line, as the kernel counts it."""


def queued_s(pid: int) -> float:
    """For how long it has been ready to run and had no CPU, in all (0: it is gone, or not told)."""
    try:
        with open(f"/proc/{pid}/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def private_bytes(pid: int) -> int:
    """Memory that only this process has (0: it is gone). Takes milliseconds: not on the loop."""
    return _rollup_bytes(pid, b"Private_")


def proportional_bytes(pid: int) -> int:
    """Memory of this process, what it shares divided by those who share it: sums make sense."""
    return _rollup_bytes(pid, b"Pss:")


def _rollup_bytes(pid: int, start: bytes) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
            return 1024 * sum(int(line.split()[1]) for line in rollup if line.startswith(start))
    except (OSError, IndexError, ValueError):
        return 0
