"""What a caller does to a daemon: real gRPC stubs, a real HTTP client, and a reader of its metrics.

The same for a daemon in a process of its own and for one inside the test's process.
"""

import http.client
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from modelmesh.pb import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc
from modelmesh.pb import model_mesh_pb2 as mesh_pb2
from modelmesh.pb import model_mesh_pb2_grpc as mesh_pb2_grpc

T = TypeVar("T")

CALL_S: Final = 30.0  # for calls that are to succeed: long enough for a busy machine
_AGAIN_S: Final = 0.1
_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Answer:
    """What a model answered, output by output (the first element of each)."""

    outputs: Mapping[str, Any]
    size_bytes: int

    def __getitem__(self, name: str) -> Any:
        return self.outputs[name]


@dataclass(frozen=True)
class Response:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Refused:
    """How a gRPC call failed. `retry` is None where the daemon says that a retry is of no use."""

    code: str
    message: str
    reason: str
    retry_s: float | None

    @property
    def why(self) -> tuple[str, str]:
        """What a program looks at."""
        return self.code, self.reason


class Client:
    """One caller of one daemon."""

    def __init__(self, ports: Mapping[str, int], host: str = "127.0.0.1") -> None:
        self.host = host
        self.ports = dict(ports)
        self.channel = grpc.insecure_channel(f"{host}:{ports['grpc']}")
        self.mesh = mesh_pb2_grpc.ModelMeshStub(self.channel)
        self.admin = admin_pb2_grpc.AdminStub(self.channel)
        self.inference = inference_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)
        self._infer = self.channel.unary_unary(_INFER)

    def close(self) -> None:
        self.channel.close()

    # --- models

    def register(self, model_id: str, kind: str, path: str = "", key: str = "") -> str:
        """Register; the state that the answer tells."""
        info = mesh_pb2.ModelInfo(type=kind, path=path, key=key)
        request = mesh_pb2.RegisterModelRequest(modelId=model_id, modelInfo=info)
        return _state(patiently(lambda: self.mesh.registerModel(request, timeout=CALL_S)))

    def refused_registration(self, model_id: str) -> Refused:
        """How it fails to register a dummy; asked once."""
        info = mesh_pb2.ModelInfo(type="dummy")
        request = mesh_pb2.RegisterModelRequest(modelId=model_id, modelInfo=info)
        return refusal_of(self.mesh.registerModel.future(request, timeout=CALL_S))

    def dummies(self, *model_ids: str, **behaviour: object) -> None:
        """Register models of the runtime `dummy` that behave so."""
        for model_id in model_ids:
            self.register(model_id, "dummy", key=json.dumps(behaviour))

    def gated(self, gate: Path, *model_ids: str) -> None:
        """Register models of the runtime `gated`: none loads while the gate is `closed`."""
        for model_id in model_ids:
            self.register(model_id, "gated", key=str(gate))

    def status(self, model_id: str) -> Any:
        return self.mesh.getModelStatus(mesh_pb2.GetStatusRequest(modelId=model_id), timeout=CALL_S)

    def state(self, model_id: str) -> str:
        return _state(self.status(model_id))

    def load(self, model_id: str, *, sync: bool = True) -> str:
        """Have it loaded; the state that the answer tells."""
        request = mesh_pb2.EnsureLoadedRequest(modelId=model_id, sync=sync)
        return _state(patiently(lambda: self.mesh.ensureLoaded(request, timeout=CALL_S)))

    def unload(self, model_id: str) -> None:
        request = admin_pb2.UnloadModelRequest(model_id=model_id)
        patiently(lambda: self.admin.UnloadModel(request, timeout=CALL_S))

    def unregister(self, model_id: str) -> None:
        request = mesh_pb2.UnregisterModelRequest(modelId=model_id)
        patiently(lambda: self.mesh.unregisterModel(request, timeout=CALL_S))

    def models(self) -> dict[str, Any]:
        """Every model's row of the listing."""
        request, rows = admin_pb2.ListModelsRequest(), dict[str, Any]()
        while True:
            page = self.admin.ListModels(request, timeout=CALL_S)
            rows |= {row.model_id: row for row in page.models}
            if not page.next_page_token:
                return rows
            request.page_token = page.next_page_token

    def loaded(self) -> set[str]:
        return {name for name, row in self.models().items() if row.state == "LOADED"}

    def explain(self, model_id: str) -> Any:
        request = admin_pb2.ExplainModelRequest(model_id=model_id)
        return self.admin.ExplainModel(request, timeout=CALL_S)

    # --- inference

    def begin(
        self,
        model_id: str,
        *numbers: float,
        timeout_s: float = CALL_S,
        metadata: Sequence[tuple[str, str]] = (),
        **more: Any,
    ) -> Any:
        """A ModelInfer on its way: a future of the answer's bytes."""
        request = request_of(model_id, numbers, **more)
        return self._infer.future(request, timeout=timeout_s, metadata=metadata)

    def infer(self, model_id: str, *numbers: float, **more: Any) -> Answer:
        """A ModelInfer that succeeds."""
        return answer_of(self.begin(model_id, *numbers, **more).result())

    def refused(self, model_id: str, **more: Any) -> Refused:
        """A ModelInfer that does not succeed."""
        return refusal_of(self.begin(model_id, **more))

    # --- HTTP

    def rest(
        self,
        verb: str,
        path: str,
        body: bytes = b"",
        *,
        on: str = "rest",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """One request over a connection of its own."""
        connection = http.client.HTTPConnection(self.host, self.ports[on], timeout=CALL_S)
        try:
            connection.request(verb, path, body or None, dict(headers or {}))
            answer = connection.getresponse()
            return Response(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def predict(self, model_id: str, *numbers: float) -> Response:
        """A V1 predict."""
        document = {"instances": [list(numbers) or [1.0]]}
        return self.rest("POST", f"/v1/models/{model_id}:predict", json.dumps(document).encode())

    def metrics(self) -> dict[str, float]:
        """Every sample by `name{label="value",...}`, labels in order, as the daemon has it now."""
        families = text_string_to_metric_families(
            self.rest("GET", "/metrics", on="metrics").body.decode()
        )
        return {
            sample.name + _labels(sample.labels): sample.value
            for family in families
            for sample in family.samples
        }


def request_of(
    model_id: str, numbers: Iterable[float] = (), *, padding: int = 0, **parameters: bool
) -> bytes:
    """The bytes of a ModelInfer: one FP64 input of one row, and an id of `padding` bytes."""
    values = list(numbers) or [1.0]
    request = inference_pb2.ModelInferRequest(model_name=model_id, id="x" * padding)
    tensor = request.inputs.add(name="input-0", datatype="FP64", shape=[1, len(values)])
    tensor.contents.fp64_contents.extend(values)
    for name, value in parameters.items():
        request.parameters[name].bool_param = value
    return bytes(request.SerializeToString())


def answer_of(body: bytes) -> Answer:
    """The answer's first elements by output."""
    response = inference_pb2.ModelInferResponse.FromString(body)
    outputs = {tensor.name: _first(tensor.contents) for tensor in response.outputs}
    return Answer(outputs, len(body))


def refusal_of(future: Any) -> Refused:
    """How this call fails; an AssertionError if it does not."""
    error = future.exception()
    assert error is not None, "the call was answered"
    reason, retry_s = "", None
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            reason, retry_s = _details(value)
    return Refused(error.code().name, error.details() or "", reason, retry_s)


def patiently(call: Callable[[], T], within_s: float = 2 * CALL_S) -> T:
    """What `call` returns. A registry's store that the machine keeps still for a second counts as
    away: what needs it is refused meanwhile, rightly, and asked again, as a caller is told to."""
    end = time.monotonic() + within_s
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if not is_about_the_store(error) or time.monotonic() > end:
                raise
        time.sleep(_AGAIN_S)  # what the store does has no sign here


def is_about_the_store(error: Any) -> bool:
    """Whether a call was refused because the registry's store did not answer."""
    return error.code() is grpc.StatusCode.UNAVAILABLE and tells_of_the_store(error.details() or "")


def tells_of_the_store(said: str) -> bool:
    return "the registry's store" in said or said.startswith("etcd: ")


def until(condition: Callable[[], object], within_s: float = 60.0) -> None:
    """Return when the condition holds; fail when it does not within the bound."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.01)  # between two looks at another process


def ever_longer(first_s: float) -> Iterator[float]:
    """Times for what must not be over before it was looked at, until it was not."""
    yield from (first_s, 6 * first_s, 30 * first_s)
    raise AssertionError("it was over each time")


def changes(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """The samples that have changed, and by how much; when a series was born is no change."""
    return {
        name: value - before.get(name, 0.0)
        for name, value in after.items()
        if value != before.get(name, 0.0) and not name.partition("{")[0].endswith("_created")
    }


def _state(info: Any) -> str:
    name: str = mesh_pb2.ModelStatusInfo.ModelStatus.Name(info.status)
    return name


def _labels(labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{name}="{labels[name]}"' for name in sorted(labels))
    return f"{{{inside}}}" if inside else ""


def _first(contents: Any) -> Any:
    (_, values), *_ = contents.ListFields()
    value = values[0]
    return value.decode() if isinstance(value, bytes) else value


def _details(encoded: bytes) -> tuple[str, float | None]:
    reason, retry_s = "", None
    for detail in status_pb2.Status.FromString(encoded).details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            reason = info.reason
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_s = retry.retry_delay.ToTimedelta().total_seconds()
    return reason, retry_s
