"""What a load can come to, what it leaves behind, and how a model is let go."""

from typing import Any

import pytest

from modelmesh.errors import Code, Failure, Reason
from runtime_adapters.base import Later
from tests.adapters.scripted import Scripted, ScriptedRuntime, bench_of, noting, raises, total
from tests.adapters.support import Bench, infer, unload


def failed_load(error: BaseException, *others: str) -> tuple[Failure, Bench]:
    def loading() -> Any:
        raise error

    loads = {name: (lambda: Scripted(total)) for name in others}
    bench = Bench(ScriptedRuntime({"m": loading, **loads}))
    for name in others:
        bench.load(name, "scripted")
    failure = bench.load("m", "scripted").failure
    assert failure is not None
    return failure, bench


@pytest.mark.parametrize("error", [OSError("bad file"), SystemExit(0), KeyboardInterrupt()])
def test_a_load_that_raises_is_a_failed_load_with_its_cause(error: BaseException) -> None:
    failure, bench = failed_load(error)
    assert failure.message == f"{type(error).__name__} : {error}"
    assert (failure.code, failure.reason) == (Code.FAILED_PRECONDITION, Reason.LOAD_FAILED)
    assert bench.run(infer("m", [[1, 2]]))[0].code is Code.NOT_FOUND


def test_too_little_memory_is_the_models_size_only_where_it_is_alone() -> None:
    alone, _ = failed_load(MemoryError())
    assert (alone.code, alone.reason) == (Code.FAILED_PRECONDITION, Reason.TOO_LARGE)
    shared, _ = failed_load(MemoryError(), "other")
    assert (shared.code, shared.reason) == (Code.UNAVAILABLE, Reason.NO_SPACE)
    assert shared.retry_after_s


def test_what_is_no_model_is_a_failed_load() -> None:
    bench = Bench(ScriptedRuntime({"m": lambda: "a string"}))
    failure = bench.load("m", "scripted").failure
    assert failure is not None
    assert failure.reason is Reason.LOAD_FAILED


@pytest.mark.parametrize(
    "label", ["scripted", "script", "rt:scripted", "mt:script", "mt:script:1", "mt:script|pv:v2"]
)
def test_a_type_is_a_runtime_or_one_of_its_labels(label: str) -> None:
    bench = Bench(ScriptedRuntime({"m": lambda: Scripted(total)}))
    assert bench.load("m", label).failure is None


@pytest.mark.parametrize("label", ["other", "rt:script", "mt:other:1", ""])
def test_an_unknown_type_is_refused_naming_those_that_work(label: str) -> None:
    failure = Bench(ScriptedRuntime({})).load("m", label).failure
    assert failure is not None
    assert failure.code is Code.INVALID_ARGUMENT
    assert "script, scripted" in failure.message


def test_loading_again_what_is_loaded_answers_without_loading() -> None:
    runtime = ScriptedRuntime({"m": lambda: Scripted(total)})
    bench = Bench(runtime)
    for _ in range(2):
        assert bench.load("m", "scripted").failure is None
    assert runtime.loaded == ["m"]


def test_unloading_is_idempotent_and_closes_the_model() -> None:
    bench, model = bench_of(total)
    closed: list[int] = []
    model.close = lambda: closed.append(1)  # type: ignore[method-assign]
    assert bench.run(unload("m"), unload("m")) == [b"", b""]
    assert closed == [1]
    assert bench.run(infer("m", [[1, 2]]))[0].code is Code.NOT_FOUND


def test_a_model_that_fails_to_close_goes_all_the_same() -> None:
    bench, model = bench_of(total)
    model.close = raises(SystemExit(1))  # type: ignore[method-assign,assignment]
    assert bench.run(unload("m")) == [b""]
    assert bench.run(infer("m", [[1, 2]]))[0].code is Code.NOT_FOUND


@pytest.mark.parametrize("fails", [False, True])
def test_a_load_that_leaves_threads_or_children_says_so(fails: bool) -> None:
    def load_with_thread() -> Any:
        bench.world.alongside["thread"] += 1
        if fails:
            raise ValueError("but the thread is there")
        return Scripted(total)

    bench = Bench(ScriptedRuntime({"m": load_with_thread, "n": lambda: Scripted(total)}))
    bench.world.alongside = {"thread": 1, "child": 0}
    answer = bench.load("m", "scripted")
    assert (answer.failure is not None) is fails
    assert ("mm-tainted", "thread") in answer.metadata
    assert "mm-tainted" not in dict(bench.load("n", "scripted").metadata)


def test_a_load_that_waits_is_given_up_by_an_unload() -> None:
    made: list[str] = []
    runtime = ScriptedRuntime({"m": lambda: Later(1.0, noting(made, "made", Scripted(total)))})
    bench = Bench(runtime)
    bench.load("m", "scripted")
    bench.run(unload("m"))
    bench.pass_time(1.0)
    assert made == []
    waiting = bench.load("m", "scripted")
    bench.pass_time(1.0)
    assert (waiting.failure, made) == (None, ["made"])
    assert ("mm-load-ms", "1000.000") in waiting.metadata
