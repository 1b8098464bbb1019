"""One channel for each endpoint, kept for life, and which of them is asked.

All calls go to one endpoint until it fails somebody; then to the next. Channels are not balanced:
a daemon that reads from one member sees its own writes soonest, and a failure moves everything at
once. Where to begin is drawn by lot, so that a fleet spreads over the members.

Certificates are read again when an endpoint fails somebody. Where they have changed, new calls go
to new channels, and what runs on the old ones has a moment to end there.

Without `ping_timeout_ms` gRPC waits a minute for a peer that fell silent, whatever the keepalive
timeout says (wire.grpcio.keepalive sets both). etcd refuses pings more often than every 5 s.
"""

import asyncio
from collections.abc import Callable
from random import randrange
from typing import Any, Final

import grpc
import structlog

from modelmesh.errors import MeshError
from modelmesh.observe.spells import Spell
from modelmesh.observe.tasks import spawn, stop
from modelmesh.pb.etcd import rpc_pb2
from modelmesh.registry.etcd.config import EtcdConfig, Tls
from modelmesh.wire.grpcio import keepalive

log = structlog.get_logger("registry")

Reread = Callable[[], EtcdConfig]

PING_EVERY_S: Final = 10.0
PING_TIMEOUT_S: Final = 3.0

# What runs on a channel with certificates of before: longer than any call; a watch begins again.
OLD_CHANNEL_S: Final = 10.0

# A page of models, or what a watch brings in one piece; ModelMesh's client has the same limit.
MESSAGE_BYTES: Final = 256 << 20

_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),  # what may be repeated is decided here
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    *keepalive(PING_EVERY_S, PING_TIMEOUT_S),
)

# etcd's methods, and what they answer with.
RANGE: Final = "/etcdserverpb.KV/Range"
TXN: Final = "/etcdserverpb.KV/Txn"
GRANT: Final = "/etcdserverpb.Lease/LeaseGrant"
REVOKE: Final = "/etcdserverpb.Lease/LeaseRevoke"
AUTHENTICATE: Final = "/etcdserverpb.Auth/Authenticate"
WATCH: Final = "/etcdserverpb.Watch/Watch"
KEEP_ALIVE: Final = "/etcdserverpb.Lease/LeaseKeepAlive"
_ANSWERS: Final[dict[str, Any]] = {
    RANGE: rpc_pb2.RangeResponse,
    TXN: rpc_pb2.TxnResponse,
    GRANT: rpc_pb2.LeaseGrantResponse,
    REVOKE: rpc_pb2.LeaseRevokeResponse,
    AUTHENTICATE: rpc_pb2.AuthenticateResponse,
    WATCH: rpc_pb2.WatchResponse,
    KEEP_ALIVE: rpc_pb2.LeaseKeepAliveResponse,
}
_STREAMS: Final = frozenset({WATCH, KEEP_ALIVE})


class Links:
    """Made on the loop that uses it. `reread` gives the configuration as its files are now."""

    def __init__(
        self, config: EtcdConfig, first: int | None = None, reread: Reread | None = None
    ) -> None:
        self._addresses = config.endpoints
        self._tls = config.tls
        self._reread = reread if config.tls is not None else None
        self._reading: asyncio.Task[None] | None = None
        self._channels: dict[int, Any] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._unread = Spell(log, "etcd's certificates cannot be read")
        self._methods: dict[tuple[int, str], Callable[..., Any]] = {}
        self.current = randrange(len(self._addresses)) if first is None else first

    def __len__(self) -> int:
        return len(self._addresses)

    @property
    def address(self) -> str:
        """Who is asked now."""
        return self._addresses[self.current]

    def method(self, endpoint: int, path: str) -> Callable[..., Any]:
        """etcd's method of that path at that endpoint."""
        method = self._methods.get((endpoint, path))
        if method is None:
            channel = self._channel(endpoint)
            make = channel.stream_stream if path in _STREAMS else channel.unary_unary
            method = make(
                path,
                request_serializer=_serialized,
                response_deserializer=_ANSWERS[path].FromString,
            )
            self._methods[endpoint, path] = method
        return method

    def leave(self, endpoint: int) -> None:
        """That endpoint failed somebody: ask the next one, unless another has left it already."""
        if self.current == endpoint:
            self.current = (endpoint + 1) % len(self._addresses)
        if self._reread is not None and (self._reading is None or self._reading.done()):
            self._reading = spawn(self._renew(self._reread), "read etcd's certificates")

    async def _renew(self, reread: Reread) -> None:
        """Take what stands in the files now. If only half of it is new, the next failure tells."""
        try:
            tls = (await asyncio.to_thread(reread)).tls
        except (MeshError, OSError) as error:
            self._unread.goes_on(why=str(error))
            return
        self._unread.over()
        if tls is None or tls == self._tls:
            return
        log.info("etcd's certificates have changed")
        self._tls = tls
        for channel in self._channels.values():
            task = spawn(self._retire(channel), "close a channel to etcd")
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        self._channels.clear()
        self._methods.clear()

    async def _retire(self, channel: Any) -> None:
        try:
            await channel.close(OLD_CHANNEL_S)
        except asyncio.CancelledError:
            await channel.close(None)
            raise

    async def close(self) -> None:
        """Let go of all channels; calls that still run are cancelled."""
        await stop(self._reading, *self._retiring)
        channels = list(self._channels.values())
        self._channels.clear()
        self._methods.clear()
        await asyncio.gather(*(channel.close(None) for channel in channels))

    def _channel(self, endpoint: int) -> Any:
        if endpoint not in self._channels:
            self._channels[endpoint] = _open(self._addresses[endpoint], self._tls)
        return self._channels[endpoint]


def _serialized(message: Any) -> bytes:
    serialized: bytes = message.SerializeToString()
    return serialized


def _open(address: str, tls: Tls | None) -> Any:
    if tls is None:
        return grpc.aio.insecure_channel(address, _OPTIONS)
    credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
    options: tuple[tuple[str, Any], ...] = _OPTIONS
    if tls.authority:
        name = tls.authority
        options = (*options, ("grpc.ssl_target_name_override", name))
        options = (*options, ("grpc.default_authority", name))
    return grpc.aio.secure_channel(address, credentials, options)
