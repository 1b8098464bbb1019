"""What the adapters' tests share: recorded replies, a still world around a core, messages."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modelmesh.errors import Failure
from modelmesh.pb import inference_pb2, model_runtime_pb2
from modelmesh.wire import kinds
from modelmesh.wire.replies import OpenReply
from modelmesh.wire.transport import NO_DEADLINE, NO_METADATA, Body, Call, Metadata
from runtime_adapters.base import Runtime
from runtime_adapters.core import HostCore
from runtime_adapters.finding import Runtimes
from runtime_adapters.sizing import NoScale, Scale


class RecordedReply(OpenReply):
    """Keeps what was answered."""

    slow = False

    def __init__(self) -> None:
        super().__init__()
        self.body: bytes | None = None
        self.failure: Failure | None = None
        self.metadata: Metadata = NO_METADATA

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        if not self.gone:
            self.body = bytes(body)
            self.finish(None, metadata)

    def send(self, message: Body) -> None:
        raise AssertionError("a host answers with one message")

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        if not self.gone:
            self.failure = failure
            self.metadata = metadata
            self.end()

    def when_writable(self, callback: Callable[[], None]) -> None:
        callback()


class StillWorld:
    """`Surroundings` whose time moves only when told to, and which log what runs."""

    def __init__(self) -> None:
        self.scale: Scale = NoScale()
        self.time = 1000.0
        self.entries: list[list[Call]] = []
        self.read: list[Call] = []
        self.written: list[Call] = []
        self.alongside: dict[str, int] = {}
        self._timers: list[tuple[float, Callable[[], None]]] = []

    def now(self) -> float:
        return self.time

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._timers.append((self.time + delay_s, callback))

    def begin(self, calls: Sequence[Call]) -> None:
        self.entries.append(list(calls))

    def was_read(self, call: Call, took_s: float) -> None:
        self.read.append(call)

    def was_written(self, call: Call, took_s: float) -> None:
        self.written.append(call)

    def companions(self) -> Mapping[str, int]:
        return dict(self.alongside)

    def private_bytes(self) -> int:
        return 4711

    def pass_time(self, seconds: float) -> None:
        self.time += seconds
        due = [timer for timer in self._timers if timer[0] <= self.time]
        self._timers = [timer for timer in self._timers if timer[0] > self.time]
        for _, callback in sorted(due, key=lambda timer: timer[0]):
            callback()


class Bench:
    """A core in a still world, and short words to use it."""

    def __init__(self, *runtimes: Runtime, most_answer_bytes: int = 1 << 20) -> None:
        self.world = StillWorld()
        self.core = HostCore(Runtimes(runtimes), self.world, most_answer_bytes)

    def run(self, *calls: Call) -> list[Any]:
        """The answers (bytes) and failures to calls that arrive together."""
        self.core(list(calls))
        return [reply(call).failure or reply(call).body for call in calls]

    def load(self, model_id: str, model_type: str, path: object = "", **key: Any) -> RecordedReply:
        call = load(model_id, model_type, str(path), **key)
        self.core([call])
        return reply(call)

    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.core([])


def reply(call: Call) -> RecordedReply:
    assert isinstance(call.reply, RecordedReply)
    return call.reply


def call(kind: str, body: bytes, *metadata: tuple[str, str], deadline: float = NO_DEADLINE) -> Call:
    return Call(kind, body, RecordedReply(), metadata, deadline)


def load(model_id: str, model_type: str, path: str = "", **key: Any) -> Call:
    return call(kinds.LOAD_MODEL, load_body(model_id, model_type, path, **key))


def load_body(model_id: str, model_type: str, path: str = "", **key: Any) -> bytes:
    return bytes(
        model_runtime_pb2.LoadModelRequest(
            modelId=model_id,
            modelType=model_type,
            modelPath=path,
            modelKey=json.dumps(key) if key else "",
        ).SerializeToString()
    )


def unload(model_id: str) -> Call:
    return call(kinds.UNLOAD_MODEL, unload_body(model_id))


def unload_body(model_id: str) -> bytes:
    return bytes(model_runtime_pb2.UnloadModelRequest(modelId=model_id).SerializeToString())


def v1(model_id: str, instances: Any, **more: Any) -> Call:
    return call(
        kinds.V1_PREDICT, json.dumps({"instances": instances}).encode(), *named(model_id), **more
    )


def named(model_id: str) -> tuple[tuple[str, str]]:
    return ((kinds.MODEL_ID, model_id),)


def infer(
    model_id: str, rows: Sequence[Sequence[float]], datatype: str = "FP64", **more: Any
) -> Call:
    deadline = more.pop("deadline", NO_DEADLINE)
    body = infer_body(rows, datatype, **more)
    return call(kinds.MODEL_INFER, body, *named(model_id), deadline=deadline)


def infer_body(
    rows: Sequence[Sequence[float]],
    datatype: str = "FP64",
    outputs: Sequence[str] = (),
    **flags: bool,
) -> bytes:
    flat = [value for row in rows for value in row]
    request = inference_pb2.ModelInferRequest(id="7")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[len(rows), len(rows[0])])
    field = {"FP32": "fp32_contents", "FP64": "fp64_contents", "INT64": "int64_contents"}[datatype]
    getattr(tensor.contents, field).extend(flat)
    for name in outputs:
        request.outputs.add(name=name)
    for name, value in flags.items():
        request.parameters[name].bool_param = value
    return bytes(request.SerializeToString())


def inferred(body: object) -> dict[str, list[Any]]:
    """The outputs of a ModelInferResponse, typed or BYTES, by name."""
    assert isinstance(body, bytes | bytearray | memoryview), body
    response = inference_pb2.ModelInferResponse.FromString(bytes(body))
    found: dict[str, list[Any]] = {}
    for output in response.outputs:
        (values,) = [value for _, value in output.contents.ListFields()]
        found[output.name] = list(values)
    return found
