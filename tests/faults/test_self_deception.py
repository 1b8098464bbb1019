"""Tests against fooling ourselves: what the parts promise is looked for at the end of the whole.

Requests that were written together are predicted together; a model weighs what it takes; memory
that was given back is given back; and answers are scikit-learn's own, whichever way they come.
"""

import json
import pickle
import signal
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np
import pandas
import pytest
from numpy.typing import NDArray
from sklearn import datasets, svm
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from modelmesh.pb import inference_pb2 as pb
from tests.app.client import until
from tests.app.daemon import Child, child
from tests.faults.scene import INFER, connected, post
from tests.faults.suspects import File

MIB: Final = 1 << 20


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    settings = {"MM_SHARED_HOSTS": "1", "MM_SET_ASIDE_MS": "20000", "SHUTDOWN_TIMEOUT_MS": "2000"}
    with child(tmp_path_factory.mktemp("registry"), **settings) as daemon:
        yield daemon


# --- together means together


def counted(number: float) -> bytes:
    """A V2 request that also asks how its model was run."""
    tensor = {"name": "x", "shape": [1], "datatype": "FP64", "data": [number]}
    return json.dumps({"inputs": [tensor], "parameters": {"counters": True}}).encode()


def outputs_of(document: Any) -> dict[str, Any]:
    return {output["name"]: output["data"][0] for output in document["outputs"]}


def assert_one_predict(answers: list[Any], model_id: str) -> None:
    outputs = [outputs_of(answer.document) for answer in answers]
    assert [output["sum"] for output in outputs] == [float(n) for n in range(16)]
    assert {(output["model"], output["joined"]) for output in outputs} == {(model_id, 16)}
    assert len({output["predicts"] for output in outputs}) == 1


def test_sixteen_requests_on_one_connection_are_one_predict(daemon: Child) -> None:
    daemon.dummies("pipelined")
    daemon.load("pipelined")
    sixteen = [b"".join(post("/v2/models/pipelined/infer", counted(n))) for n in range(16)]
    with connected(daemon.ports["rest"]) as connection:
        connection.sock.sendall(b"".join(sixteen))
        assert_one_predict([connection.answer() for _ in range(16)], "pipelined")


def test_sixteen_requests_on_sixteen_connections_are_one_predict(daemon: Child) -> None:
    """They arrive in one turn because the daemon is stopped until all of them are there."""
    daemon.dummies("concurrent")
    daemon.load("concurrent")
    with ExitStack() as stack:
        port = daemon.ports["rest"]
        connections = [stack.enter_context(connected(port)) for _ in range(16)]
        for connection in connections:  # each has been accepted
            assert connection.ask(*post("/v1/models/concurrent:predict", b"{}")).status == 400
        with frozen(daemon):
            for number, connection in enumerate(connections):
                request = post("/v2/models/concurrent/infer", counted(number))
                connection.sock.sendall(b"".join(request))
        assert_one_predict([connection.answer() for connection in connections], "concurrent")


@contextmanager
def frozen(daemon: Child) -> Iterator[None]:
    """The daemon's process is stopped meanwhile."""
    daemon.process.signal(signal.SIGSTOP)
    try:
        until(lambda: Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2][1] == "T")
        yield
    finally:
        daemon.process.signal(signal.SIGCONT)


# --- a model weighs what it takes


class Ones:
    """Pickles as the order to build an array of so many bytes."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return np.ones, (self._size_bytes, np.uint8)


def test_a_kilobyte_that_grows_to_64_mib_is_weighed_by_what_it_grew_to(
    daemon: Child, tmp_path: Path
) -> None:
    estimator = LinearRegression()
    estimator.coef_ = Ones(64 * MIB)
    path = tmp_path / "grows.pkl"
    path.write_bytes(pickle.dumps(estimator))
    assert path.stat().st_size <= 1024
    daemon.register("grows", "sklearn", str(path))
    home = lives_in(daemon, tmp_path)
    before = private_bytes(home)
    assert daemon.load("grows") == "LOADED"
    assert private_bytes(home) - before > 60 * MIB, "it has grown, and in this host"
    assert daemon.models()["grows"].size_bytes == pytest.approx(64 * MIB, rel=0.1)
    assert daemon.explain("grows").reserved_bytes > 60 * MIB
    daemon.unload("grows")
    assert private_bytes(home) - before < 4 * MIB, "and it is given back"


@pytest.mark.timeout(400)  # thousands of turns of two processes, which a busy machine stretches
def test_a_thousand_loads_and_unloads_leave_nothing_behind(daemon: Child, tmp_path: Path) -> None:
    path = tmp_path / "iris.joblib"
    joblib.dump(svm.SVC(gamma="scale").fit(*datasets.load_iris(return_X_y=True)), path)
    daemon.register("round", "sklearn", str(path))
    home = lives_in(daemon, tmp_path)

    def go_round() -> None:
        assert daemon.load("round") == "LOADED"
        daemon.unload("round")

    go_round()
    first = private_bytes(home)
    for _ in range(1000):
        go_round()
    assert lives_in(daemon, tmp_path) == home, "it was this host all the time"
    assert private_bytes(home) == pytest.approx(first, rel=0.1)


def lives_in(daemon: Child, folder: Path) -> int:
    """The shared host's pid."""
    if "witness" not in daemon.models():
        daemon.register("witness", "sklearn", str(File.write(folder / "witness.pkl").path))
    return int(daemon.infer("witness")["output-0"])


def private_bytes(pid: int) -> int:
    """What only this process has."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return sum(int(line.split()[1]) << 10 for line in rollup if line.startswith("Private_"))


# --- scikit-learn's own answers

X, Y = datasets.load_iris(return_X_y=True)
NAMES = datasets.load_iris().target_names
FLOWERS = X[::7]
GOODS = pandas.DataFrame(
    {
        "size": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "color": ["red", "blue", "red", "green", "blue", "grün"],
    }
)


def of_goods(last: Any, target: Any) -> Any:
    """A pipeline that takes columns, texts among them."""
    encoder = OneHotEncoder(handle_unknown="ignore")
    columns = ColumnTransformer([("c", encoder, ["color"]), ("s", StandardScaler(), ["size"])])
    return make_pipeline(columns, last).fit(GOODS, target)


GOLDEN: Final[dict[str, tuple[Any, Any]]] = {
    "SVC": (svm.SVC(gamma="scale").fit(X, Y), FLOWERS),
    "texts for labels": (LogisticRegression(max_iter=1000).fit(X, NAMES[Y]), FLOWERS),
    "a pipeline": (make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y), FLOWERS),
    "a regressor": (LinearRegression().fit(X[:, :3], X[:, 3]), FLOWERS[:, :3]),
    "a forest": (RandomForestRegressor(10, random_state=1).fit(X, Y / 3), FLOWERS),
    "two outputs": (MultiOutputClassifier(KNeighborsClassifier()).fit(X, np.c_[Y, 2 - Y]), FLOWERS),
    "two numbers": (LinearRegression().fit(X[:, :2], X[:, 2:]), FLOWERS[:, :2]),
    "columns": (of_goods(LogisticRegression(), list("aabbab")), GOODS),
    "columns to numbers": (of_goods(LinearRegression(), [0.1, 0.2, 0.3, 0.4, 0.5, 0.7]), GOODS),
}


@pytest.fixture(params=GOLDEN)
def golden(
    request: pytest.FixtureRequest, daemon: Child, tmp_path: Path
) -> Iterator[tuple[str, Any, NDArray[Any]]]:
    """A registered model's name, a table, and what scikit-learn itself says of the same file."""
    estimator, table = GOLDEN[request.param]
    path = tmp_path / "model.joblib"
    joblib.dump(estimator, path)
    daemon.register(request.param, "sklearn", str(path))
    yield request.param, table, joblib.load(path).predict(table)
    daemon.unregister(request.param)


def test_golden_over_v1(golden: tuple[str, Any, NDArray[Any]], daemon: Child) -> None:
    name, table, expected = golden
    frame = isinstance(table, pandas.DataFrame)
    instances = table.to_dict("records") if frame else table.tolist()
    body = json.dumps({"instances": instances}).encode()
    answer = daemon.rest("POST", f"/v1/models/{name.replace(' ', '%20')}:predict", body)
    assert list(answer.document) == ["predictions"]
    assert_golden(answer.document["predictions"], expected.shape, expected)


def test_golden_over_v2(golden: tuple[str, Any, NDArray[Any]], daemon: Child) -> None:
    name, table, expected = golden
    inputs = [
        {"name": column, "shape": array.shape, "datatype": datatype(array), "data": array.tolist()}
        for column, array in columns(table).items()
    ]
    path = f"/v2/models/{name.replace(' ', '%20')}/infer"
    answer = daemon.rest("POST", path, json.dumps({"inputs": inputs}).encode())
    (output,) = answer.document["outputs"]
    assert output["datatype"] == datatype(expected)
    assert_golden(output["data"], output["shape"], expected)


def test_golden_over_binary_v2(golden: tuple[str, Any, NDArray[Any]], daemon: Child) -> None:
    name, table, expected = golden
    blocks = {column: raw(array) for column, array in columns(table).items()}
    inputs = [
        {
            "name": column,
            "shape": array.shape,
            "datatype": datatype(array),
            "parameters": {"binary_data_size": len(blocks[column])},
        }
        for column, array in columns(table).items()
    ]
    document = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    answer = daemon.rest(
        "POST",
        f"/v2/models/{name.replace(' ', '%20')}/infer",
        document + b"".join(blocks.values()),
        headers={"Inference-Header-Content-Length": str(len(document))},
    )
    length = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.body[:length])["outputs"]
    assert output["parameters"]["binary_data_size"] == len(answer.body) - length
    assert output["datatype"] == datatype(expected)
    assert_golden(values(output["datatype"], answer.body[length:]), output["shape"], expected)


@pytest.mark.parametrize("contents", ["typed", "raw"])
def test_golden_over_grpc(
    contents: str, golden: tuple[str, Any, NDArray[Any]], daemon: Child
) -> None:
    name, table, expected = golden
    request = pb.ModelInferRequest(model_name=name)
    for column, array in columns(table).items():
        tensor = request.inputs.add(name=column, datatype=datatype(array), shape=array.shape)
        if contents == "raw":
            request.raw_input_contents.append(raw(array))
        elif array.dtype == object:
            tensor.contents.bytes_contents.extend(text.encode() for text in array)
        else:
            tensor.contents.fp64_contents.extend(array.ravel())
    body = daemon.channel.unary_unary(INFER)(request.SerializeToString(), timeout=20)
    response = pb.ModelInferResponse.FromString(body)
    (output,) = response.outputs
    assert output.datatype == datatype(expected)
    if contents == "raw":
        found = values(output.datatype, response.raw_output_contents[0])
    else:
        ((_, answered),) = output.contents.ListFields()
        found = [each.decode() if isinstance(each, bytes) else each for each in answered]
    assert_golden(found, output.shape, expected)


def assert_golden(found: Any, shape: Any, expected: NDArray[Any]) -> None:
    """Labels are the same; numbers within 1e-9, since joining may sum in another order."""
    assert tuple(shape) == expected.shape
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(np.reshape(found, shape), expected, rtol=1e-9)
    else:
        assert np.reshape(found, shape).tolist() == expected.tolist()


def columns(table: Any) -> dict[str, NDArray[Any]]:
    """The inputs that make this table."""
    if isinstance(table, pandas.DataFrame):
        return {name: table[name].to_numpy() for name in table}
    return {"input-0": table}


def datatype(array: NDArray[Any]) -> str:
    return {"f": "FP64", "i": "INT64"}.get(array.dtype.kind, "BYTES")


def raw(array: NDArray[Any]) -> bytes:
    """As the protocol has it: little-endian, texts behind their lengths."""
    if datatype(array) != "BYTES":
        return array.tobytes()
    encoded = [text.encode() for text in array]
    return b"".join(struct.pack("<I", len(text)) + text for text in encoded)


def values(kind: str, block: bytes) -> list[Any]:
    """And back."""
    if kind != "BYTES":
        return list(np.frombuffer(block, {"FP64": "<f8", "INT64": "<i8"}[kind]).tolist())
    found = []
    while block:
        (size,) = struct.unpack_from("<I", block)
        found.append(block[4 : 4 + size].decode())
        block = block[4 + size :]
    return found
