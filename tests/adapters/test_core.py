"""What runs in which order, what is joined, what is dropped, and whose fault a failure is."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from modelmesh.errors import Code, Fault, Reason, http_status
from modelmesh.pb import inference_pb2, model_runtime_pb2
from modelmesh.wire import kinds
from modelmesh.wire.transport import Call
from runtime_adapters.base import BadInput, Later
from tests.adapters.scripted import (
    Predict,
    Scripted,
    ScriptedRuntime,
    bench_of,
    noting,
    raises,
    summing,
    total,
)
from tests.adapters.support import (
    Bench,
    call,
    infer,
    inferred,
    load,
    load_body,
    named,
    reply,
    unload,
    v1,
)

# --- joining


def test_requests_that_wait_together_are_one_predict_and_one_entry() -> None:
    bench, model = bench_of(total)
    calls = [infer("m", [[i, 1.0]] * (i + 1)) for i in range(4)]
    answers = bench.run(*calls)
    assert [inferred(answer) for answer in answers] == [
        {"output-0": [i + 1.0] * (i + 1)} for i in range(4)
    ]
    assert model.asked == [10]
    assert bench.world.entries[-1] == calls


def test_each_call_is_read_once_and_written_once_however_it_ran() -> None:
    def refuse_thirteen(rows: np.ndarray) -> np.ndarray:
        if 13.0 in rows:
            raise ValueError("thirteen")
        return total(rows)

    bench, model = bench_of(refuse_thirteen)
    first, bad, last = calls = [infer("m", [[number, 2]]) for number in (1, 13, 3)]
    unread = call(kinds.MODEL_INFER, b"\xff", *named("m"))
    unheld, unload_it = infer("nobody", [[1, 2]]), unload("m")
    bench.run(first, unread, bad, last, unheld)
    assert model.asked == [3, 1, 1, 1], "joined, then one by one"
    assert bench.world.read == calls
    assert bench.world.written == [first, last]
    bench.run(unload_it)
    assert len(bench.world.read) == 3


def test_requests_of_other_protocols_and_types_are_not_joined() -> None:
    bench, model = bench_of(total)
    answers = bench.run(
        infer("m", [[1, 2]]),
        infer("m", [[1, 2]], "INT64"),
        v1("m", [[1, 2.5]]),
        infer("m", [[2, 2]]),
    )
    assert answers[2] == b'{"predictions":[3.5]}'
    assert inferred(answers[3]) == {"output-0": [4.0]}
    assert model.asked == [2, 1, 1]


def test_a_model_that_does_not_declare_it_is_never_joined() -> None:
    bench, model = bench_of(total)
    model.rows_independent = False
    bench.run(unload("m"))
    bench.load("m", "scripted")
    bench.run(infer("m", [[1, 2]]), infer("m", [[1, 2]]))
    assert model.asked == [1, 1]


def test_one_bad_request_does_not_fail_those_it_was_joined_with() -> None:
    def refuse_thirteen(rows: np.ndarray) -> np.ndarray:
        if 13.0 in rows:
            raise ValueError("thirteen")
        return total(rows)

    bench, model = bench_of(refuse_thirteen)
    good, bad, last = bench.run(infer("m", [[1, 2]]), infer("m", [[13, 2]]), infer("m", [[3, 4]]))
    assert (inferred(good), inferred(last)) == ({"output-0": [3.0]}, {"output-0": [7.0]})
    assert bad.message == "ValueError : thirteen"
    assert model.asked == [3, 1, 1, 1]
    assert [len(entry) for entry in bench.world.entries] == [3, 3, 1, 1, 1]


def test_a_model_that_lied_about_its_rows_is_believed_once() -> None:
    bench, model = bench_of(lambda rows: np.array([len(rows)]))
    for _ in range(2):
        answers = bench.run(infer("m", [[1, 2]]), infer("m", [[1, 2]] * 3))
        assert [inferred(answer)["output-0"] for answer in answers] == [[1], [3]]
    assert model.asked == [4, 1, 3, 1, 3]


# --- order


def test_requests_go_before_loads() -> None:
    order: list[str] = []
    model = summing(order)
    bench = Bench(ScriptedRuntime({"m": lambda: model, "n": noting(order, "load", model)}))
    bench.load("m", "scripted")
    bench.run(load("n", "scripted"), infer("m", [[1, 2]]))
    assert order == ["predict", "load"]


def test_a_load_that_has_waited_long_is_overtaken_by_one_entry_at_most() -> None:
    order: list[str] = []
    model = summing(order)
    loads = {"a": lambda: model, "b": lambda: model, "n": noting(order, "load", model)}
    bench = Bench(ScriptedRuntime(loads))
    for name in "ab":
        bench.load(name, "scripted")
    bench.core.take([load("n", "scripted")])
    bench.world.time += 1.0
    bench.run(infer("a", [[1, 2]]), infer("b", [[1, 2]]))
    assert order == ["predict", "load", "predict"]


def test_what_has_expired_is_never_started() -> None:
    bench, model = bench_of(total)
    late = infer("m", [[1, 2]], deadline=bench.world.time - 1)
    failure, answer = bench.run(late, infer("m", [[1, 2]], deadline=bench.world.time + 1))
    assert (failure.code, failure.executed) == (Code.DEADLINE_EXCEEDED, False)
    assert inferred(answer) == {"output-0": [3.0]}
    assert model.asked == [1]
    assert late not in bench.world.entries[0]


def test_what_was_cancelled_is_never_started() -> None:
    bench, model = bench_of(total)
    left = infer("m", [[1, 2]])
    reply(left).leave()
    left_load = load("m2", "scripted")
    reply(left_load).leave()
    bench.run(left, left_load)
    assert model.asked == []
    assert bench.world.entries == []


def test_a_load_that_is_too_late_never_starts() -> None:
    runtime = ScriptedRuntime({"m": lambda: Scripted(total)})
    bench = Bench(runtime)
    late = call(kinds.LOAD_MODEL, load_body("m", "scripted"), deadline=bench.world.time)
    (failure,) = bench.run(late)
    assert failure.code is Code.DEADLINE_EXCEEDED
    assert runtime.loaded == []


# --- whose fault


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (raises(RuntimeError("broken\nin two")), "RuntimeError : broken in two"),
        (raises(SystemExit(3)), "SystemExit : 3"),
        (raises(KeyboardInterrupt()), "KeyboardInterrupt : "),
        (raises(MemoryError()), "MemoryError : "),
        (lambda rows: None, "TypeError : the model answered None"),
        (lambda rows: np.array([1j]), "BadOutput : output 'output-0' is of type complex128"),
        (lambda rows: [[1], [2, 3]], "ValueError : "),
        (lambda rows: {"y": [object()]}, "BadOutput : output 'y' is of type object"),
        (lambda rows: np.zeros(1 << 20), "the answer of "),
    ],
)
def test_a_model_that_breaks_is_told_apart_from_a_bad_caller(
    predict: Predict, message: str
) -> None:
    bench, _ = bench_of(predict)
    (failure,) = bench.run(infer("m", [[1, 2]]))
    assert failure.message.startswith(message)
    assert (failure.code, failure.fault, failure.reason, failure.executed) == (
        Code.INTERNAL,
        Fault.MODEL,
        Reason.MODEL_ERROR,
        True,
    )
    assert http_status(failure) == 500


def test_bad_input_is_the_callers_fault() -> None:
    bench, _ = bench_of(raises(BadInput("x must be positive")))
    (failure,) = bench.run(infer("m", [[1, 2]]))
    assert (failure.code, failure.message) == (Code.INVALID_ARGUMENT, "x must be positive")


@pytest.mark.parametrize(
    "bad",
    [
        call(kinds.MODEL_INFER, b"\xff\xff", *named("m")),
        call(kinds.V2_INFER, b"{", *named("m")),
        call(kinds.V1_PREDICT, b'{"instances": 1}', *named("m")),
        call(kinds.V1_PREDICT, b'{"instances": [[1, 2], [3]]}', *named("m")),
        call(kinds.V1_PREDICT, b"[]", *named("m")),
        infer("m", [[1, 2]], outputs=["other"]),
    ],
    ids=["proto", "v2", "v1", "ragged", "list", "output"],
)
def test_malformed_requests_are_the_callers_fault_and_harm_nobody(bad: Call) -> None:
    bench, _ = bench_of(total)
    good = infer("m", [[1, 2]])
    failure, answer = bench.run(bad, good)
    assert failure.code is Code.INVALID_ARGUMENT
    assert inferred(answer) == {"output-0": [3.0]}


def test_an_exception_that_cannot_be_printed_is_told_all_the_same() -> None:
    class Nasty(Exception):
        def __str__(self) -> str:
            raise SystemExit(1)

    bench, _ = bench_of(raises(Nasty()))
    (failure,) = bench.run(infer("m", [[1, 2]]))
    assert failure.message == "Nasty : an exception that cannot be printed"


def test_an_exceptions_text_is_bounded_and_printable() -> None:
    bench, _ = bench_of(raises(ValueError("\x1b[31m\r\n" + "x" * 1_000_000)))
    (failure,) = bench.run(infer("m", [[1, 2]]))
    assert len(failure.message) == 1000
    assert failure.message.isprintable()


def test_an_unknown_model_was_provably_not_run() -> None:
    bench, _ = bench_of(total)
    (failure,) = bench.run(infer("other", [[1, 2]]))
    assert (failure.code, failure.executed) == (Code.NOT_FOUND, False)


# --- answers


def test_outputs_are_selected_and_ordered_as_requested() -> None:
    bench, _ = bench_of(lambda rows: {"a": rows[:, 0], "b": rows[:, 1], "c": rows[:, 0]})
    (answer,) = bench.run(infer("m", [[1, 2]], outputs=["b", "a"]))
    assert list(inferred(answer).items()) == [("b", [2.0]), ("a", [1.0])]


def test_several_outputs_are_records_in_v1() -> None:
    bench, _ = bench_of(lambda rows: {"a": rows[:, 0], "t": np.array(["x"] * len(rows))})
    answers = bench.run(v1("m", [[1.5, 2]]))
    assert answers == [b'{"predictions":[{"a":1.5,"t":"x"}]}']


def test_nan_is_null_in_json_and_itself_in_protobuf() -> None:
    bench, _ = bench_of(lambda rows: np.full(len(rows), np.nan))
    text, binary = bench.run(v1("m", [[1.5, 2]]), infer("m", [[1, 2]]))
    assert text == b'{"predictions":[null]}'
    assert math.isnan(inferred(binary)["output-0"][0])


def test_binary_outputs_tell_the_length_of_their_header() -> None:
    bench, _ = bench_of(total)
    request = call(
        kinds.V2_INFER,
        b'{"id":"1","parameters":{"binary_data_output":true},"inputs":[{"name":"x","shape":[1,2],'
        b'"datatype":"FP64","data":[1,2]}]}',
        *named("m"),
    )
    (answer,) = bench.run(request)
    (key, length), body = reply(request).metadata
    assert key == kinds.BINARY_HEADER
    assert body == ("content-type", "application/octet-stream")
    assert np.frombuffer(answer[int(length) :]).tolist() == [3.0]


def test_an_answer_over_json_has_an_id_even_if_the_request_had_none() -> None:
    bench, _ = bench_of(total)
    body = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP64","data":[1,2]}]}'
    first, second = bench.run(*(call(kinds.V2_INFER, body, *named("m")) for _ in range(2)))
    assert len(first) == len(second)
    assert first != second


def test_explain_is_unimplemented_unless_the_model_explains() -> None:
    bench, model = bench_of(total)
    body = b'{"instances":[[1,2]]}'
    (failure,) = bench.run(call(kinds.V1_EXPLAIN, body, *named("m")))
    assert http_status(failure) == 501
    model.explain = lambda inputs: {"weights": inputs.first[0]}  # type: ignore[method-assign]
    assert bench.run(call(kinds.V1_EXPLAIN, body, *named("m"))) == [b'{"weights":[1,2]}']


def test_an_explanation_that_is_no_json_is_the_models_fault() -> None:
    bench, model = bench_of(total)
    model.explain = lambda inputs: {"weights": object()}  # type: ignore[method-assign]
    (failure,) = bench.run(call(kinds.V1_EXPLAIN, b'{"instances":[[1,2]]}', *named("m")))
    assert failure.reason is Reason.MODEL_ERROR


def test_metadata_are_the_models_own() -> None:
    bench, _ = bench_of(total)
    request = inference_pb2.ModelMetadataRequest(name="m").SerializeToString()
    (answer,) = bench.run(call(kinds.MODEL_METADATA, request))
    metadata = inference_pb2.ModelMetadataResponse.FromString(answer)
    assert (metadata.name, metadata.platform) == ("m", "test_scripted")
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
        ("x", "FP64", [-1, 2])
    ]
    assert metadata.outputs[0].name == "output-0"


# --- waits


def test_a_predict_that_waits_lets_others_run_and_is_run_when_due() -> None:
    bench, model = bench_of(lambda rows: Later(1.0, lambda: total(rows)))
    slow = [infer("m", [[1, 2]]), infer("m", [[3, 4]])]
    assert bench.run(*slow) == [None, None]
    bench.pass_time(0.5)
    assert reply(slow[0]).body is None
    bench.pass_time(0.5)
    assert [inferred(reply(each).body) for each in slow] == [
        {"output-0": [3.0]},
        {"output-0": [7.0]},
    ]
    assert bench.world.entries[-1] == slow
    assert model.asked == [2]


def test_a_predict_that_everybody_left_is_not_finished() -> None:
    finished: list[str] = []
    bench, _ = bench_of(lambda rows: Later(1.0, noting(finished, "finished", rows)))
    slow = infer("m", [[1, 2]])
    bench.run(slow)
    reply(slow).leave()
    bench.pass_time(1.0)
    assert finished == []


# --- facts


def test_sizes_and_status_are_told_without_an_entry() -> None:
    model = Scripted(total)
    model.size_bytes = 99
    bench = Bench(ScriptedRuntime({"m": lambda: model}))
    bench.load("m", "scripted")
    bench.world.entries.clear()
    sizes = [
        call(kinds.MODEL_SIZE, model_runtime_pb2.ModelSizeRequest(modelId=name).SerializeToString())
        for name in ("m", "", "other")
    ]
    loaded, process, unknown = bench.run(*sizes)
    assert model_runtime_pb2.ModelSizeResponse.FromString(loaded).sizeInBytes == 99
    assert model_runtime_pb2.ModelSizeResponse.FromString(process).sizeInBytes == 4711
    assert unknown.code is Code.NOT_FOUND
    (status,) = bench.run(call(kinds.RUNTIME_STATUS, b""))
    ready = model_runtime_pb2.RuntimeStatusResponse
    assert ready.FromString(status).status == ready.READY
    assert bench.world.entries == []


@pytest.mark.parametrize("kind", ["/other.Service/Method", "v1:other"])
def test_other_kinds_are_unimplemented(kind: str) -> None:
    (failure,) = Bench().run(call(kind, b""))
    assert failure.code is Code.UNIMPLEMENTED


@pytest.mark.parametrize("kind", [kinds.LOAD_MODEL, kinds.UNLOAD_MODEL, kinds.MODEL_SIZE])
def test_malformed_messages_of_the_runtime_are_refused(kind: str) -> None:
    (failure,) = Bench().run(call(kind, b"\xff"))
    assert failure.code is Code.INVALID_ARGUMENT


def test_more_calls_than_a_journal_page_holds_are_several_entries() -> None:
    bench, _ = bench_of(total)
    calls: Sequence[Call] = [infer("m", [[1, 2]]) for _ in range(600)]
    assert all(isinstance(answer, bytes) for answer in bench.run(*calls))
    assert max(len(entry) for entry in bench.world.entries) <= 509
