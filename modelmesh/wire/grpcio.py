"""The public gRPC port, served with grpc.aio, until our own HTTP/2 replaces it.

grpc.aio costs some 250 us a call before anything of ours runs, so this adds little: one coroutine
that awaits one future, the body untouched, metadata filtered but not rebuilt. All methods are
unary but the kinds named as streaming; who knows a method at all is the handler's business.

Stopping loses no call: the listening socket goes first (grpc.aio has no way to close it, so the
socket is shut down under it), then the idle connections are told to leave, the others as they turn
idle; one that never pauses drains by its maximum age. The rest gets its GOAWAY and the time that is
left. Without a maximum age this last step can hit a call that is just on its way over a busy
connection: it sees CANCELLED. What still runs at the end of the time gets UNAVAILABLE.
"""

import asyncio
from dataclasses import dataclass
from functools import lru_cache, partial
from time import monotonic
from typing import Any, Final

import grpc
import structlog

from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.wire.grpc_replies import StreamInbound, StreamReply, UnaryReply
from modelmesh.wire.grpc_status import message_of, trailers_of
from modelmesh.wire.leaving import LEAVE_S, SMALL_BYTES, Departures
from modelmesh.wire.listening import shut_listeners
from modelmesh.wire.transport import (
    NO_DEADLINE,
    NO_METADATA,
    Call,
    Handler,
    Metadata,
    StreamingKinds,
)
from modelmesh.wire.turns import Turn

log = structlog.get_logger("wire")

STATUS: Final = {code.value[0]: code for code in grpc.StatusCode}
_KINDS_REMEMBERED: Final = 256
_FLUSH_S: Final = 1.0  # for the last statuses to leave
_LOOK_EVERY_S: Final = 0.05
_ENDED_BY_DRAIN = Failure(
    Code.UNAVAILABLE, "shutting down", Fault.PEER, Reason.DRAINING, executed=True
)
_NOT_ONE = Failure(Code.UNIMPLEMENTED, "the method takes one message, no less and no more")
_OWN_HEADERS: Final = frozenset({"user-agent", "content-type", "te"})


@dataclass(frozen=True, slots=True)
class GrpcLimits:
    """What a gRPC server admits. 0 means no limit (ages, calls) or off (keepalive)."""

    message_bytes: int = 16 << 20
    metadata_bytes: int = 8192
    concurrent_calls: int = 0
    max_connection_age_s: float = 0.0
    max_connection_age_grace_s: float = 0.0
    keepalive_s: float = 0.0
    keepalive_timeout_s: float = 3.0

    def options(self) -> tuple[tuple[str, int], ...]:
        """As options of a grpc.aio server."""
        chosen = [
            ("grpc.so_reuseport", 0),  # a second daemon on the same port must fail
            ("grpc.max_receive_message_length", self.message_bytes),
            ("grpc.max_send_message_length", self.message_bytes),
            ("grpc.max_metadata_size", self.metadata_bytes),
            ("grpc.absolute_max_metadata_size", self.metadata_bytes),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
        if self.max_connection_age_s:
            chosen.append(("grpc.max_connection_age_ms", _ms(self.max_connection_age_s)))
        if self.max_connection_age_grace_s:
            grace_ms = _ms(self.max_connection_age_grace_s)
            chosen.append(("grpc.max_connection_age_grace_ms", grace_ms))
        return (*chosen, *keepalive(self.keepalive_s, self.keepalive_timeout_s))


def keepalive(every_s: float, timeout_s: float) -> tuple[tuple[str, int], ...]:
    """Notice a peer that fell silent. Without ping_timeout_ms gRPC waits a minute more."""
    if not every_s:
        return ()
    return (
        ("grpc.keepalive_time_ms", _ms(every_s)),
        ("grpc.keepalive_timeout_ms", _ms(timeout_s)),
        ("grpc.http2.ping_timeout_ms", _ms(timeout_s)),
        ("grpc.http2.max_pings_without_data", 0),
    )


def kept(metadata: Any) -> Metadata:
    """The headers that are not the transport's own."""
    return tuple(
        [pair for pair in metadata if pair[0] not in _OWN_HEADERS and pair[0][:5] != "grpc-"]
    )


class GrpcServer:
    """A `Server` for gRPC over TCP or a unix socket. Make it on its loop, then `start` it."""

    def __init__(
        self,
        handler: Handler,
        streaming: StreamingKinds = frozenset(),
        limits: GrpcLimits = GrpcLimits(),
        quick: frozenset[str] = frozenset(),
    ) -> None:
        """`quick`: unary kinds that are begun with their first message, as all of gRPC's own
        servers do. Looking for a second one takes a batch and a turn of its own: for small models a
        third of a call's CPU, and calls that came together would no longer begin together."""
        self._quick = quick
        self._loop = asyncio.get_running_loop()
        self._turn = Turn(handler, self._loop.call_soon)
        self._streaming = streaming
        self._limits = limits
        self._port = 0
        self._open: dict[Any, UnaryReply | StreamReply] = {}  # by context, from the first sign
        self._draining = False
        self._just_written: set[int] = set()  # peers' ports with a large answer, once it drains
        self._server = grpc.aio.server(
            options=limits.options(), maximum_concurrent_rpcs=limits.concurrent_calls or None
        )
        self._server.add_generic_rpc_handlers(
            [_Methods(lru_cache(_KINDS_REMEMBERED)(self._method))]
        )

    @property
    def port(self) -> int:
        return self._port

    async def start(self, host: str = "127.0.0.1", port: int = 0, path: str = "") -> None:
        """Listen on host:port (0: a free one), or on the unix socket `path`. OSError if taken."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._server.add_insecure_port(f"unix:{path}" if path else address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {path or address}") from error
        self._port = 0 if path else bound
        await self._server.start()

    async def drain(self, grace_s: float) -> None:
        end = monotonic() + grace_s
        self._draining = True
        if self._port:
            shut_listeners(self._port)
            await self._disconnected(end)
        left_s = max(0.0, end - monotonic())
        giving_up = self._loop.call_later(left_s, self._end_open)
        await self._server.stop(left_s + _FLUSH_S)
        giving_up.cancel()

    async def _disconnected(self, end: float) -> None:
        """Until every connection has left: idle ones are told to, the others reach their age (gRPC
        spreads ages by 10 %)."""
        end = min(end, monotonic() + max(1.2 * self._limits.max_connection_age_s, 2 * LEAVE_S))
        departures = Departures(self._port)
        while departures.look(self._busy(), monotonic()) and monotonic() < end:
            if not self._limits.max_connection_age_s and self._open:
                break  # they may be busy for ever
            await asyncio.sleep(_LOOK_EVERY_S)  # no event says that a connection has closed

    def _busy(self) -> set[int]:
        """The peers' ports that have a call, or have had a large answer since the last look."""
        written, self._just_written = self._just_written, set()
        return written | {_peer_port(context) for context in self._open}

    def _end_open(self) -> None:
        if self._open:
            log.warning("calls are cut off by the end of the drain", calls=len(self._open))
        for reply in list(self._open.values()):
            reply.finish(_ENDED_BY_DRAIN)

    def _method(self, kind: str) -> grpc.RpcMethodHandler:
        if kind in self._streaming:
            return grpc.stream_stream_rpc_method_handler(partial(self._stream, kind))
        # As "unary" grpc.aio would never answer a call that ends before its message, and never look
        # for a second one.
        return grpc.stream_unary_rpc_method_handler(partial(self._unary, kind))

    async def _unary(self, kind: str, _requests: Any, context: Any) -> bytes:
        # Nothing but what is quick is begun before the caller has ended its half: what was begun
        # for the first of two messages could not be taken back.
        reply = self._open[context] = UnaryReply(self._loop)
        try:
            body = await context.read()
            if body is grpc.aio.EOF or (
                kind not in self._quick and await context.read() is not grpc.aio.EOF
            ):
                await _end(context, _NOT_ONE, NO_METADATA)
            self._begin(kind, body, reply, context, None)
            await reply.future
        except asyncio.CancelledError:
            reply.leave()
            raise
        finally:
            del self._open[context]
        await _end(context, reply.failure, reply.metadata)
        if self._draining and len(reply.body) > SMALL_BYTES:
            self._just_written.add(_peer_port(context))
        return reply.body

    async def _stream(self, kind: str, _requests: Any, context: Any) -> None:
        reply, inbound = StreamReply(self._loop), StreamInbound()
        self._open[context] = reply
        self._begin(kind, b"", reply, context, inbound)
        name = f"inbound {kind}"
        reader = self._loop.create_task(_pump(context, inbound, reply), name=name)
        try:
            while (message := await reply.next()) is not None:
                await context.write(message)
                reply.written(len(message))
        except asyncio.CancelledError:
            reply.leave()
            raise
        finally:
            del self._open[context]
            self._just_written |= {_peer_port(context)} if self._draining else set()
            reader.cancel()
            await asyncio.wait([reader], timeout=_FLUSH_S)
        await _end(context, reply.failure, reply.metadata, reply.sent)

    def _begin(
        self,
        kind: str,
        body: bytes,
        reply: UnaryReply | StreamReply,
        context: Any,
        inbound: StreamInbound | None,
    ) -> None:
        left_s = context.time_remaining()
        deadline = NO_DEADLINE if left_s is None else monotonic() + left_s
        metadata = kept(context.invocation_metadata())
        self._turn.add(Call(kind, body, reply, metadata, deadline, inbound))


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Every method there is, as far as gRPC is concerned."""

    def __init__(self, method: Any) -> None:
        self._method = method

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return self._method(details.method)


def _peer_port(context: Any) -> int:
    """Enough to know a connection by: two peers that share it count as busy together."""
    return int(context.peer().rpartition(":")[2])


async def _end(
    context: Any, failure: Failure | None, metadata: Metadata, sent: bool = False
) -> None:
    """Headers if nothing was sent, trailers otherwise; a failure aborts the call."""
    if failure is not None:
        trailers = (*metadata, *trailers_of(failure))
        await context.abort(STATUS[failure.code], message_of(failure), trailers)
    elif metadata and sent:
        context.set_trailing_metadata(metadata)
    elif metadata:
        await context.send_initial_metadata(metadata)


async def _pump(context: Any, inbound: StreamInbound, reply: StreamReply) -> None:
    """Read the caller's messages, from when somebody listens; nothing piles up before."""
    try:
        await inbound.listened.wait()
        while (message := await context.read()) is not grpc.aio.EOF:
            inbound.push(message)
        inbound.close()
    except Exception:
        log.exception("reading a stream failed")
        reply.finish(Failure(Code.INTERNAL, "internal error", Fault.PEER, executed=True))


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
