"""By what a host knows that model code has left a thread behind: in a process that has only one."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]

PRELUDE: Final = """
import os, threading
from runtime_adapters.threads import TASKS, Threads

enough = []

def start():
    enough.append(threading.Event())
    threading.Thread(target=enough[-1].wait).start()

def end():
    before = len(os.listdir(TASKS))
    enough.pop().set()
    while len(os.listdir(TASKS)) == before:
        os.sched_yield()

threads = Threads()
fds = [int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
(task_fd,) = [fd for fd in fds if os.readlink(f"/proc/self/fd/{fd}").endswith("/task")]
"""

# Each line of the second column is one look: whether an entry ran before it, and what it must say.
CASES: Final = {
    "one more, once": "start(); look(True, True); look(True, False)",
    "none": "look(True, False); look(False, False)",
    "one that was there before does not excuse another": (
        "start(); look(True, True); look(False, False); end(); look(False, False);"
        " start(); look(True, True)"
    ),
    "one that others started between entries accuses nobody": (
        "start(); look(True, True); start(); look(False, False); look(True, False)"
    ),
    "the descriptor is closed": "os.close(task_fd); start(); look(True, True)",
    "the descriptor is another file": (
        "os.dup2(os.open('/', os.O_RDONLY), task_fd); start(); look(True, True); look(True, False)"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_thread_more(name: str) -> None:
    look = "def look(ran, wanted): assert threads.are_more(ran) is wanted\n"
    code = PRELUDE + look + CASES[name] + "\nwhile enough: end()\n"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
