"""A watch that goes on: over broken connections, members that left, tokens that ended, silence.

It holds a position (`position`) and at most one stream. A stream that ends for whatever reason is
opened again at the position, at another endpoint if it was the endpoint's fault; only compaction
ends the watch, because then events are gone: `Compacted`, and the watcher lists again. The same
is said when the store has gone back behind what was already seen, or is another one (a restore).

Nothing heard for a while: etcd is asked for a sign of life. No sign: the stream is taken for dead
(a stopped server still acknowledges at TCP). Each time in a row patience doubles, so that a server
which is merely slow at catching up gets through.

A caller that stops listening stops the reading; etcd keeps what it has not sent, as long as it can.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

import grpc
import structlog

from modelmesh.errors import Code, MeshError
from modelmesh.observe.tasks import spawn
from modelmesh.pb.etcd import rpc_pb2
from modelmesh.registry.etcd.client import EtcdClient, Refused, refusal
from modelmesh.registry.etcd.links import RANGE, WATCH
from modelmesh.registry.etcd.meanings import Meaning, failure_of, meaning_of
from modelmesh.registry.etcd.position import Canceled, Position
from modelmesh.registry.store import Compacted, Event

log = structlog.get_logger("registry")

SILENCE_S: Final = 3.0
SIGN_S: Final = 2.0
LONGEST_PATIENCE: Final = 16  # times the usual
PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0
# Refusals in a row after which a watch is not allowed, rather than its token outdated.
REFUSALS: Final = 3

_FIRST: Final = asyncio.FIRST_COMPLETED

Translate = Callable[[Any], Event | None]


class EtcdWatch:
    """An endless iterator of events; ends when the store is closed. One `anext` at a time."""

    def __init__(
        self,
        client: EtcdClient,
        key: bytes,
        range_end: bytes,
        after_revision: int,
        translate: Translate,
        *,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._client = client
        self._key = key
        self._range_end = range_end
        self._position = Position(after_revision)
        self._translate = translate
        self._silence_s = silence_s
        self.stream: Any = None  # the one that is read, or None between two
        self._reading: asyncio.Task[Any] | None = None
        self._endpoint = 0
        self._headers: Any = ()
        self._cluster = 0  # of the first stream
        self._failures = 0  # in a row
        self._refusals = 0
        self._patience = 1

    def __aiter__(self) -> "EtcdWatch":
        return self

    async def __anext__(self) -> list[Event]:
        while not self._client.closed:
            try:
                events = await self._next()
            except Compacted:
                self._let_go()
                raise
            except Canceled as canceled:
                self._let_go()
                self._judge(meaning_of(Code.UNKNOWN, str(canceled)), str(canceled))
            except Refused as refused:
                self._let_go()
                self._judge(refused.meaning, refused.details)
            except MeshError:
                if not self._client.closed:
                    raise
            else:
                if events:
                    return events
                continue
            await self._pause()
        self._let_go()
        raise StopAsyncIteration

    def __del__(self) -> None:
        with contextlib.suppress(RuntimeError):  # its loop may be closed
            self._let_go()

    async def _next(self) -> list[Event]:
        """What the next answer brings; raises Refused, Canceled, Compacted."""
        if self.stream is None:
            await self._open()
        answer = await self._answer()
        self._patience = 1
        found = self._position.take(answer)
        if answer.created:
            await self._check(answer.header)
        self._failures = self._refusals = 0
        return [event for each in found if (event := self._translate(each)) is not None]

    async def _open(self) -> None:
        self._endpoint = self._client.links.current
        self._headers = await self._client.headers(self._endpoint)
        self._position.reopened()
        self.stream = self._client.links.method(self._endpoint, WATCH)(metadata=self._headers)
        create = rpc_pb2.WatchCreateRequest(
            key=self._key,
            range_end=self._range_end,
            start_revision=self._position.next_revision,
            progress_notify=True,
            fragment=True,
        )
        try:
            await self._say(rpc_pb2.WatchRequest(create_request=create))
        except asyncio.CancelledError:
            self._let_go()  # nobody knows whether etcd has heard what is wanted
            raise

    async def _say(self, request: Any) -> None:
        """Send it; raises Refused where etcd does not take it."""
        writing = spawn(_write(self.stream, request), "etcd watch request")
        try:
            await asyncio.wait([writing, self._client.ended], timeout=SIGN_S, return_when=_FIRST)
            refused = (
                writing.result() if writing.done() else Refused(Meaning.UNKNOWN, "etcd is deaf")
            )
        finally:
            writing.cancel()
        if refused is not None:
            raise refused

    async def _answer(self) -> Any:
        """The next answer, or Refused if there is not even a sign of life."""
        answer = await self._heard(self._silence_s * self._patience)
        if answer is None:
            await self._say(rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest()))
            answer = await self._heard(SIGN_S * self._patience)
        if answer is None:
            self._patience = min(LONGEST_PATIENCE, 2 * self._patience)
            raise Refused(Meaning.UNKNOWN, "etcd has fallen silent")
        if isinstance(answer, Refused):
            raise answer
        return answer

    async def _heard(self, within_s: float) -> Any:
        """What the stream says within that time, or None; the reading itself goes on."""
        if self._reading is None:
            self._reading = spawn(_read(self.stream), "etcd watch")
        done, _ = await asyncio.wait([self._reading], timeout=within_s)
        if not done:
            return None
        reading, self._reading = self._reading, None
        return reading.result()

    async def _check(self, header: Any) -> None:
        """Whether a stream that begins again is one of the same store, not of its past."""
        first, self._cluster = not self._cluster, self._cluster or header.cluster_id
        seen = self._position.next_revision - 1
        if first or (header.cluster_id == self._cluster and header.revision >= seen):
            return
        try:  # a member may lag behind another: ask them together
            answer = await self._client.call(
                RANGE, rpc_pb2.RangeRequest(key=self._key, count_only=True), repeatable=True
            )
        except MeshError as error:
            raise Refused(Meaning.UNKNOWN, str(error)) from error
        if answer.header.cluster_id != self._cluster or answer.header.revision < seen:
            log.warning("the registry has been restored", revision=answer.header.revision, was=seen)
            raise Compacted

    def _judge(self, meaning: Meaning, details: str) -> None:
        """Where to go on after a failure; raises MeshError if nowhere."""
        if self._client.closed:
            return
        if not self._failures:  # once for an outage
            log.info("a watch of the registry begins again", why=details)
        if meaning is Meaning.TOKEN or "permission denied" in details:
            self._client.tokens.refused(self._headers)
            self._refusals += 1
            if self._refusals >= REFUSALS:
                raise MeshError(failure_of(Meaning.WRONG, details, repeatable=True))
        elif meaning in (Meaning.ELSEWHERE, Meaning.UNKNOWN):
            self._client.links.leave(self._endpoint)
        elif meaning is Meaning.WRONG:
            raise MeshError(failure_of(meaning, details, repeatable=True))

    async def _pause(self) -> None:
        rounds, self._failures = self._failures, self._failures + 1
        pause_s = min(LONGEST_PAUSE_S, PAUSE_S * 2 ** min(rounds, 6))
        await asyncio.wait([self._client.ended], timeout=pause_s)

    def _let_go(self) -> None:
        stream, self.stream = self.stream, None
        self._reading = None
        if stream is not None:
            stream.cancel()


async def _write(stream: Any, request: Any) -> Refused | None:
    """What became of it: None if the stream has taken it, or has ended (reading says how)."""
    try:
        await stream.write(request)
    except grpc.aio.AioRpcError as error:
        return refusal(error)
    except (asyncio.InvalidStateError, asyncio.CancelledError):
        return None
    return None


async def _read(stream: Any) -> Any:
    """The stream's next answer, or how it ended (a task's failure would be logged as one)."""
    try:
        answer = await stream.read()
    except grpc.aio.AioRpcError as error:
        return refusal(error)
    except asyncio.CancelledError:
        return Refused(Meaning.UNKNOWN, "the stream was let go")
    return Refused(Meaning.UNKNOWN, "the stream has ended") if answer is grpc.aio.EOF else answer
