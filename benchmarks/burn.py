"""A runtime that burns CPU: `key` is {"burn_s": seconds}. Shows whether more hosts do more work.

Given to the daemon as MM_RUNTIMES=benchmarks.burn:BurnRuntime.
"""

import time

import numpy as np

from runtime_adapters.base import Answer, Inputs, Model, ModelSource, Runtime


class Burner(Model):
    """Keeps a core busy for as long as it was told."""

    def __init__(self, burn_s: float) -> None:
        self._burn_s = burn_s

    def predict(self, inputs: Inputs) -> Answer:
        end = time.thread_time() + self._burn_s
        while time.thread_time() < end:
            pass
        return np.ones(len(inputs.first))


class BurnRuntime(Runtime):
    """Loads what needs no file."""

    name = "burn"

    def load(self, source: ModelSource) -> Model:
        return Burner(float(source.parameters()["burn_s"]))
