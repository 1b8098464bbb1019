"""One gRPC connection to a daemon for the length of a command, and what its statuses mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from modelmesh.cli.exits import CommandFailed, too_late, unreachable
from modelmesh.errors import Code
from modelmesh.pb.admin_pb2_grpc import AdminStub
from modelmesh.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from modelmesh.pb.model_mesh_pb2_grpc import ModelMeshStub

_OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),  # a page of 10,000 models with long paths
    ("grpc.enable_http_proxy", 0),  # a daemon is never behind the proxy that browsers use
)
_STUBS: tuple[Any, ...] = (ModelMeshStub, AdminStub, GRPCInferenceServiceStub)


@dataclass(frozen=True, slots=True)
class Daemon:
    """The services that the commands speak to."""

    mesh: Any
    admin: Any
    inference: Any


@contextmanager
def daemon(address: str) -> Iterator[Daemon]:
    """A connection, opened by its first call; raises CommandFailed for every bad status."""
    try:
        with grpc.insecure_channel(address, options=_OPTIONS) as channel:
            yield Daemon(*(stub(channel) for stub in _STUBS))
    except grpc.RpcError as error:
        raise _failed(error, address) from None


def _failed(error: Any, address: str) -> CommandFailed:
    from modelmesh.wire.grpc_status import DETAILS, failure_of

    trailers = tuple((key, value) for key, value in error.trailing_metadata() or ())
    failure = failure_of(error.code().value[0], error.details() or "", trailers)
    if any(key == DETAILS for key, _ in trailers):
        return CommandFailed(failure)
    if failure.code is Code.UNAVAILABLE:
        return unreachable(address, failure.message)
    if failure.code is Code.DEADLINE_EXCEEDED:
        return too_late(address)
    return CommandFailed(failure)
