"""The dummy does what its key says, and nothing else."""

import pytest

from modelmesh.errors import Code, Reason
from modelmesh.pb import model_runtime_pb2
from modelmesh.wire import kinds
from runtime_adapters.dummy import DummyRuntime
from tests.adapters.support import Bench, RecordedReply, call, infer, inferred, load_body, reply, v1


@pytest.fixture
def bench() -> Bench:
    return Bench(DummyRuntime({}))


def size(answer: RecordedReply) -> int:
    assert answer.body is not None, answer.failure
    return int(model_runtime_pb2.LoadModelResponse.FromString(answer.body).sizeInBytes)


def test_the_answer_tells_model_and_sum(bench: Bench) -> None:
    bench.load("a", "dummy")
    bench.load("b", "dummy")
    first, second, rest = bench.run(
        infer("a", [[1, 2.5]]), infer("b", [[4]]), v1("a", [[1, 2], [3, 4]])
    )
    assert inferred(first) == {"model": [b"a"], "sum": [3.5]}
    assert inferred(second) == {"model": [b"b"], "sum": [4.0]}
    assert rest == b'{"predictions":[{"model":"a","sum":10.0}]}'


def test_sixteen_requests_in_one_go_are_one_predict(bench: Bench) -> None:
    bench.load("a", "dummy")
    answers = bench.run(*(infer("a", [[i]], counters=True) for i in range(16)))
    assert [inferred(answer) for answer in answers] == [
        {"model": [b"a"], "sum": [float(i)], "predicts": [1], "joined": [16]} for i in range(16)
    ]
    (again,) = bench.run(infer("a", [[1]], counters=True))
    assert (inferred(again)["predicts"], inferred(again)["joined"]) == ([2], [1])


def test_its_size_is_what_it_says_without_memory(bench: Bench) -> None:
    assert size(bench.load("a", "dummy", size_bytes=10**12)) == 10**12
    request = load_body("b", "dummy", size_bytes=77)
    (predicted,) = bench.run(call(kinds.PREDICT_MODEL_SIZE, request))
    assert model_runtime_pb2.PredictModelSizeResponse.FromString(predicted).sizeInBytes == 77


def test_waits_of_different_models_overlap(bench: Bench) -> None:
    answers = [bench.load(name, "dummy", load_s=1.0, predict_s=2.0) for name in "ab"]
    bench.pass_time(1.0)
    assert [answer.failure for answer in answers] == [None, None]
    calls = [infer(name, [[1]]) for name in "ab"]
    assert bench.run(*calls) == [None, None]
    bench.pass_time(2.0)
    assert [inferred(reply(each).body)["model"] for each in calls] == [[b"a"], [b"b"]]


def test_errors_come_after_the_wait(bench: Bench) -> None:
    failing = bench.load("a", "dummy", load_s=1.0, load_error="no such luck")
    assert failing.failure is None
    bench.pass_time(1.0)
    assert failing.failure is not None
    assert failing.failure.reason is Reason.LOAD_FAILED
    assert failing.failure.message == "RuntimeError : no such luck"


def test_predict_error_is_the_models_fault(bench: Bench) -> None:
    bench.load("a", "dummy", predict_error="out of order")
    (failure,) = bench.run(infer("a", [[1]]))
    assert (failure.code, failure.message) == (Code.INTERNAL, "RuntimeError : out of order")


@pytest.mark.parametrize(
    "key", [{"load_s": "1"}, {"size_bytes": -1}, {"hold": 1}, {"size_bytes": 1.5}]
)
def test_a_key_of_the_wrong_types_does_not_load(bench: Bench, key: dict) -> None:
    failure = bench.load("a", "dummy", **key).failure
    assert failure is not None
    assert next(iter(key)) in failure.message


def test_keys_of_others_are_ignored(bench: Bench) -> None:
    assert bench.load("a", "dummy", storage_key="s3", disk_size_bytes=7).failure is None
