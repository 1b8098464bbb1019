"""What the kernel says of processes."""

import os
import subprocess
import sys
import time

from modelmesh.runtime.memory import private_bytes, queued_s

SPIN = "while True: pass"


def test_who_shares_a_core_stands_in_line() -> None:
    core = {min(os.sched_getaffinity(0))}
    two = [
        subprocess.Popen(
            [sys.executable, "-c", SPIN], preexec_fn=lambda: os.sched_setaffinity(0, core)
        )
        for _ in range(2)
    ]
    try:
        end = time.monotonic() + 30
        while min(queued_s(each.pid) for each in two) < 0.1:
            assert time.monotonic() < end, "one of them never had to wait"
    finally:
        for each in two:
            each.kill()
            each.wait()
    assert queued_s(two[0].pid) == 0.0, "it is gone"
    assert private_bytes(two[0].pid) == 0
