"""Become another program that the kernel kills when its parent dies.

Whoever starts an etcd or a fleet may be killed with signal 9 and can then stop nobody, so each such
child begins as this: it asks for the kernel's help and turns into what it is to be. A program of
its own rather than code between fork and exec, because its parents have threads. (The kernel means
the thread that started it: that should be one that stays.) It runs without site-packages and must
never need any.

    python -I -S leash.py PARENT_PID PROGRAM ARGUMENT...
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
_NOT_FOUND = 127  # what shells say


def leashed(argv: Sequence[str]) -> list[str]:
    """The command line that runs this one for as long as the process that calls lives."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *argv]


def main() -> int:
    """Does not return, unless the parent is gone or the program cannot run."""
    parent, argv = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        print(f"prctl: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        return 1
    if os.getppid() != parent:  # it died before the line above
        return 1
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        print(f"cannot run {argv[0]}: {error.strerror}", file=sys.stderr)
    return _NOT_FOUND


if __name__ == "__main__":
    sys.exit(main())
