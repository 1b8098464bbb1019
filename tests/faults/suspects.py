"""Model files that misbehave: real pickles, which the sklearn runtime loads like any other.

The deeds are those of the runtime room's tests, and a few more. A suspect notes in a file which
process it acts in before it does anything, so that a test can tell where the fault happened; it
answers every prediction with the pid of the process that it lives in. Runs in hosts only.
"""

import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.runtime import misdeeds


def exit_in_python() -> None:
    sys.exit(3)


def abort() -> None:
    os.abort()


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def close_everything() -> None:
    os.closerange(0, 4096)


def print_gigabyte() -> None:
    megabyte = (b"x" * 1023 + b"\n") * 1024
    for _ in range(1024):
        os.write(1, megabyte)


def flee() -> None:
    """Leave a child in a session of its own, then kill everybody who knows of it."""
    misdeeds.leave_children()
    misdeeds.kill_parent()


def fill_memory() -> None:
    """100 GB again, but each block is really used."""
    hoard = [np.ones(1 << 25, np.uint8) for _ in range(3200)]
    del hoard


def raise_unprintable() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise self

    raise Unprintable


DEEDS: Final[dict[str, Callable[[], None]]] = misdeeds.DEEDS | {
    deed.__name__: deed
    for deed in (
        exit_in_python,
        abort,
        kill_itself,
        close_everything,
        print_gigabyte,
        flee,
        fill_memory,
        raise_unprintable,
    )
}


@dataclass(frozen=True)
class Suspect:
    """One model: does the deed when it is loaded, or at every prediction ("": never)."""

    at_load: str
    at_predict: str
    notes: str

    def __reduce__(self) -> tuple[Any, ...]:
        return _loaded, (self.at_load, self.at_predict, self.notes)

    def predict(self, rows: Sequence[Any]) -> list[int]:
        if self.at_predict:
            self.act(self.at_predict)
        return [os.getpid()] * len(rows)

    def act(self, deed: str) -> None:
        with open(self.notes, "a") as file:
            file.write(f"{os.getpid()} {os.getppid()}\n")
        DEEDS[deed]()


def _loaded(at_load: str, at_predict: str, notes: str) -> Suspect:
    suspect = Suspect(at_load, at_predict, notes)
    if at_load:
        suspect.act(at_load)
    return suspect


@dataclass(frozen=True)
class File:
    """A suspect on disk, and what it has noted."""

    path: Path

    @classmethod
    def write(cls, path: Path, at_load: str = "", at_predict: str = "") -> "File":
        suspect = Suspect(at_load, at_predict, str(path.with_suffix(".notes")))
        path.write_bytes(pickle.dumps(suspect))
        return cls(path)

    @property
    def acted_in(self) -> list[int]:
        """The processes in which it has begun its deed, in order."""
        return [pid for pid, _ in self._notes()]

    @property
    def parents(self) -> list[int]:
        """The parents of those processes."""
        return [parent for _, parent in self._notes()]

    def _notes(self) -> list[tuple[int, int]]:
        notes = self.path.with_suffix(".notes")
        lines = notes.read_text().splitlines() if notes.exists() else []
        return [(int(pid), int(parent)) for pid, parent in map(str.split, lines)]
