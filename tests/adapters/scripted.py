"""Models that do what a test tells them, and keep what they were asked."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from runtime_adapters.base import Inputs, Model, ModelSource, Runtime, TensorSpec
from tests.adapters.support import Bench

Predict = Callable[[np.ndarray], Any]


class Scripted(Model):
    """Answers by a function, and keeps what it was asked."""

    rows_independent = True
    platform = "test_scripted"
    inputs = (TensorSpec("x", "FP64", (-1, 2)),)
    outputs = (TensorSpec("output-0", "FP64", (-1,)),)

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self.asked: list[int] = []

    def predict(self, inputs: Inputs) -> Any:
        self.asked.append(len(inputs.first))
        return self._predict(inputs.first)


class ScriptedRuntime(Runtime):
    """Loads whatever the test put there under the model's id."""

    name = "scripted"
    types = ("script",)

    def __init__(self, loads: Mapping[str, Callable[[], Any]]) -> None:
        super().__init__({})
        self._loads = loads
        self.loaded: list[str] = []

    def load(self, source: ModelSource) -> Any:
        self.loaded.append(source.model_id)
        return self._loads[source.model_id]()


def bench_of(predict: Predict) -> tuple[Bench, Scripted]:
    model = Scripted(predict)
    bench = Bench(ScriptedRuntime({"m": lambda: model}))
    assert bench.load("m", "scripted").failure is None
    bench.world.entries.clear()
    return bench, model


def total(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows.sum(axis=1))


def noting(order: list[str], what: str, result: Any) -> Callable[..., Any]:
    """Returns `result`, having noted that it was asked."""

    def note(*ignored: object) -> Any:
        order.append(what)
        return result

    return note


def summing(order: list[str]) -> Scripted:
    """A model that notes each predict."""

    def predict(rows: np.ndarray) -> np.ndarray:
        order.append("predict")
        return total(rows)

    return Scripted(predict)


def raises(error: BaseException) -> Predict:
    def predict(rows: np.ndarray) -> Any:
        raise error

    return predict
