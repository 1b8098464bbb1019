"""What the author of a runtime writes: how to load a model, and how to ask it.

A runtime is a class with a `name` and a `load`; what `load` returns is a `Model` with a `predict`
from arrays to arrays. That is all: protocols, joining, deadlines, the journal, weights and errors
are the host's (`core`), so a complete runtime fits on one screen (docs/RUNTIMES.md has one). It
is found by an entry point of the group `modelmesh.runtimes`, or named in `MM_RUNTIMES`.

Methods here run in a host, one at a time, never in the daemon. Whatever they raise costs the one
call (or the one load) and is told to its caller; `BadInput` says that the caller was wrong,
anything else that the model was.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime_adapters import joining

Array = NDArray[Any]
Parameter = bool | int | float | str

# One array is the output `output-0`; a mapping names its outputs. Whatever numpy makes an array of
# will do, and so will a pandas frame (an output per column).
Answer = Any

T = TypeVar("T")


class BadInput(ValueError):
    """The caller's input does not fit the model: INVALID_ARGUMENT, with this text."""


class BadModel(Exception):
    """These files are no model for this runtime: the load fails with this text as its cause."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output as ModelMetadata tells it; -1 in a shape is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What one request asks (or several, joined): arrays by name, in the caller's order.

    V1's `instances` are one array `instances`, or a column each if they are records; the parameter
    `content_type` is then "pd", as KServe's V2 clients say it. BYTES are object arrays of `bytes`
    (V2) or `str` (V1). `requested` names the outputs asked for; none means all.
    """

    arrays: dict[str, Array]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    requested: tuple[str, ...] = ()

    @property
    def first(self) -> Array:
        """The only input that most models look at."""
        for array in self.arrays.values():
            return array
        raise BadInput("the request has no inputs")


@dataclass(frozen=True, slots=True)
class Later(Generic[T]):
    """A result that comes `wait_s` seconds from now, from `finish`.

    Returned in place of a loaded model or of an answer by a runtime that would otherwise only
    wait: the host goes on with other models meanwhile.
    """

    wait_s: float
    finish: Callable[[], T]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What to load: ModelMesh's four fields, the path local (empty if the model has none)."""

    model_id: str
    type: str
    path: str
    key: str = ""

    def parameters(self) -> dict[str, Any]:
        """`key` as the JSON object that it should be ({} if empty); raises BadModel."""
        try:
            parsed = json.loads(self.key or "{}")
        except ValueError as error:
            raise BadModel(f"the model's key is not JSON: {error}") from None
        if not isinstance(parsed, dict):
            raise BadModel("the model's key is not a JSON object")
        return parsed

    def only_file(self, *suffixes: str) -> Path:
        """The file at `path`, or the one of these suffixes directly in the folder; or BadModel."""
        path = Path(self.path)
        if not self.path or not path.exists():
            raise BadModel(f"Missing Model File: {self.path or 'no path'}")
        if not path.is_dir():
            return path
        entries = (entry for entry in path.iterdir() if entry.suffix in suffixes)
        found = sorted(entry for entry in entries if entry.is_file())  # a fifo would hang its host
        if not found:
            raise BadModel(f"Missing Model File: no {', '.join(suffixes)} in {path}")
        if len(found) > 1:
            raise BadModel(
                "More than one model file is detected, "
                f"Only one is allowed within model_dir: {', '.join(map(str, found))}"
            )
        return found[0]


class Model:
    """A loaded model. Only `predict` must be there.

    `rows_independent` declares that row i of every output depends on row i of the inputs alone:
    then requests that wait together become one predict. `size_bytes` other than 0 is taken for the
    model's weight instead of what the host measures.
    """

    platform: str = ""
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()
    warnings: Sequence[str] = ()
    rows_independent: bool = False
    size_bytes: int = 0
    max_concurrency: int = 0

    def predict(self, inputs: Inputs) -> Answer | Later[Answer]:
        """Answer one request."""
        raise NotImplementedError

    def predict_batch(self, batch: Sequence[Inputs]) -> Sequence[Answer] | Later[Sequence[Answer]]:
        """Answer requests that agree in all but their rows; by default joined into one."""
        joined = joining.join([inputs.arrays for inputs in batch])
        answer = self.predict(Inputs(joined, batch[0].parameters, batch[0].requested))
        rows = [len(inputs.first) for inputs in batch]
        if isinstance(answer, Later):
            finish = answer.finish
            return Later(answer.wait_s, lambda: joining.split(named(finish()), rows))
        return joining.split(named(answer), rows)

    def explain(self, inputs: Inputs) -> Answer:
        """V1's `:explain`; the answer is any JSON value. Not implemented unless overridden."""
        raise NotImplementedError("this model does not explain")

    def close(self) -> None:
        """Called before the model is let go."""


class Runtime:
    """A kind of model server. `options` are the operator's settings for runtimes, as text."""

    name: ClassVar[str]
    types: ClassVar[Sequence[str]] = ()  # model types that it runs, beside its own name
    preload: ClassVar[Sequence[str]] = ()  # modules that the zygote imports once for all hosts
    needs_path: ClassVar[bool] = True
    always_quick: ClassVar[bool] = False  # never worth a process of its own

    def __init__(self, options: Mapping[str, str]) -> None:
        self.options = options

    def load(self, source: ModelSource) -> Model | Later[Model]:
        """Load; whatever is raised becomes the cause of the failed load."""
        raise NotImplementedError

    def predict_size(self, source: ModelSource) -> int:
        """An estimate of the weight in bytes before the load; cheap. By default the files' size."""
        path = Path(source.path)
        files = [path] if path.is_file() else path.rglob("*") if source.path else ()
        return sum(file.stat().st_size for file in files if file.is_file())


def named(answer: Answer) -> dict[str, Array]:
    """An answer as arrays by output name; raises TypeError for what is no answer at all."""
    if isinstance(answer, Mapping):
        return {str(name): np.asarray(value) for name, value in answer.items()}
    if hasattr(answer, "columns") and hasattr(answer, "to_numpy"):
        return {str(name): answer[name].to_numpy() for name in answer.columns}
    if hasattr(answer, "toarray"):
        answer = answer.toarray()
    if answer is None:
        raise TypeError("the model answered None")
    return {"output-0": np.asarray(answer)}
