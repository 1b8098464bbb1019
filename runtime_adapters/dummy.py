"""A runtime that does what its model's key says: sizes, waits, failures and crashes to order.

Tests, demos and benchmarks need models that are large, slow or broken on purpose, by the thousand
and without files. The model's `key` is a JSON object of `Behaviour`'s fields; other keys are
ignored. The answer tells a right model from a wrong one: `model` is its id, `sum` the sum of all
numbers in the inputs. With the request parameter `counters` it also tells how often the model was
run (`predicts`) and how many requests were joined into this run (`joined`).

Waits do not hold the host: those of different models overlap. `hold` makes them hold it, for tests
of what must happen then.
"""

import dataclasses
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from runtime_adapters.base import (
    Array,
    BadModel,
    Inputs,
    Later,
    Model,
    ModelSource,
    Runtime,
    TensorSpec,
)

T = TypeVar("T")

_leaked: list[bytes] = []  # what `leak_bytes_per_call` has lost: no unload gives it back


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a dummy does. Errors and crashes come after the wait."""

    size_bytes: int = 0  # reported as the model's weight; 0: it is weighed
    allocate: bool = False  # really take that memory
    load_s: float = 0.0
    predict_s: float = 0.0
    load_error: str = ""
    predict_error: str = ""
    crash_on_load: bool = False
    crash_on_predict: bool = False
    leak_bytes_per_call: int = 0
    hold: bool = False  # wait in the host's thread

    @classmethod
    def of(cls, source: ModelSource) -> "Behaviour":
        """The behaviour in the model's key; raises BadModel for a value of another type."""
        parameters = source.parameters()
        chosen: dict[str, Any] = {}
        for row in dataclasses.fields(cls):
            if row.name in parameters:
                chosen[row.name] = _checked(row.name, parameters[row.name], type(row.default))
        return cls(**chosen)


def _checked(name: str, value: object, wanted: type) -> object:
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted or (isinstance(value, int | float) and value < 0):
        raise BadModel(f"{name} must be a {wanted.__name__} of at least 0, not {value!r}")
    return value


class DummyRuntime(Runtime):
    """The runtime `dummy`."""

    name: ClassVar[str] = "dummy"
    needs_path: ClassVar[bool] = False
    always_quick: ClassVar[bool] = True

    def load(self, source: ModelSource) -> Model | Later[Model]:
        behaviour = Behaviour.of(source)

        def finish() -> Model:
            _misbehave(behaviour.crash_on_load, behaviour.load_error)
            return DummyModel(source.model_id, behaviour)

        return _wait(behaviour.load_s, behaviour.hold, finish)

    def predict_size(self, source: ModelSource) -> int:
        return Behaviour.of(source).size_bytes


class DummyModel(Model):
    """One dummy."""

    platform = "dummy"
    outputs = (TensorSpec("model", "BYTES", (1,)), TensorSpec("sum", "FP64", (1,)))
    rows_independent = True  # requests may be joined: `predict_batch` keeps them apart

    def __init__(self, model_id: str, behaviour: Behaviour) -> None:
        self._model_id = model_id
        self._behaviour = behaviour
        self._predicts = 0
        self._memory = np.ones(behaviour.size_bytes if behaviour.allocate else 0, np.uint8)
        self.size_bytes = behaviour.size_bytes

    def predict(self, inputs: Inputs) -> Any:
        return self._predict([inputs], lambda answers: answers[0])

    def predict_batch(self, batch: Sequence[Inputs]) -> Any:
        return self._predict(batch, lambda answers: answers)

    def _predict(self, batch: Sequence[Inputs], shape: Callable[[list[Any]], T]) -> T | Later[T]:
        self._predicts += 1
        predicts = self._predicts

        def finish() -> T:
            _misbehave(self._behaviour.crash_on_predict, self._behaviour.predict_error)
            return shape([self._answer(inputs, predicts, len(batch)) for inputs in batch])

        return _wait(self._behaviour.predict_s, self._behaviour.hold, finish)

    def _answer(self, inputs: Inputs, predicts: int, joined: int) -> dict[str, Array]:
        if self._behaviour.leak_bytes_per_call:
            _leaked.append(b"\1" * self._behaviour.leak_bytes_per_call)
        total = sum(_total(array) for array in inputs.arrays.values())
        answer = {"model": np.array([self._model_id], object), "sum": np.array([total], np.float64)}
        if inputs.parameters.get("counters"):
            answer |= {"predicts": np.array([predicts]), "joined": np.array([joined])}
        return answer


def _total(array: Array) -> float:
    return 0.0 if array.dtype.hasobject else float(array.sum(dtype=np.float64))


def _wait(wait_s: float, hold: bool, finish: Callable[[], T]) -> T | Later[T]:
    """The result of `finish` after the wait, in whichever way it is waited."""
    if wait_s and not hold:
        return Later(wait_s, finish)
    if wait_s:
        time.sleep(wait_s)
    return finish()


def _misbehave(crash: bool, error: str) -> None:
    if crash:
        signal.raise_signal(signal.SIGSEGV)
    if error:
        raise RuntimeError(error)
