"""What processes weigh, as the kernel counts it."""


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
