"""How a host knows that model code has left a thread behind: it asks the kernel, at each entry.

Python knows only the threads that it has started, and model code is often not Python. The question
is put twice for each request, so it must cost little; and model code has been known to close every
descriptor that it can find, so it must not depend on one.
"""

import os
from typing import Final

TASKS: Final = "/proc/self/task"


class Threads:
    """The kernel's count of this process's threads, and what it was at the last look.

    Looked at through a kept descriptor, which costs a third of looking the path up; where that is
    closed, or something else by now, through the path.
    """

    def __init__(self) -> None:
        self._fd = os.open(TASKS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._inode = os.fstat(self._fd).st_ino
        self._count = self._now()
        self._alone = self._count if len(os.listdir(TASKS)) == 1 else -1

    def are_more(self, after_entry: bool) -> bool:
        """Whether there are more than at the last look, and an entry ran in between.

        Where only the one thread was there and no entry ran, nobody was there to start another.
        """
        before = self._count
        if after_entry or before != self._alone:
            self._count = self._now()
        return after_entry and self._count > before

    def _now(self) -> int:
        try:
            seen = os.fstat(self._fd)
            if seen.st_ino == self._inode:
                return seen.st_nlink
        except OSError:
            pass
        return os.stat(TASKS).st_nlink
