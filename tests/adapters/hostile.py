"""A runtime whose models misbehave as their key says, beyond what `dummy` can."""

import os
import threading
import time
from pathlib import Path
from typing import ClassVar

import numpy as np

from runtime_adapters.base import Answer, Inputs, Model, ModelSource, Runtime


class HostileRuntime(Runtime):
    """`leave`: thread, child or grandchild; `cycle_bytes`: memory in a reference cycle.

    `gate`: a file that a test makes, before which no predict ends.
    """

    name: ClassVar[str] = "hostile"
    needs_path: ClassVar[bool] = False

    def load(self, source: ModelSource) -> Model:
        key = source.parameters()
        if key.get("leave") == "thread":
            threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
        elif key.get("leave"):
            _leave_process(grandchild=key["leave"] == "grandchild")
        return HostileModel(key.get("cycle_bytes", 0), Path(key.get("gate", "/")))


class OtherDummy(Runtime):
    """Takes the place of one of ours."""

    name: ClassVar[str] = "dummy"


class HostileModel(Model):
    def __init__(self, cycle_bytes: int, gate: Path) -> None:
        self._gate = gate
        self._memory = np.ones(cycle_bytes, np.uint8)
        self._self = self if cycle_bytes else None

    def predict(self, inputs: Inputs) -> Answer:
        while not self._gate.exists():
            time.sleep(0.005)
        return os.getpid()


def _leave_process(grandchild: bool) -> None:
    pid = os.fork()
    if pid == 0:
        if not grandchild or os.fork() == 0:
            time.sleep(3600)
        os._exit(0)
    if grandchild:
        os.waitpid(pid, 0)
