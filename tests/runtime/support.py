"""What the tests of this room share: a listener that remembers, requests, configurations."""

from dataclasses import dataclass, field
from typing import Any

from modelmesh.errors import Failure
from modelmesh.pb import inference_pb2
from modelmesh.runtime.door import LoadRequest, Part, Runtime
from modelmesh.runtime.hosts import HostsConfig
from modelmesh.runtime.zygote import ZygoteConfig
from modelmesh.wire import kinds
from modelmesh.wire.awaiting import FutureReply
from modelmesh.wire.transport import NO_DEADLINE, Body, Call

HOSTILE = "tests.runtime.misdeeds:HostileRuntime"


@dataclass
class Listener:
    """Remembers what the runtime said unasked."""

    lost: dict[str, Failure] = field(default_factory=dict)
    resized: dict[str, int] = field(default_factory=dict)
    overheads: list[int] = field(default_factory=list)
    times: list[tuple[Part, str]] = field(default_factory=list)

    def model_lost(self, model_id: str, failure: Failure) -> None:
        self.lost[model_id] = failure

    def model_resized(self, model_id: str, size_bytes: int) -> None:
        self.resized[model_id] = size_bytes

    def overhead_changed(self, overhead_bytes: int) -> None:
        self.overheads.append(overhead_bytes)

    def took(self, part: Part, model_id: str, seconds: float) -> None:
        self.times.append((part, model_id))


QUICK_S = 0.25  # for tests of what is set aside


def config(**changes: Any) -> HostsConfig:
    """One shared host, and the hostile runtime beside the usual ones.

    None is set aside because the machine stood still for a moment, unless a test asks for it.
    """
    settings: dict[str, Any] = {
        "shared_hosts": 1,
        "set_aside_s": 20.0,
        "zygote": ZygoteConfig(runtimes=HOSTILE),
    }
    return HostsConfig(**(settings | changes))


def dummy(model_id: str, key: str = "{}") -> LoadRequest:
    """A model without files."""
    return LoadRequest(model_id, "dummy", "", key)


def request(*numbers: float) -> bytes:
    """A ModelInferRequest with one FP64 input."""
    message = inference_pb2.ModelInferRequest(model_name="asked")
    tensor = message.inputs.add(name="x", datatype="FP64", shape=[len(numbers)])
    tensor.contents.fp64_contents.extend(numbers)
    body: bytes = message.SerializeToString()
    return body


def begin(
    runtime: Runtime, model_id: str, number: float = 1.0, deadline: float = NO_DEADLINE
) -> FutureReply:
    """Send one request; its answer is the future."""
    reply = FutureReply()
    runtime.infer(model_id, Call(kinds.MODEL_INFER, request(number), reply, deadline=deadline))
    return reply


async def ask(runtime: Runtime, model_id: str) -> Body:
    """One answer; `MeshError` otherwise."""
    return (await begin(runtime, model_id).future)[0]
