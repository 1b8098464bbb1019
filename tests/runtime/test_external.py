"""An external runtime: start, headers, limits on concurrency, JSON for servers that speak gRPC."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from modelmesh.errors import Code, Failure, Fault, MeshError, Reason
from modelmesh.pb import inference_pb2
from modelmesh.pb import model_runtime_pb2 as pb
from modelmesh.runtime.external import ExternalConfig, ExternalRuntime, forwarded, understand
from modelmesh.wire import kinds
from modelmesh.wire.awaiting import FutureReply
from modelmesh.wire.transport import Body, Call, Metadata
from tests.runtime.external_server import ExternalServer, Hanging, answered_in_time
from tests.runtime.support import Listener, ask, begin, dummy
from tests.runtime.waiting import is_under_way, until

READY = pb.RuntimeStatusResponse.READY


@asynccontextmanager
async def _attached(
    server: ExternalServer, **changes: Any
) -> AsyncIterator[tuple[ExternalRuntime, Listener]]:
    runtime, listener = ExternalRuntime(ExternalConfig(server.port, **changes)), Listener()
    try:
        yield runtime, listener
        await runtime.close(5.0)
    finally:
        await asyncio.to_thread(server.stop)


async def _call(
    runtime: ExternalRuntime, kind: str, body: Body, metadata: Metadata = ()
) -> tuple[Body, Metadata]:
    reply = FutureReply()
    runtime.infer("m", Call(kind, body, reply, metadata))
    return (await reply.future)[0], reply.metadata


async def test_the_start_waits_until_the_server_is_ready_and_takes_its_word() -> None:
    status = pb.RuntimeStatusResponse(
        status=READY,
        capacityInBytes=1 << 30,
        maxLoadingConcurrency=3,
        modelLoadingTimeoutMs=1500,
        defaultModelSizeInBytes=5000,
        runtimeVersion="7.1",
    )
    async with _attached(ExternalServer(status, starting=2)) as (runtime, listener):
        started = await runtime.start(listener)
        assert started.capacity_bytes == 1 << 30
        assert started.max_loading_concurrency == 3
        assert started.load_timeout_s == 1.5
        assert started.version == "7.1"
        assert runtime.predict_size(dummy("m")) == 5000


async def test_a_server_that_is_failing_ends_the_start() -> None:
    failing = pb.RuntimeStatusResponse(status=pb.RuntimeStatusResponse.FAILING)
    async with _attached(ExternalServer(failing)) as (runtime, listener):
        with pytest.raises(MeshError, match="FAILING"):
            await runtime.start(listener)


async def test_a_server_that_never_answers_ends_the_start_in_time() -> None:
    for start_s in (0.6, 6.0, 20.0):  # longer, where the last answer was late
        server = ExternalServer(starting=1_000_000)
        async with _attached(server, start_s=start_s) as (runtime, listener):
            with pytest.raises(MeshError, match="did not become ready") as caught:
                await runtime.start(listener)
        if "STARTING" in caught.value.failure.message:
            return
    pytest.fail("it does not say what the server said")


async def test_the_size_is_the_servers_and_prediction_is_given_up_where_it_has_none() -> None:
    server = ExternalServer()
    async with _attached(server) as (runtime, listener):
        await runtime.start(listener)
        while await _asks_for_size(runtime, "m"):
            pass  # again, where the refusal came too late to be heard
        asked = server.predicted_sizes
        assert asked
        loaded = await runtime.load(dummy("m"))
        assert loaded.size_bytes == 777
        assert runtime.predict_size(dummy("m")) == 777
        assert not await _asks_for_size(runtime, "other", '{"a": 1}')
        assert server.predicted_sizes == asked


async def _asks_for_size(runtime: ExternalRuntime, *model: str) -> bool:
    """Whether a prediction has made it ask the server; until that has ended."""
    runtime.predict_size(dummy(*model))
    asks = is_under_way("predict size")
    await until(lambda: not is_under_way("predict size"))
    return asks


async def test_what_a_server_refuses_to_load_is_a_failed_load() -> None:
    async with _attached(ExternalServer()) as (runtime, listener):
        await runtime.start(listener)
        with pytest.raises(MeshError) as caught:
            await runtime.load(dummy("m", '{"load_error": "no"}'))
        failure = caught.value.failure
        assert (failure.code, failure.reason) == (Code.FAILED_PRECONDITION, Reason.LOAD_FAILED)


async def test_a_server_that_is_away_for_a_moment_is_not_held_against_the_model(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "grpc.sock")
    before, runtime = (
        ExternalServer(path=path),
        ExternalRuntime(ExternalConfig(runtime_socket=path)),
    )
    await runtime.start(Listener())
    await asyncio.to_thread(before.stop)
    failure = await _failed_load(runtime)
    if failure.executed:  # the connection broke under it
        failure = await _failed_load(runtime)
    assert (failure.code, failure.reason) == (Code.UNAVAILABLE, Reason.NONE)
    assert (failure.executed, failure.retry_after_s) == (False, 1.0)
    await runtime.close(5.0)


async def _failed_load(runtime: ExternalRuntime) -> Failure:
    with pytest.raises(MeshError) as caught:
        await runtime.load(dummy("m"))
    return caught.value.failure


async def test_a_server_that_hangs_ends_calls_without_a_deadline_by_the_operators() -> None:
    server = Hanging()
    async with _attached(server, predict_timeout_s=0.3) as (runtime, listener):
        await runtime.start(listener)
        await runtime.load(dummy("m", '{"concurrency": 1}'))
        with pytest.raises(MeshError) as caught:
            await asyncio.wait_for(ask(runtime, "m"), 30)
        failure = caught.value.failure
        assert (failure.code, failure.reason) == (Code.DEADLINE_EXCEEDED, Reason.PREDICT_TIMEOUT)
        assert (failure.fault, failure.executed) == (Fault.MODEL, True)
        with pytest.raises(MeshError) as caught:
            await begin(runtime, "m", deadline=monotonic() + 0.1).future
        failure = caught.value.failure
        assert (failure.code, failure.reason) == (Code.DEADLINE_EXCEEDED, Reason.NONE)
        server.gate.set()
        assert await answered_in_time(lambda: begin(runtime, "m")), "it has its turn back"
        assert "m" not in listener.lost


def test_headers_go_on_without_ours_and_with_the_models_id() -> None:
    sent = forwarded(
        (("x-b3", "1"), ("mm-balanced", "true"), ("tas-model-id", "t"), ("grpc-timeout", "1S"),
         ("content-type", "a"), ("user-agent", "b"), ("trace-bin", b"\0")),
        "model",
    )  # fmt: skip
    assert sent == (
        ("x-b3", "1"),
        ("trace-bin", b"\0"),
        ("mm-model-id-bin", b"model"),
        ("mm-model-id", "model"),
    )
    assert forwarded((), "modèle") == (("mm-model-id-bin", "modèle".encode()),)
    spaced = " m"  # a text header would lose the space
    assert forwarded((), spaced) == (("mm-model-id-bin", spaced.encode()),)


@pytest.mark.parametrize(
    ("code", "message", "understood"),
    [
        (Code.UNAVAILABLE, 'Request for unknown model: "m" is not found', Code.NOT_FOUND),
        (
            Code.UNAVAILABLE,
            'Request for unknown model: "m" has no available versions',
            Code.NOT_FOUND,
        ),
        (Code.INVALID_ARGUMENT, "Model m not found", Code.NOT_FOUND),
        (Code.INVALID_ARGUMENT, "Model m has no input x", Code.INVALID_ARGUMENT),
        (Code.UNAVAILABLE, "busy", Code.UNAVAILABLE),
    ],
)
def test_what_servers_say_for_not_found(code: Code, message: str, understood: Code) -> None:
    assert understand(Failure(code, message, Fault.MODEL)).code is understood


async def test_a_model_that_the_server_has_forgotten_is_lost() -> None:
    server = ExternalServer()
    async with _attached(server) as (runtime, listener):
        await runtime.start(listener)
        await runtime.load(dummy("m"))
        server.models.clear()
        with pytest.raises(MeshError) as caught:
            await ask(runtime, "m")
        assert (caught.value.failure.code, caught.value.failure.executed) == (
            Code.NOT_FOUND,
            False,
        )
        assert "m" in listener.lost
        assert runtime.describe("m") is None


async def test_no_more_calls_at_once_than_the_model_takes() -> None:
    server = Hanging()
    async with _attached(server, max_inflight_per_model=6) as (runtime, listener):
        await runtime.start(listener)
        await runtime.load(dummy("m", json.dumps({"concurrency": 2, "predict_s": 0.05})))
        replies = [begin(runtime, "m") for _ in range(8)]
        await until(lambda: server.running == 2)
        server.gate.set()
        results = await asyncio.gather(*(reply.future for reply in replies), return_exceptions=True)
        refused = [result for result in results if isinstance(result, MeshError)]
        assert server.most_running == 2
        assert [error.failure.code for error in refused] == [Code.RESOURCE_EXHAUSTED] * 2
        await ask(runtime, "m")


async def test_the_methods_a_server_allows_and_where_it_wants_the_id() -> None:
    status = pb.RuntimeStatusResponse(status=READY)
    status.methodInfos["inference.GRPCInferenceService/ModelInfer"].idInjectionPath.append(1)
    async with _attached(ExternalServer(status)) as (runtime, listener):
        await runtime.start(listener)
        await runtime.load(dummy("m"))
        answer = inference_pb2.ModelInferResponse.FromString(bytes(await ask(runtime, "m")))
        assert answer.model_name == "m"  # the request said "asked"
        for kind in (kinds.MODEL_METADATA, kinds.LOAD_MODEL, kinds.V1_EXPLAIN):
            with pytest.raises(MeshError) as caught:
                await _call(runtime, kind, b"")
            assert caught.value.failure.code is Code.UNIMPLEMENTED
        with pytest.raises(MeshError) as caught:
            await _call(runtime, kinds.MODEL_INFER, b"\xff\xff")
        assert caught.value.failure.code is Code.INVALID_ARGUMENT


def _v1(rows: int) -> bytes:
    return json.dumps({"instances": [1.0] * rows}).encode()


def _v2(rows: int) -> bytes:
    tensor = {"name": "x", "shape": [rows], "datatype": "FP64", "data": [1.0] * rows}
    return json.dumps({"id": "7", "inputs": [tensor]}).encode()


@pytest.mark.parametrize("rows", [3, 30_000])
@pytest.mark.parametrize(
    ("kind", "body", "sum_of"),
    [
        (kinds.V1_PREDICT, _v1, lambda answer: answer["predictions"]),
        (kinds.V2_INFER, _v2, lambda answer: answer["outputs"][0]["data"]),
    ],
)
async def test_json_is_translated_on_and_off_the_loop(
    rows: int, kind: str, body: Callable[[int], bytes], sum_of: Callable[[dict], list]
) -> None:
    async with _attached(ExternalServer()) as (runtime, listener):
        await runtime.start(listener)
        await runtime.load(dummy("m"))
        answer, _ = await _call(runtime, kind, body(rows))
        assert sum_of(json.loads(bytes(answer))) == [float(rows)]
        with pytest.raises(MeshError) as caught:
            await _call(runtime, kind, b"{" * rows)
        assert caught.value.failure.code is Code.INVALID_ARGUMENT
