"""Peers over gRPC: one channel to each peer, kept.

Standard gRPC, bodies as they came, over `wire.grpcio_caller`. Connection attempts are bounded far
below a caller's patience, so that a peer that is cut off costs a call that long once; keepalive
ends a connection whose far end is silent for good, and the calls on it with an error.
"""

from functools import partial
from time import monotonic
from typing import Final

from modelmesh.peers.members import Members
from modelmesh.peers.suspicion import DEFAULT_TIMES, Times
from modelmesh.wire.grpcio_caller import GrpcCaller
from modelmesh.wire.transport import Metadata

CONNECT_TIMEOUT_S: Final = 0.3
KEEPALIVE_S: Final = 10.0
KEEPALIVE_TIMEOUT_S: Final = 3.0


def grpc_peers(
    instance_id: str,
    *,
    message_bytes: int = 16 << 20,
    times: Times = DEFAULT_TIMES,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    further: Metadata = (),
) -> Members:
    """The Peers door of the daemon `instance_id`; call it on the daemon's loop."""
    connect = partial(
        GrpcCaller,
        message_bytes=message_bytes,
        keepalive_s=KEEPALIVE_S,
        keepalive_timeout_s=KEEPALIVE_TIMEOUT_S,
        connect_timeout_s=connect_timeout_s,
    )
    return Members(instance_id, connect, monotonic, times, further)
