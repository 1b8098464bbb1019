"""Runtimes for tests of the daemon: models that answer where they run, and loads at a gate."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]  # comes with sklearn

from runtime_adapters.base import Inputs, Later, Model, ModelSource, Runtime


class Witness(Runtime):
    """The runtime `witness`. Its models need no file; with one, its size decides the tier."""

    name: ClassVar[str] = "witness"
    needs_path: ClassVar[bool] = False

    def load(self, source: ModelSource) -> Model:
        return WitnessModel()


class WitnessModel(Model):
    """Answers its process, and the most threads that a numeric library may have there."""

    size_bytes = 1000

    def predict(self, inputs: Inputs) -> dict[str, Any]:
        return {
            "pid": [os.getpid()],
            "threads": [max(pool["num_threads"] for pool in threadpool_info())],
        }


_LOOK_S = 0.01


class Gated(Runtime):
    """The runtime `gated`: a load waits for as long as the file that is its key is locked, and
    holds nothing meanwhile."""

    name: ClassVar[str] = "gated"
    needs_path: ClassVar[bool] = False

    def load(self, source: ModelSource) -> Model | Later[Model]:
        with open(source.key) as gate:
            try:
                fcntl.flock(gate, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return Later(_LOOK_S, lambda: self.load(source))  # type: ignore[arg-type, return-value]
        return NamedModel(source.model_id)


class NamedModel(Model):
    """Answers its id, as a dummy does."""

    size_bytes = 1000

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id

    def predict(self, inputs: Inputs) -> dict[str, Any]:
        return {"model": np.array([self._model_id], object)}


@contextmanager
def closed(gate: Path) -> Iterator[None]:
    """While in here no model loads whose key is this file."""
    with gate.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
