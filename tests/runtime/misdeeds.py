"""Everything that a model should not do, on purpose. Runs in hosts only.

`HostileRuntime` does what its model's key says (`{"on": "load" or "predict", "do": name}`); the
same functions stand in pickles (`pickled`), which any runtime that reads pickles will run.
"""

import ctypes
import gc
import os
import pickle
import signal
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from modelmesh.wire.journal import JournalWriter
from runtime_adapters.base import Inputs, Model, ModelSource, Runtime

PRINTED_BYTES = 200 << 20
KEPT: list[bytes] = []


def exit_quietly() -> None:
    os._exit(3)


def segfault() -> None:
    ctypes.string_at(0)


def hang() -> None:
    while True:
        time.sleep(60)


def hang_in_the_future() -> None:
    """The journal says that what hangs here has not begun yet."""
    struct.pack_into("<Q", _journal()._page, 8, (1 << 64) - 1)
    hang()


def hang_unnoted() -> None:
    """The journal says that nothing runs."""
    struct.pack_into("<Q", _journal()._page, 16, 0)
    hang()


def hang_under_many_names() -> None:
    """The journal says every few milliseconds that another call has just begun."""
    page = _journal()._page
    for number in range(1 << 62):
        struct.pack_into("<QQQQ", page, 0, number, time.monotonic_ns(), 1, 1 + number % 1000)
        time.sleep(0.005)


def _journal() -> JournalWriter:
    return next(found for found in gc.get_objects() if isinstance(found, JournalWriter))


def spin() -> None:
    while True:
        pass


def kill_parent() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    hang()


def fork_and_return() -> None:
    os.fork()


def fork_behind_python() -> None:
    ctypes.CDLL(None).fork()


def crash_late() -> None:
    """From a thread, when a test says so: on a busy machine no time is surely late enough."""
    word = _word_to_crash(os.getpid())

    def later() -> None:
        while not word.exists():
            time.sleep(0.01)
        word.unlink(missing_ok=True)
        segfault()

    threading.Thread(target=later, daemon=True).start()


def crash_now(pid: int) -> None:
    """Say to a process whose model has done `crash_late` that it is late enough."""
    _word_to_crash(pid).touch()


def _word_to_crash(pid: int) -> Path:
    return Path(tempfile.gettempdir(), f"crash-{pid}")


def close_descriptors() -> None:
    os.closerange(3, 256)


def allocate() -> None:
    bytearray(100 << 30)


def grow_late() -> None:
    """At the end of a call that is long enough to be weighed in its midst."""
    time.sleep(0.5)
    KEPT.append(b"x" * (64 << 20))


def print_much() -> None:
    line = "x" * 1023 + "\n"
    for _ in range(PRINTED_BYTES // len(line)):
        sys.stdout.write(line)


def leave_children() -> None:
    """A child that has its own session and outlives whoever ends its parent."""
    if os.fork() == 0:
        os.setsid()
        hang()


DEEDS: dict[str, Callable[[], None]] = {
    deed.__name__: deed
    for deed in (
        exit_quietly,
        segfault,
        hang,
        hang_in_the_future,
        hang_unnoted,
        hang_under_many_names,
        spin,
        kill_parent,
        fork_and_return,
        fork_behind_python,
        crash_late,
        close_descriptors,
        allocate,
        grow_late,
        print_much,
        leave_children,
    )
}


class _Trap:
    """Unpickling it does the deed."""

    def __init__(self, deed: str) -> None:
        self._deed = deed

    def __reduce__(self) -> tuple[Any, ...]:
        return DEEDS[self._deed], ()


def pickled(deed: str, path: Path) -> Path:
    """A pickle that does it when it is loaded."""
    path.write_bytes(pickle.dumps(_Trap(deed)))
    return path


class HostileRuntime(Runtime):
    """Models that misbehave at one moment and answer like any other at all others."""

    name: ClassVar[str] = "hostile"
    needs_path: ClassVar[bool] = False

    def load(self, source: ModelSource) -> Model:
        parameters = source.parameters()
        if parameters.get("needs_file"):
            Path(source.path).stat()
        if parameters.get("on") == "load":
            DEEDS[parameters["do"]]()
        return HostileModel(parameters)


class HostileModel(Model):
    """Does its deed at its first predict."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._parameters = parameters
        self._done = parameters.get("on") != "predict"
        self.size_bytes = 0
        self._memory = np.ones(int(parameters.get("bytes", 0)), np.uint8)
        self._leaked: list[Any] = []

    def predict(self, inputs: Inputs) -> Any:
        if self._parameters.get("leak"):
            _leaked.append(np.ones(int(self._parameters["leak"]), np.uint8))
        if self._parameters.get("log"):
            with open(self._parameters["log"], "a") as log:
                log.write(f"{inputs.first[0]:.0f}\n")
        time.sleep(self._parameters.get("predict_s", 0))
        while not Path(self._parameters.get("gate", "/")).exists():  # held until the test opens it
            time.sleep(0.005)
        if not self._done:
            self._done = not self._parameters.get("always")
            DEEDS[self._parameters["do"]]()
        return np.array([1.0])


_leaked: list[Any] = []
