"""The calls of `mmesh.ModelRuntime`, over any wire.

Our own hosts and external servers speak the same five methods; what differs between them (what a
refusal means, who supervises whom) is for the caller of these functions. Failures are `MeshError`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.pb import model_runtime_pb2 as pb
from modelmesh.runtime.door import LoadRequest
from modelmesh.wire import kinds
from modelmesh.wire.awaiting import FutureReply
from modelmesh.wire.transport import (
    NO_DEADLINE,
    NO_METADATA,
    Body,
    Call,
    Caller,
    Metadata,
    text,
)

# What our own hosts say beside the answer to a load.
WARNING: Final = "mm-warning"
LOAD_MS: Final = "mm-load-ms"
TAINTED: Final = "mm-tainted"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The answer to a load. `size_bytes` 0: ask `model_size`; `load_s` None: not told."""

    size_bytes: int
    max_concurrency: int
    load_s: float | None
    warnings: tuple[str, ...]


async def load(
    caller: Caller,
    request: LoadRequest,
    deadline: float = NO_DEADLINE,
    metadata: Metadata = NO_METADATA,
    tainted: Callable[[str], None] = lambda left: None,
) -> Loaded:
    """Load a model.

    `tainted` is called the moment that the answer, good or bad, says what the load has left behind
    in its host ("thread", "child").
    """
    message = pb.LoadModelRequest(
        modelId=request.model_id,
        modelType=request.type,
        modelPath=request.path,
        modelKey=request.key,
    )
    body, beside = await _call(caller, kinds.LOAD_MODEL, message, deadline, metadata, tainted)
    answer = _parsed(pb.LoadModelResponse(), body)
    values = {key: text(value) for key, value in beside}
    return Loaded(
        answer.sizeInBytes,
        answer.maxConcurrency,
        _seconds(values.get(LOAD_MS)),
        tuple(text(value) for key, value in beside if key == WARNING),
    )


async def unload(
    caller: Caller,
    model_id: str,
    deadline: float = NO_DEADLINE,
    metadata: Metadata = NO_METADATA,
) -> None:
    """Unload a model; one that is not there is unloaded."""
    message = pb.UnloadModelRequest(modelId=model_id)
    try:
        await _call(caller, kinds.UNLOAD_MODEL, message, deadline, metadata)
    except MeshError as error:
        if error.failure.code is not Code.NOT_FOUND:
            raise


async def model_size(caller: Caller, model_id: str, deadline: float = NO_DEADLINE) -> int:
    """A loaded model's weight in bytes."""
    message = pb.ModelSizeRequest(modelId=model_id)
    body, _ = await _call(caller, kinds.MODEL_SIZE, message, deadline)
    size: int = _parsed(pb.ModelSizeResponse(), body).sizeInBytes
    return size


async def predict_model_size(
    caller: Caller, request: LoadRequest, deadline: float = NO_DEADLINE
) -> int:
    """What the runtime expects a model to weigh, in bytes."""
    message = pb.PredictModelSizeRequest(
        modelId=request.model_id,
        modelType=request.type,
        modelPath=request.path,
        modelKey=request.key,
    )
    body, _ = await _call(caller, kinds.PREDICT_MODEL_SIZE, message, deadline)
    size: int = _parsed(pb.PredictModelSizeResponse(), body).sizeInBytes
    return size


async def status(caller: Caller, deadline: float = NO_DEADLINE) -> pb.RuntimeStatusResponse:
    """What the runtime says of itself."""
    body, _ = await _call(caller, kinds.RUNTIME_STATUS, pb.RuntimeStatusRequest(), deadline)
    return _parsed(pb.RuntimeStatusResponse(), body)


class _Reply(FutureReply):
    """Tells what a load has left behind as soon as its answer is there, not when its task runs."""

    __slots__ = ("_tainted",)

    def __init__(self, tainted: Callable[[str], None]) -> None:
        super().__init__()
        self._tainted = tainted

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        super().finish(failure, metadata)
        for key, value in metadata:
            if key == TAINTED:
                self._tainted(text(value))


async def _call(
    caller: Caller,
    kind: str,
    message: Message,
    deadline: float,
    metadata: Metadata = NO_METADATA,
    tainted: Callable[[str], None] = lambda left: None,
) -> tuple[Body, Metadata]:
    """One unary call, with the answer's metadata; leaves when cancelled or too late."""
    reply = _Reply(tainted)
    caller.start(Call(kind, message.SerializeToString(), reply, metadata, deadline))
    limit = None if deadline == NO_DEADLINE else deadline - monotonic()
    try:
        async with asyncio.timeout(limit):
            messages = await reply.future
    except TimeoutError:
        raise MeshError(Failure(Code.DEADLINE_EXCEEDED, f"{kind} took too long")) from None
    finally:
        reply.leave()
    if len(messages) != 1:
        raise _broken(f"{kind} answered {len(messages)} messages")
    return messages[0], reply.metadata


M = TypeVar("M", bound=Message)


def _parsed(message: M, body: Body) -> M:
    try:
        message.ParseFromString(bytes(body))
    except DecodeError as error:
        raise _broken(
            f"the runtime answered what is no {message.DESCRIPTOR.name}: {error}"
        ) from None
    return message


def _seconds(milliseconds: str | None) -> float | None:
    try:
        seconds = float(milliseconds or "nan") / 1e3
    except ValueError:
        return None
    return seconds if 0 <= seconds < inf else None


def _broken(message: str) -> MeshError:
    return MeshError(Failure(Code.INTERNAL, message, Fault.MODEL, executed=True))
