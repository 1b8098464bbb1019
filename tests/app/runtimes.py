"""A runtime for tests of the daemon: its models answer where, and as what, they run."""

import os
from typing import Any, ClassVar

from threadpoolctl import threadpool_info  # type: ignore[import-untyped]  # comes with sklearn

from runtime_adapters.base import Inputs, Model, ModelSource, Runtime


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
