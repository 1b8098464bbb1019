"""A call that names several models: each is asked, and their answers are one."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.api.addressing import MOST_MODELS
from modelmesh.api.fan_out import FanOut
from modelmesh.errors import Code, Failure, Fault, not_found
from modelmesh.pb import inference_pb2 as pb
from modelmesh.wire.awaiting import FutureReply
from modelmesh.wire.kinds import MODEL_INFER
from modelmesh.wire.transport import Body, Call, Metadata
from tests.api.fakes import LOAD_FAILED, Rooms, call, grpc_port, refused, rooms

NONE_FOUND = (Code.NOT_FOUND, "none of the requested models were found")
PASSED_ON = "/some.Service/Method"


def naming(*model_ids: str, required: str = "") -> Metadata:
    """The headers of a call of these models."""
    wishes: Metadata = (("mm-required", required),) if required else ()
    return (*(("mm-model-id", model_id) for model_id in model_ids), *wishes)


def speaking(*model_ids: str) -> Rooms:
    """Each answers with its own name as an output's."""
    daemon = rooms(*model_ids)
    for name in model_ids:
        response = pb.ModelInferResponse(model_name=name)
        response.outputs.add(name=name)
        daemon.answers[name] = response.SerializeToString()
    return daemon


@pytest.mark.parametrize("kind", [MODEL_INFER, PASSED_ON])
async def test_answers_are_merged_in_the_order_of_the_headers(kind: str) -> None:
    daemon = speaking("a", "b", "c")
    body, metadata = b"\xff any bytes", (*naming("c", "a", "b"), ("x-id", "7"))
    said = await call(grpc_port(daemon).handler, kind, body, metadata)
    assert isinstance(said, bytes)
    merged = pb.ModelInferResponse.FromString(said)
    assert [output.name for output in merged.outputs] == ["c", "a", "b"]
    assert merged.model_name == "b"
    assert [(name, passed.body) for name, passed in daemon.inferred] == [
        (name, body) for name in ("c", "a", "b")
    ]
    assert {passed.metadata for _, passed in daemon.inferred} == {(("x-id", "7"),)}


async def test_a_model_named_twice_is_asked_twice_and_ids_may_be_bytes() -> None:
    daemon = speaking("é")
    twice: Metadata = (("mm-model-id-bin", "é".encode()),) * 2
    said = await call(grpc_port(daemon).handler, MODEL_INFER, b"", twice)
    assert said == daemon.answers["é"] * 2


async def test_what_does_not_exist_is_left_out_unless_all_are_required() -> None:
    daemon = speaking("a", "b")
    handler = grpc_port(daemon).handler
    some = naming("a", "nobody", "b")
    both = daemon.answers["a"] + daemon.answers["b"]
    assert await call(handler, MODEL_INFER, b"", some) == both
    assert await call(handler, MODEL_INFER, b"", (*some, ("mm-required", "any"))) == both
    none = naming("nobody", "nothing")
    assert await refused(handler, MODEL_INFER, b"", none) == NONE_FOUND
    required = naming("a", "nobody", required="all")
    assert await refused(handler, MODEL_INFER, b"", required) == (Code.NOT_FOUND, "model not found")
    everything = naming("a", "b", required="ALL")
    assert await call(handler, MODEL_INFER, b"", everything) == both


async def test_any_other_failure_is_that_of_the_call() -> None:
    daemon = speaking("a", "bad")
    daemon.failing = {"bad"}
    handler = grpc_port(daemon).handler
    assert await call(handler, MODEL_INFER, b"", naming("a", "bad")) == LOAD_FAILED


async def test_what_a_model_itself_does_not_find_is_a_failure() -> None:
    lost = Failure(Code.NOT_FOUND, "no such row", Fault.MODEL, executed=True)

    def ask(model_id: str, asked: Call) -> None:
        asked.reply.finish(lost if model_id == "a" else not_found().failure)

    reply = FutureReply()
    FanOut(ask, ("b", "a"), Call(PASSED_ON, b"", reply), 4, all_required=False).start()
    failure = await failure_of(reply)
    assert failure is lost


async def failure_of(reply: FutureReply) -> Failure:
    await asyncio.wait([reply.future], timeout=30)
    error = reply.future.exception()
    failure: Failure = error.failure  # type: ignore[union-attr]
    return failure


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (naming("a", "b", required="some"), "mm-required must be any or all"),
        (
            naming(*["a"] * (MOST_MODELS + 1)),
            "mm-model-id names 65 models, more than 64 in one call",
        ),
        (naming("a", ""), "provided model-id header must be non-empty"),
    ],
)
async def test_what_cannot_be_asked(metadata: Metadata, message: str) -> None:
    daemon = speaking("a")
    said = await refused(grpc_port(daemon).handler, MODEL_INFER, b"", metadata)
    assert said == (Code.INVALID_ARGUMENT, message)
    assert not daemon.inferred


async def test_one_call_may_ask_so_many_and_no_answer_makes_it_a_deep_recursion() -> None:
    daemon = speaking("a")
    said = await call(grpc_port(daemon).handler, MODEL_INFER, b"", naming(*["a"] * MOST_MODELS))
    assert said == daemon.answers["a"] * MOST_MODELS


async def test_methods_about_one_model_take_one() -> None:
    said = await refused(
        grpc_port(rooms("a", "b")).handler,
        "/inference.GRPCInferenceService/ModelReady",
        b"",
        naming("a", "b"),
    )
    assert said == (Code.INVALID_ARGUMENT, "this method takes one model")


async def test_so_many_at_a_time_and_the_next_when_one_has_answered() -> None:
    daemon = rooms("a", "b", "c", "d")
    daemon.hold = set("abcd")
    port = grpc_port(daemon, multi_parallelism=2)
    reply = FutureReply()
    port.handler([Call(MODEL_INFER, b"", reply, naming("a", "b", "c", "d"))])
    assert list(daemon.held) == ["a", "b"]
    daemon.held["b"].reply.answer(b"B")
    assert list(daemon.held) == ["a", "b", "c"]
    daemon.held["c"].reply.answer(b"C")
    daemon.held["d"].reply.answer(b"D")
    assert not reply.future.done()
    daemon.held["a"].reply.answer(b"A")
    assert await reply.future == [b"ABCD"]


async def test_the_first_failure_and_a_caller_that_leaves_end_what_is_under_way() -> None:
    for leaves in (False, True):
        daemon = rooms("a", "b", "c")
        daemon.hold = set("abc")
        port = grpc_port(daemon, multi_parallelism=2)
        reply = FutureReply()
        port.handler([Call(MODEL_INFER, b"", reply, naming("a", "b", "c"))])
        told: list[str] = []
        daemon.held["b"].reply.when_gone(lambda told=told: told.append("b"))  # type: ignore[misc]
        if leaves:
            reply.leave()
        else:
            daemon.held["a"].reply.finish(LOAD_FAILED)
            assert await failure_of(reply) is LOAD_FAILED
        assert told == ["b"]
        assert daemon.held["b"].reply.gone
        daemon.held["b"].reply.answer(b"late")
        assert "c" not in daemon.held, "nobody waits for it"


EVENTS = st.lists(
    st.sampled_from(["answer", "unknown", "fail", "stream"]), min_size=2, max_size=MOST_MODELS
)


@given(EVENTS, st.integers(0, 8), st.booleans(), st.randoms())
def test_any_answers_in_any_order_end_the_call_once(
    fates: list[str], parallelism: int, all_required: bool, rng: object
) -> None:
    asyncio.run(_ended_once(fates, parallelism, all_required, rng))


async def _ended_once(fates: list[str], parallelism: int, all_required: bool, rng: object) -> None:
    open_calls: dict[int, Call] = {}
    reply = FutureReply()

    def ask(model_id: str, asked: Call) -> None:
        open_calls[int(model_id)] = asked
        assert len(open_calls) <= max(parallelism, 1)

    names = tuple(str(n) for n in range(len(fates)))
    call = Call(PASSED_ON, b"", reply)
    FanOut(ask, names, call, parallelism, all_required=all_required).start()
    bad = {"fail", "unknown"} if all_required else {"fail"}
    failed = False
    while open_calls and not failed:
        n = rng.choice(sorted(open_calls))  # type: ignore[attr-defined]
        asked = open_calls.pop(n)
        failed = fates[n] in bad
        _end(asked, fates[n], n)
    assert reply.future.done()
    answered = [_told(n) for n, fate in enumerate(fates) if fate in ("answer", "stream")]
    if failed or not answered:
        assert reply.future.exception() is not None
    else:
        assert reply.future.result() == [b"".join(answered)]


def _told(n: int) -> bytes:
    return b"<%d>" % n


def _end(asked: Call, fate: str, n: int) -> None:
    if fate == "answer":
        asked.reply.answer(_told(n))
        second: Body = b"twice"
        asked.reply.answer(second)
    elif fate == "stream":
        asked.reply.send(_told(n))
        asked.reply.finish()
    else:
        asked.reply.finish(not_found().failure if fate == "unknown" else LOAD_FAILED)
