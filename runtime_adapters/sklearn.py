"""scikit-learn models: joblib and pickle files, answers as KServe's sklearn server gives them.

The file rules, `PREDICT_PROBA` and the conversions are KServe's. Two things differ on purpose: what
scikit-learn refuses about an input (features, shape, NaN, unknown categories) is the caller's
error, where KServe answers 500; and several V2 inputs are columns, where KServe silently takes the
first one.
"""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any, ClassVar, Final

import joblib
import numpy as np
import sklearn
from sklearn.exceptions import InconsistentVersionWarning, NotFittedError

from runtime_adapters import tensors, verdicts
from runtime_adapters.base import (
    Answer,
    Array,
    BadInput,
    BadModel,
    Inputs,
    Model,
    ModelSource,
    Runtime,
    TensorSpec,
)

OUTPUT: Final = "output-0"

# Where scikit-learn looks at its input before it computes: errors from there are the caller's.
_INPUT_CHECKS: Final = frozenset(
    {
        "sklearn.compose._column_transformer",
        "sklearn.preprocessing._encoders",
        "sklearn.utils._indexing",
        "sklearn.utils.validation",
    }
)
# Who turns bytes into objects. What they raise among themselves, unlike what the code of a model
# raises whom they call, is about the bytes.
_READERS: Final = frozenset(
    {"joblib", "pickle", "numpy", "codecs", "encodings"}
    | {"bz2", "compression", "_compression", "gzip", "lzma", "zipfile", "zlib"}
)
# These look at other rows, or draw random numbers, so joined requests would answer differently.
_ROWS_DEPEND: Final = frozenset(
    {
        "BernoulliRBM",
        "DummyClassifier",
        "FunctionTransformer",
        "IterativeImputer",
        "LatentDirichletAllocation",
        "MiniBatchNMF",
        "NMF",
    }
)


class SklearnRuntime(Runtime):
    """The runtime `sklearn`. Option `predict_proba` ("true"): probabilities where there are any."""

    name: ClassVar[str] = "sklearn"
    preload: ClassVar[Sequence[str]] = (
        "sklearn.compose",
        "sklearn.ensemble",
        "sklearn.linear_model",
        "sklearn.neighbors",
        "sklearn.pipeline",
        "sklearn.preprocessing",
        "sklearn.svm",
        "sklearn.tree",
    )

    def load(self, source: ModelSource) -> Model:
        path = source.only_file(".joblib", ".pkl", ".pickle")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            estimator = _read(path)
        if not callable(getattr(estimator, "predict", None)):
            raise BadModel(f"{path.name} holds a {type(estimator).__name__}, which cannot predict")
        probabilities = self.options.get("predict_proba", "").lower() == "true"
        return SklearnModel(estimator, probabilities, _version_texts(caught))


class SklearnModel(Model):
    """One estimator, fitted elsewhere."""

    platform = "sklearn_joblib"

    def __init__(self, estimator: Any, probabilities: bool, version_texts: Sequence[str]) -> None:
        self._estimator = estimator
        self._has_names = hasattr(estimator, "feature_names_in_")
        probabilities = probabilities and hasattr(estimator, "predict_proba")
        self._predict = estimator.predict_proba if probabilities else estimator.predict
        self.warnings = version_texts
        self.rows_independent = rows_independent(estimator)
        self._probabilities = probabilities

    @property
    def inputs(self) -> Sequence[TensorSpec]:  # type: ignore[override]  # told when asked
        return input_specs(self._estimator)

    @property
    def outputs(self) -> Sequence[TensorSpec]:  # type: ignore[override]
        return output_specs(self._estimator, self._probabilities)

    def predict(self, inputs: Inputs) -> Answer:
        is_frame = inputs.parameters.get("content_type") == "pd" or len(inputs.arrays) > 1
        try:
            if is_frame or self._has_names:
                table = self._frame(inputs) if is_frame else _table(inputs.first)
                with warnings.catch_warnings():  # names given or missing: both are fine here
                    warnings.filterwarnings("ignore", message="X (has|does not have).*feature name")
                    answer = self._predict(table)
            else:
                answer = self._predict(_table(inputs.first))
        except (ValueError, TypeError) as error:
            if not _is_about_input(error):
                raise
            raise BadInput(str(error)) from error
        if isinstance(answer, list):  # probabilities of several outputs
            return {f"output-{index}": array for index, array in enumerate(answer)}
        return answer

    def _frame(self, inputs: Inputs) -> Any:
        """The inputs as columns, in the order of the training where that has the same ones."""
        import pandas  # late: models of plain arrays do without it

        columns = {name: _column(name, array) for name, array in inputs.arrays.items()}
        if len(set(map(len, columns.values()))) != 1:
            raise BadInput("the columns differ in their number of rows")
        if self._has_names and columns.keys() == set(self._estimator.feature_names_in_):
            columns = {name: columns[name] for name in self._estimator.feature_names_in_}
        return pandas.DataFrame(columns)


def _read(path: Path) -> Any:
    """What the file holds. Damage is said in words; what the model's own code raises passes."""
    try:
        return joblib.load(path)
    except Exception as error:
        text = verdicts.text_of(error)
        if isinstance(error, ImportError | AttributeError) and _raised_in(error) == "find_class":
            raise BadModel(
                f"model file {path.name} needs what is not installed here ({text});"
                f" here is scikit-learn {sklearn.__version__}"
            ) from error
        if not _is_damage(error):
            raise
        raise BadModel(
            f"model file {path.name} is not a readable joblib or pickle file ({text})"
        ) from error


def _is_damage(error: Exception) -> bool:
    """Whether the readers themselves could make no sense of the file's bytes."""
    if isinstance(error, MemoryError):
        return False  # of a file that is too large; in a damaged one too it may be the truth
    if isinstance(error, OSError) and error.errno is not None:
        return False  # the file could not be had
    modules = (str(frame.f_globals.get("__name__")) for frame in _frames(error)[1:])  # after ours
    return all(module.partition(".")[0] in _READERS for module in modules)


def _raised_in(error: Exception) -> str:
    return _frames(error)[-1].f_code.co_name


def _frames(error: Exception) -> list[FrameType]:
    """What ran when it was raised, the outermost first."""
    return [frame for frame, _ in walk_tb(error.__traceback__)]


def _table(array: Array) -> Array | list[str]:
    """The only input as scikit-learn takes it: texts as a list, everything else as it is."""
    if not array.dtype.hasobject:
        return array
    texts = _texts(array)
    return list(texts) if texts.ndim == 1 else texts


def _column(name: str, array: Array) -> Array:
    if array.ndim != 1 and array.shape[1:] != (1,):
        raise BadInput(f"column {name!r} has the shape {list(array.shape)}, not [rows]")
    column = array.reshape(-1)
    return _texts(column) if column.dtype.hasobject else column


def _texts(array: Array) -> Array:
    try:
        decoded = [value.decode() if isinstance(value, bytes) else value for value in array.flat]
    except UnicodeDecodeError as error:
        raise BadInput(f"a text is not UTF-8: {error}") from None
    texts = np.empty(len(decoded), object)
    texts[:] = decoded
    return texts.reshape(array.shape)


def _is_about_input(error: BaseException) -> bool:
    """Whether scikit-learn refused its input, as opposed to breaking in its arithmetic."""
    trace = error.__traceback__
    while trace is not None and not isinstance(error, NotFittedError):
        if trace.tb_frame.f_globals.get("__name__") in _INPUT_CHECKS:
            return True
        trace = trace.tb_next
    return False


def _version_texts(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    versions = dict.fromkeys(
        warning.message.original_sklearn_version
        for warning in caught
        if isinstance(warning.message, InconsistentVersionWarning)
    )
    return [
        f"trained with scikit-learn {version}, runs on {sklearn.__version__}"
        for version in versions
    ]


def rows_independent(estimator: object) -> bool:
    """Whether all of it is scikit-learn's own and looks at one row at a time."""
    kind = type(estimator)
    if not kind.__module__.startswith("sklearn.") or kind.__name__ in _ROWS_DEPEND:
        return False
    return all(map(rows_independent, _parts(estimator)))


def _parts(estimator: object) -> Iterator[object]:
    """The estimators that it was made of (fitted copies, whose names end in _, are their like)."""
    for name, value in vars(estimator).items():
        if not name.endswith("_"):
            yield from _estimators(value)


def _estimators(value: object) -> Iterator[object]:
    if isinstance(value, list | tuple):
        for element in value:
            yield from _estimators(element)
    elif hasattr(value, "get_params") and not isinstance(value, type):
        yield value


def input_specs(estimator: Any) -> list[TensorSpec]:
    """A tensor of all features, or, where the training named them, a column each."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None:
        texts = _text_columns(estimator)
        return [
            TensorSpec(str(name), "BYTES" if name in texts else "FP64", (-1,)) for name in names
        ]
    features = getattr(estimator, "n_features_in_", None)
    if features is not None:
        return [TensorSpec("input-0", "FP64", (-1, int(features)))]
    first = estimator.steps[0][1] if hasattr(estimator, "steps") else estimator
    if hasattr(first, "build_analyzer"):
        return [TensorSpec("input-0", "BYTES", (-1,))]
    return [TensorSpec("input-0", "FP64", (-1, -1))]


def _text_columns(estimator: Any) -> set[str]:
    """Columns that an encoder of the first step knows as texts."""
    first = estimator.steps[0][1] if hasattr(estimator, "steps") else estimator
    found: set[str] = set()
    for _, transformer, columns in getattr(first, "transformers_", ()):
        categories = getattr(transformer, "categories_", None) or ()
        for name, values in zip(columns, categories, strict=False):
            if values.dtype.kind in "OU":
                found.add(name)
    return found


def output_specs(estimator: Any, probabilities: bool) -> list[TensorSpec]:
    """What `predict` (or `predict_proba`) will answer, as far as the fitted attributes say."""
    classes = getattr(estimator, "classes_", None)
    if isinstance(classes, list):  # several outputs
        if probabilities:
            return [
                TensorSpec(f"output-{index}", "FP64", (-1, len(labels)))
                for index, labels in enumerate(classes)
            ]
        return [TensorSpec(OUTPUT, tensors.datatype_of(classes[0].dtype), (-1, len(classes)))]
    if classes is not None:
        shape = (-1, len(classes)) if probabilities else (-1,)
        dtype = np.dtype(np.float64) if probabilities else np.asarray(classes).dtype
        return [TensorSpec(OUTPUT, tensors.datatype_of(dtype), shape)]
    labels = getattr(estimator, "labels_", None)
    if labels is not None:
        return [TensorSpec(OUTPUT, tensors.datatype_of(labels.dtype), (-1,))]
    if sklearn.base.is_outlier_detector(estimator):
        return [TensorSpec(OUTPUT, "INT64", (-1,))]
    return [TensorSpec(OUTPUT, "FP64", _regression_shape(estimator))]


def _regression_shape(estimator: Any) -> tuple[int, ...]:
    outputs = getattr(estimator, "n_outputs_", 1)
    coefficients: Any = getattr(estimator, "coef_", None)
    if outputs == 1 and getattr(coefficients, "ndim", 1) == 2:
        outputs = coefficients.shape[0]
    return (-1,) if outputs == 1 else (-1, int(outputs))
