"""The calling end of gRPC: a model server in its own container, over TCP or a unix socket.

Raw bytes both ways, one grpc.aio channel kept for the caller's life, one task a call (grpc.aio has
no cheaper way to hear of an answer). Nothing is resent here but what gRPC itself knows never
reached a server.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from time import monotonic
from typing import Any, Final

import grpc
import structlog
from cachetools import LRUCache

from modelmesh.errors import Code, Failure, Fault
from modelmesh.wire.grpc_status import EXECUTED, failure_of
from modelmesh.wire.grpcio import keepalive, kept
from modelmesh.wire.replies import refused, unavailable
from modelmesh.wire.transport import NO_DEADLINE, Body, Call, Metadata, StreamingKinds

log = structlog.get_logger("wire")

_KINDS_REMEMBERED: Final = 256
_CLOSE_S: Final = 5.0
_MESSAGES_WAITING: Final = 1024  # of a stream, for the transport to take them
_TOO_FAST = Failure(Code.RESOURCE_EXHAUSTED, "messages come faster than the server takes them")
_BROKEN = Failure(Code.INTERNAL, "internal error", Fault.PEER, executed=True)


class GrpcCaller:
    """A `Caller` to `address`: host:port, or unix:PATH.

    `streaming` names the kinds with many messages; a call of such a kind that brings no `inbound`
    sends its body as the only message. Keepalive is off unless asked for: most servers on the same
    machine take pings for an attack. `connect_timeout_s` bounds every attempt to connect, and the
    pause before the next; by default they may grow to 2 s.
    """

    def __init__(
        self,
        address: str,
        streaming: StreamingKinds = frozenset(),
        *,
        message_bytes: int = 16 << 20,
        keepalive_s: float = 0.0,
        keepalive_timeout_s: float = 3.0,
        connect_timeout_s: float = 0.0,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._streaming = streaming
        self._message_bytes = message_bytes
        self._closed = False
        self._tasks: dict[asyncio.Task[None], Call] = {}
        self._unary_methods: LRUCache[str, Any] = LRUCache(_KINDS_REMEMBERED)
        self._stream_methods: LRUCache[str, Any] = LRUCache(_KINDS_REMEMBERED)
        options = (
            ("grpc.max_receive_message_length", message_bytes),
            ("grpc.max_send_message_length", message_bytes),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", round(connect_timeout_s * 1000) or 1000),
            ("grpc.max_reconnect_backoff_ms", round(connect_timeout_s * 1000) or 2000),
            ("grpc.keepalive_permit_without_calls", 1),
            *keepalive(keepalive_s, keepalive_timeout_s),
        )
        self._channel = grpc.aio.insecure_channel(address, options)

    def start(self, call: Call) -> None:
        if refused(call, self._closed, self._message_bytes):
            return
        streams = call.inbound is not None or call.kind in self._streaming
        work = self._stream if streams else self._unary
        task = self._loop.create_task(_guarded(work, call), name=f"grpc {call.kind}")
        self._tasks[task] = call
        task.add_done_callback(self._tasks.pop)
        call.reply.when_gone(partial(_cancel, task))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        tasks = dict(self._tasks)
        for task, call in tasks.items():
            call.reply.finish(unavailable(executed=True))
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_S)
        await self._channel.close()

    async def _unary(self, call: Call) -> None:
        method = _method(self._unary_methods, call.kind, self._channel.unary_unary)
        rpc = method(_bytes(call.body), metadata=call.metadata, timeout=_timeout(call))
        body = await rpc
        call.reply.answer(body, kept(await rpc.initial_metadata()))

    async def _stream(self, call: Call) -> None:
        method = _method(self._stream_methods, call.kind, self._channel.stream_stream)
        rpc = method(metadata=call.metadata, timeout=_timeout(call))
        writer = self._loop.create_task(_write(rpc, call), name=f"grpc outbound {call.kind}")
        try:
            while (message := await rpc.read()) is not grpc.aio.EOF:
                call.reply.send(message)
                if call.reply.slow:
                    await self._writable(call)
            call.reply.finish(None, _passed_on(await rpc.trailing_metadata()))
        finally:
            rpc.cancel()
            writer.cancel()
            await asyncio.wait([writer], timeout=_CLOSE_S)

    async def _writable(self, call: Call) -> None:
        """Until the caller takes more; bounded by the call, whose leaving cancels this task."""
        writable = self._loop.create_future()
        call.reply.when_writable(partial(_resolve, writable))
        await writable


def _method(methods: LRUCache[str, Any], kind: str, make: Any) -> Any:
    """What calls this kind, made once."""
    method = methods.get(kind)
    if method is None:
        method = methods[kind] = make(kind)
    return method


async def _guarded(work: Callable[[Call], Coroutine[Any, Any, None]], call: Call) -> None:
    """Every call ends: with its answer, its status, or, if we are at fault, INTERNAL."""
    try:
        await work(call)
    except grpc.aio.AioRpcError as error:
        trailers = tuple(error.trailing_metadata() or ())
        failure = failure_of(error.code().value[0], error.details() or "", trailers)
        call.reply.finish(failure, _passed_on(trailers))
    except Exception:
        log.exception("a call could not be made", kind=call.kind)
        call.reply.finish(_BROKEN)


async def _write(rpc: Any, call: Call) -> None:
    """The caller's messages, then the end of them. The reading side says how the call went."""
    try:
        if call.inbound is None:
            await rpc.write(_bytes(call.body))
        else:
            messages: asyncio.Queue[bytes | None] = asyncio.Queue()
            call.inbound.listen(partial(_queue, messages, call), partial(messages.put_nowait, None))
            while (message := await messages.get()) is not None:
                await rpc.write(message)
        await rpc.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
        log.debug("a stream ended before all was written", kind=call.kind, why=str(error))
    except Exception:
        log.exception("writing a stream failed", kind=call.kind)
        call.reply.finish(_BROKEN)
        rpc.cancel()


def _queue(messages: "asyncio.Queue[bytes | None]", call: Call, message: Body) -> None:
    if messages.qsize() < _MESSAGES_WAITING:
        messages.put_nowait(_bytes(message))
    else:
        call.reply.finish(_TOO_FAST)


def _passed_on(trailers: Any) -> Metadata:
    return tuple(pair for pair in kept(trailers) if pair[0] != EXECUTED)


def _timeout(call: Call) -> float | None:
    return None if call.deadline == NO_DEADLINE else max(0.0, call.deadline - monotonic())


def _bytes(body: Body) -> bytes:
    return body if isinstance(body, bytes) else bytes(body)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
