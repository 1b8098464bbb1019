"""scikit-learn models answer as scikit-learn itself does; what it refuses is told to the caller."""

import gzip
import io
import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas
import pytest
import sklearn
from hypothesis import given
from hypothesis import strategies as st
from sklearn import datasets, svm
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.pb import inference_pb2
from modelmesh.wire import kinds
from runtime_adapters.sklearn import SklearnRuntime, rows_independent
from tests.adapters.support import Bench, RecordedReply, call, infer, inferred, named, v1

X, Y = datasets.load_iris(return_X_y=True)
ROWS = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]
FRAME = pandas.DataFrame({"size": [1, 2, 3, 4], "color": ["red", "blue", "red", "blue"]})


def iris() -> svm.SVC:
    return svm.SVC(gamma="scale").fit(X, Y)


def colors() -> Any:
    by_column = ColumnTransformer(
        [("color", OneHotEncoder(), ["color"]), ("size", StandardScaler(), ["size"])]
    )
    return make_pipeline(by_column, LogisticRegression()).fit(FRAME, ["a", "b", "a", "b"])


def texts() -> Any:
    return make_pipeline(CountVectorizer(), MultinomialNB()).fit(
        ["ham eggs", "spam spam"], ["h", "s"]
    )


class Served:
    """A host's core with one sklearn model."""

    def __init__(self, path: Path, options: dict[str, str] | None = None) -> None:
        self.bench = Bench(SklearnRuntime(options or {}))
        self.loaded: RecordedReply = self.bench.load("m", "sklearn", path)

    def v1(self, instances: Any) -> Any:
        (answer,) = self.bench.run(v1("m", instances))
        return json.loads(answer)["predictions"] if isinstance(answer, bytes) else answer

    def v2(self, *inputs: dict[str, Any], **fields: Any) -> Any:
        body = json.dumps({"inputs": inputs, **fields}).encode()
        (answer,) = self.bench.run(call(kinds.V2_INFER, body, *named("m")))
        return json.loads(answer)["outputs"] if isinstance(answer, bytes) else answer

    def metadata(self) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        (answer,) = self.bench.run(call(kinds.MODEL_METADATA, b"", *named("m")))
        told = inference_pb2.ModelMetadataResponse.FromString(answer)
        inputs, outputs = (
            [(spec.name, spec.datatype, *spec.shape) for spec in specs]
            for specs in (told.inputs, told.outputs)
        )
        return inputs, outputs


@pytest.fixture
def serve(tmp_path: Path) -> Any:
    def saved(estimator: Any, **options: str) -> Served:
        path = tmp_path / "model.joblib"
        joblib.dump(estimator, path)
        return Served(path, options)

    return saved


# --- files that are no models


def written(path: Path, content: bytes) -> Failure:
    path.write_bytes(content)
    failure = Served(path).loaded.failure
    assert failure is not None
    assert (failure.code, failure.fault) == (Code.FAILED_PRECONDITION, Fault.MODEL)
    assert failure.reason == Reason.LOAD_FAILED
    return failure


COMPRESSED = io.BytesIO()
joblib.dump(iris(), COMPRESSED, compress=("zlib", 3))
UNREADABLE = {
    "empty": (b"", "EOFError : "),
    "a pointer to large storage": (b"version https://git-lfs.github.com/spec/v1", "KeyError : 118"),
    "a page": (b"<html>not found</html>", "KeyError : 60"),
    "an archive": (b"PK\x03\x04" + bytes(20), "UnpicklingError : "),
    "compressed text": (gzip.compress(b"hello"), "UnpicklingError : "),
    "broken compression": (COMPRESSED.getvalue()[:100] + bytes(100), "error : Error -3"),
    "cut off": (pickle.dumps(iris())[:500], "Error : "),
    "cut off in the compression": (COMPRESSED.getvalue()[:100], "EOFError : "),
    "broken gzip": (b"\x1f\x8b" + bytes(20), "error : Error -3"),
    "a number that is called": (b"K\x01N\x85R.", "TypeError : "),
    "a number as a list": (b"K\x01K\x02a.", "AttributeError : "),
    "a broken number": (b"F1.x\n.", "ValueError : could not convert"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_no_reader_understands_is_said_to_be_none(tmp_path: Path, case: str) -> None:
    content, detail = UNREADABLE[case]
    message = written(tmp_path / "m.joblib", content).message
    assert message.startswith("model file m.joblib is not a readable joblib or pickle file (")
    assert detail in message


WHOLE = pickle.dumps(iris())


@given(st.integers(0, len(WHOLE) - 1))
def test_a_file_that_was_cut_off_anywhere_is_said_to_be_none(length: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        message = written(Path(folder, "m.pkl"), WHOLE[:length]).message
    assert message.startswith("model file m.pkl is not a readable joblib or pickle file (")


@pytest.mark.parametrize("content", [b"cno_such_library\nModel\n.", b"csklearn.svm\nGone\n."])
def test_a_model_of_a_library_that_is_not_here_says_what_it_needs(
    tmp_path: Path, content: bytes
) -> None:
    message = written(tmp_path / "m.pkl", content).message
    assert message.startswith("model file m.pkl needs what is not installed here (")
    assert "no_such_library" in message or "Gone" in message
    assert message.endswith(f"); here is scikit-learn {sklearn.__version__}")


class Grumbler:
    """Raises what a reader would, from code of its own."""

    def __setstate__(self, state: Any) -> None:
        raise KeyError("of the model's own making")


def test_what_the_code_of_a_model_raises_is_told_as_it_is(tmp_path: Path) -> None:
    grumbler = Grumbler()
    grumbler.x = 1  # type: ignore[attr-defined]
    message = written(tmp_path / "m.pkl", pickle.dumps(grumbler)).message
    assert message == 'KeyError : "of the model\'s own making"'


# --- golden answers


def test_v1_iris(serve: Any) -> None:
    bench = serve(iris()).bench
    assert bench.run(v1("m", ROWS)) == [b'{"predictions":[1,1]}']
    assert iris().predict(ROWS).tolist() == [1, 1]


def test_v2_iris_over_rest(serve: Any) -> None:
    tensor = {"name": "input-0", "shape": [2, 4], "datatype": "FP32", "data": ROWS}
    assert serve(iris()).v2(tensor) == [
        {"name": "output-0", "shape": [2], "datatype": "INT64", "parameters": None, "data": [1, 1]}
    ]


def test_v2_iris_over_protobuf(serve: Any) -> None:
    (answer,) = serve(iris()).bench.run(infer("m", ROWS, "FP32"))
    assert inferred(answer) == {"output-0": [1, 1]}


def test_joined_requests_get_the_labels_of_single_ones(serve: Any) -> None:
    served = serve(iris())
    answers = served.bench.run(*(infer("m", [row.tolist()]) for row in X))
    assert len(served.bench.world.entries) < 5
    labels = [inferred(answer)["output-0"][0] for answer in answers]
    assert labels == iris().predict(X).tolist()


def test_strings_are_bytes_and_texts(serve: Any) -> None:
    estimator = svm.SVC().fit(X, np.array(["a", "b", "c"])[Y])
    served = serve(estimator)
    assert served.v1(ROWS) == estimator.predict(ROWS).tolist()
    (answer,) = served.bench.run(infer("m", ROWS))
    assert inferred(answer) == {"output-0": [text.encode() for text in estimator.predict(ROWS)]}


def test_probabilities_on_demand(serve: Any) -> None:
    forest = RandomForestClassifier(5, random_state=0).fit(X, Y)
    assert serve(forest, predict_proba="true").v1(ROWS) == forest.predict_proba(ROWS).tolist()
    assert serve(forest).v1(ROWS) == forest.predict(ROWS).tolist()


def test_probabilities_where_there_are_none(serve: Any) -> None:
    assert serve(iris(), predict_proba="true").v1(ROWS) == [1, 1]


def test_several_outputs(serve: Any) -> None:
    both = np.stack([Y, Y % 2], axis=1)
    knn = KNeighborsClassifier(3).fit(X, both)
    assert serve(knn).v1(ROWS) == knn.predict(ROWS).tolist()
    first, second = serve(knn, predict_proba="true").v2(
        {"name": "x", "shape": [2, 4], "datatype": "FP64", "data": ROWS}
    )
    assert (first["name"], second["name"]) == ("output-0", "output-1")
    assert first["data"] == knn.predict_proba(ROWS)[0].ravel().tolist()
    assert second["data"] == knn.predict_proba(ROWS)[1].ravel().tolist()


def test_texts_as_instances_and_as_tensors(serve: Any) -> None:
    served = serve(texts())
    assert served.v1(["spam", "eggs"]) == ["s", "h"]
    (output,) = served.v2(
        {"name": "t", "shape": [2], "datatype": "BYTES", "data": ["eggs", "spam"]}
    )
    assert output["data"] == ["h", "s"]


RECORDS = [{"color": "blue", "size": 4}, {"color": "red", "size": 1}]
EXPECTED = ["b", "a"]


@pytest.mark.parametrize(
    "instances",
    [
        RECORDS,
        [RECORDS],
        [{"color": ["blue", "red"], "size": [4, 1]}],
        [{"color": {"0": row["color"]}, "size": {"0": row["size"]}} for row in RECORDS],
    ],
    ids=["rows", "list of rows", "columns", "indexed"],
)
def test_records_as_instances(serve: Any, instances: list[Any]) -> None:
    assert colors().predict(pandas.DataFrame(RECORDS)).tolist() == EXPECTED
    assert serve(colors()).v1(instances) == EXPECTED


@pytest.mark.parametrize("shape", [[2], [2, 1]])
@pytest.mark.parametrize("parameters", [{}, {"content_type": "pd"}])
def test_columns_as_tensors(serve: Any, shape: list[int], parameters: dict[str, str]) -> None:
    (output,) = serve(colors()).v2(
        {"name": "color", "shape": shape, "datatype": "BYTES", "data": ["blue", "red"]},
        {"name": "size", "shape": shape, "datatype": "INT64", "data": [4, 1]},
        parameters=parameters,
    )
    assert output["data"] == EXPECTED


def test_columns_in_another_order_mean_the_same(serve: Any) -> None:
    frame = pandas.DataFrame(X[:, :2], columns=["a", "b"])
    estimator = LinearRegression().fit(frame, Y)
    expected = estimator.predict(pandas.DataFrame({"a": [6.0], "b": [3.0]})).tolist()
    assert serve(estimator).v1([{"b": 3.0, "a": 6.0}]) == expected
    assert serve(estimator).v1([[6.0, 3.0]]) == expected


def test_extra_keys_of_v1_are_ignored(serve: Any) -> None:
    body = json.dumps({"instances": ROWS, "signature_name": "x"}).encode()
    (answer,) = serve(iris()).bench.run(call(kinds.V1_PREDICT, body, *named("m")))
    assert answer == b'{"predictions":[1,1]}'


# --- refusals


@pytest.mark.parametrize(
    "instances",
    [[[1.0, 2.0]], [1.0, 2.0, 3.0, 4.0], [], [["a", "b", "c", "d"]], [[[1.0] * 4]], ["text"]],
    ids=["features", "rank", "empty", "texts", "depth", "text"],
)
def test_what_scikit_learn_refuses_is_the_callers_error(serve: Any, instances: Any) -> None:
    failure = serve(iris()).v1(instances)
    assert isinstance(failure, Failure)
    assert failure.code is Code.INVALID_ARGUMENT
    with pytest.raises(ValueError) as own:  # noqa: PT011  # whatever scikit-learn says
        iris().predict(instances)
    assert failure.message[:30] == " ".join(str(own.value)[:30].split("\n"))


def test_nan_and_unknown_categories_are_the_callers_error(serve: Any) -> None:
    (failure,) = serve(iris()).bench.run(infer("m", [[float("nan")] * 4]))
    assert failure.code is Code.INVALID_ARGUMENT
    for record in ({"color": "green", "size": 1}, {"size": 1}):
        assert serve(colors()).v1([record]).code is Code.INVALID_ARGUMENT


def test_a_model_that_breaks_in_its_arithmetic_is_the_models_fault(serve: Any) -> None:
    broken = LinearRegression().fit(X, Y)
    broken.coef_ = broken.coef_[:2]
    failure = serve(broken).v1(ROWS)
    assert (failure.code, failure.reason) == (Code.INTERNAL, Reason.MODEL_ERROR)


def test_a_model_that_was_never_fitted_is_the_models_fault(serve: Any) -> None:
    failure = serve(svm.SVC()).v1(ROWS)
    assert failure.reason is Reason.MODEL_ERROR
    assert failure.message.startswith("NotFittedError : ")


# --- metadata


def test_metadata_of_a_classifier(serve: Any) -> None:
    assert serve(iris()).metadata() == (
        [("input-0", "FP64", -1, 4)],
        [("output-0", "INT64", -1)],
    )


@pytest.mark.parametrize(
    ("estimator", "outputs", "options"),
    [
        (svm.SVC().fit(X, np.array(["a", "b", "c"])[Y]), ("output-0", "BYTES", -1), {}),
        (LinearRegression().fit(X, Y), ("output-0", "FP64", -1), {}),
        (LinearRegression().fit(X, X), ("output-0", "FP64", -1, 4), {}),
        (KMeans(2, n_init=1).fit(X), ("output-0", "INT32", -1), {}),
        (svm.OneClassSVM().fit(X), ("output-0", "INT64", -1), {}),
        (KNeighborsClassifier().fit(X, X[:, :2].astype(int)), ("output-0", "INT64", -1, 2), {}),
        (
            LogisticRegression(max_iter=500).fit(X, Y),
            ("output-0", "FP64", -1, 3),
            {"predict_proba": "true"},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_metadata_are_those_of_the_answer(
    serve: Any, estimator: Any, outputs: tuple[Any, ...], options: dict[str, str]
) -> None:
    served = serve(estimator, **options)
    assert served.metadata()[1] == [outputs]
    (answer,) = served.v2({"name": "x", "shape": [2, 4], "datatype": "FP64", "data": ROWS})
    assert answer["datatype"] == outputs[1]
    assert [answer["shape"][0], *outputs[3:]] == answer["shape"]


def test_metadata_of_named_columns(serve: Any) -> None:
    assert serve(colors()).metadata() == (
        [("size", "FP64", -1), ("color", "BYTES", -1)],
        [("output-0", "BYTES", -1)],
    )
    assert serve(texts()).metadata()[0] == [("input-0", "BYTES", -1)]


# --- files


def test_a_folder_with_one_file(tmp_path: Path) -> None:
    joblib.dump(iris(), tmp_path / "any.pkl")
    (tmp_path / "README").write_text("not a model")
    assert Served(tmp_path).v1(ROWS) == [1, 1]


def test_a_plain_pickle(tmp_path: Path) -> None:
    (tmp_path / "m.pickle").write_bytes(pickle.dumps(iris()))
    assert Served(tmp_path).v1(ROWS) == [1, 1]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "Missing Model File"),
        (["a.joblib", "b.pkl"], "More than one model file is detected"),
        (["sub/a.joblib"], "Missing Model File"),
    ],
)
def test_folders_that_hold_no_one_model(tmp_path: Path, names: list[str], text: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        joblib.dump(iris(), tmp_path / name)
    failure = Served(tmp_path).loaded.failure
    assert failure is not None
    assert failure.reason is Reason.LOAD_FAILED
    assert failure.message.startswith(text)


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({"no": "model"})])
def test_files_that_are_no_models(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.pkl").write_bytes(content)
    failure = Served(tmp_path).loaded.failure
    assert failure is not None
    assert (failure.code, failure.reason) == (Code.FAILED_PRECONDITION, Reason.LOAD_FAILED)


def test_another_scikit_learn_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "m.joblib"
    joblib.dump(iris(), path)
    current = sklearn.__version__.encode()
    old = b"0" + current[1:]
    assert path.read_bytes().count(current) == 1
    path.write_bytes(path.read_bytes().replace(current, old))
    loaded = Served(tmp_path).loaded
    text = f"trained with scikit-learn {old.decode()}, runs on {current.decode()}"
    assert ("mm-warning", text) in loaded.metadata


# --- joining


def test_only_models_that_look_at_one_row_at_a_time_are_joined() -> None:
    assert rows_independent(iris())
    assert rows_independent(colors())
    assert rows_independent(RandomForestClassifier())
    assert not rows_independent(DummyClassifier(strategy="stratified"))
    centred = FunctionTransformer(lambda rows: rows - rows.mean(axis=0))
    assert not rows_independent(make_pipeline(centred, svm.SVC()))
    assert not rows_independent(make_pipeline(StandardScaler(), make_pipeline(centred)))
