"""One end of a `framed` link on an event loop: the daemon's end of the way to a model host.

Both ends may call and be called. Calls started in one turn of the loop leave in one write, calls
read in one turn are handed to the handler in one list. Nothing here blocks, so that a peer which
blocks (a host) can never be waited for in a ring. A peer that streams faster than a reply takes is
not read until it does: that stops the whole link, which is right for a host and its own daemon.

The end of a link says nothing about who is to blame: the owner gets the unanswered calls, after
all that was still in the socket has been read, and resends or fails them. Call ids start at 1 and
are never used again.
"""

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.wire import frames
from modelmesh.wire.framed_reply import FrameReply
from modelmesh.wire.frames import Times
from modelmesh.wire.outbox import Outbox
from modelmesh.wire.replies import Messages, refused, unavailable
from modelmesh.wire.transport import Body, Call, Handler
from modelmesh.wire.turns import Turn

log = structlog.get_logger("wire")

READ_BYTES: Final = 1 << 18
HIGH_BYTES: Final = 1 << 20  # replies are slow while more than this waits unsent
HEAD_ROOM_BYTES: Final = 1 << 16  # of a frame, for what is not the body
MOST_UNSENT_BYTES: Final = 1 << 28  # calls are refused beyond it: the peer does not read
_READS_A_TURN: Final = 4
_READS_AT_END: Final = 64
_FULL = Failure(
    Code.RESOURCE_EXHAUSTED, "too much waits to be sent", Fault.CAPACITY, Reason.OVERLOADED
)


class FramedLink:
    """A `Caller` over a connected stream socket, which it owns from now on.

    `on_lost` is called once when the peer is gone (not after `close`), with the socket drained;
    within it the owner takes the `unanswered` calls, which are its own from then on. Without an
    owner they finish with UNAVAILABLE.
    """

    def __init__(
        self,
        sock: socket.socket,
        handler: Handler | None = None,
        *,
        on_lost: "Callable[[FramedLink], None] | None" = None,
        most_bytes: int = frames.MOST_BYTES,
    ) -> None:
        sock.setblocking(False)
        self.closed = False
        self._sock = sock
        # Kept, and what came is copied out of it: a fresh one for each read costs a mapping.
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self.most_bytes = most_bytes
        self._decoder = frames.Decoder(most_bytes + HEAD_ROOM_BYTES)
        self._turn = None if handler is None else Turn(handler, self._loop.call_soon)
        self._outbox = Outbox()
        self._flushing = False  # a flush is scheduled, or the socket is full
        self._paused = False
        self._last_id = 0
        self._offered_id = 0  # calls above this id were never offered to the socket
        self._waiting: dict[int, Call] = {}
        self._served: dict[int, _LinkReply] = {}
        self._when_writable: list[Callable[[], None]] = []
        self._loop.add_reader(sock, self._readable)

    # --- calling

    def start(self, call: Call) -> None:
        if refused(call, self.closed, self.most_bytes):
            return
        if self._outbox.unsent_bytes > MOST_UNSENT_BYTES:
            call.reply.finish(_FULL)
            return
        self.submit(call)

    def submit(self, call: Call) -> int:
        """`start`, for an owner that wants the call's id; the link must be up."""
        self._last_id = call_id = self._last_id + 1
        self._waiting[call_id] = call
        kind = frames.CALL if call.inbound is None else frames.OPEN
        self.put(frames.call(call_id, call.kind, call.metadata, call.deadline, call.body, kind))
        call.reply.when_gone(partial(self._left, call_id))
        if call.inbound is not None:
            call.inbound.listen(
                partial(self._inbound, call_id),
                partial(self._put_open, call_id, frames.sign(call_id, frames.INBOUND_END)),
            )
        return call_id

    def unanswered(self) -> dict[int, Call]:
        """The calls without an answer so far, by id, oldest first."""
        return dict(self._waiting)

    def withdraw(self, call_id: int) -> Call | None:
        """Cancel at the peer; the call, if it had no answer yet, is the owner's again."""
        call = self._waiting.pop(call_id, None)
        if call is not None and not self.closed:
            self.put(frames.sign(call_id, frames.CANCEL))
        return call

    def _left(self, call_id: int) -> None:
        self.withdraw(call_id)

    def never_written(self, call_id: int) -> bool:
        """Whether the peer provably has not a byte of this call."""
        return call_id > self._offered_id

    async def close(self) -> None:
        """Send what can be sent at once, end every open call, close the socket."""
        if not self.closed:
            self._flush_quietly()
            self._shut()
            self._fail_waiting()

    def lose(self) -> None:
        """The owner knows that the peer is dead: read what is left, then the link is lost."""
        self._read_some(_READS_AT_END)
        self._lost("declared dead")

    # --- writing

    def put(self, frame: tuple[Body, ...]) -> None:
        """Queue a frame; all frames of one turn leave together."""
        self._outbox.put(frame)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _put_open(self, call_id: int, frame: tuple[Body, ...]) -> None:
        if call_id in self._waiting:
            self.put(frame)

    def _inbound(self, call_id: int, message: Body) -> None:
        self._put_open(call_id, frames.message(call_id, message, frames.INBOUND))

    @property
    def slow(self) -> bool:
        """More than HIGH_BYTES wait unsent."""
        return self._outbox.unsent_bytes > HIGH_BYTES

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Call back once when not slow (soon, if that is now)."""
        if self.closed or not self.slow:
            self._loop.call_soon(callback)
        else:
            self._when_writable.append(callback)

    def _flush(self) -> None:
        if self.closed:
            return
        self._offered_id = self._last_id
        try:
            done = self._outbox.push(self._sock.send)
        except OSError as error:
            self._read_some(_READS_AT_END)
            self._lost(str(error))
            return
        self._flushing = not done
        if done:
            self._loop.remove_writer(self._sock)
        else:
            self._loop.add_writer(self._sock, self._flush)
        if self._when_writable and not self.slow:
            self._wake_writers()

    def _flush_quietly(self) -> None:
        try:
            self._offered_id = self._last_id
            self._outbox.push(self._sock.send)
        except OSError as error:
            log.debug("nothing could be sent at the end of a link", error=str(error))

    def _wake_writers(self) -> None:
        callbacks, self._when_writable = self._when_writable, []
        for callback in callbacks:
            self._loop.call_soon(callback)

    # --- reading

    def _readable(self) -> None:
        why = self._read_some(_READS_A_TURN)
        if why:
            self._lost(why)

    def _read_some(self, most_reads: int) -> str:
        """Read and take what is there, bounded; why the link is at its end, or ""."""
        for _ in range(most_reads):
            if self.closed:
                return ""
            try:
                count = self._sock.recv_into(self._buffer)
            except BlockingIOError:
                return ""
            except OSError as error:
                return str(error)
            if not count:
                return "end of stream"
            try:
                for frame in self._decoder.feed(bytes(self._buffer[:count])):
                    self._take_guarded(*frame)
            except frames.Malformed as error:
                return f"malformed: {error}"
            if count < READ_BYTES:
                return ""
        return ""

    def _take_guarded(self, frame_type: int, call_id: int, payload: Body) -> None:
        """Whatever a reply makes of its answer, the frames behind it are read."""
        try:
            self._take(frame_type, call_id, payload)
        except frames.Malformed:
            raise
        except Exception:
            log.exception("a reply failed", call_id=call_id)

    def _take(self, frame_type: int, call_id: int, payload: Body) -> None:
        if frame_type == frames.ANSWER:
            metadata, body, times = frames.parse_answer(payload)
            call = self._waiting.pop(call_id, None)
            self.timed(call_id, call, times)
            if call is not None:
                call.reply.answer(body, metadata)
        elif frame_type == frames.FINISH:
            failure, metadata, times = frames.parse_finish(payload)
            call = self._waiting.pop(call_id, None)
            self.timed(call_id, call, times)
            if call is not None:
                call.reply.finish(failure, metadata)
        elif frame_type == frames.MESSAGE:
            self._take_message(call_id, payload)
        elif self._turn is not None:
            self._take_request(self._turn, frame_type, call_id, payload)
        else:
            raise frames.Malformed(f"frame type {frame_type} where nobody serves")

    def timed(self, call_id: int, call: Call | None, times: Times) -> None:
        """What the peer says of a call that it ends (None: it was withdrawn). For subclasses."""

    def _take_message(self, call_id: int, payload: Body) -> None:
        call = self._waiting.get(call_id)
        if call is None:
            return
        call.reply.send(payload)
        if call.reply.slow and not self._paused:
            self._paused = True
            self._loop.remove_reader(self._sock)
            call.reply.when_writable(self._resume)
            call.reply.when_gone(self._resume)

    def _resume(self) -> None:
        if self._paused and not self.closed:
            self._paused = False
            self._loop.add_reader(self._sock, self._readable)

    def _take_request(self, turn: Turn, frame_type: int, call_id: int, payload: Body) -> None:
        if frame_type in (frames.CALL, frames.OPEN):
            kind, metadata, deadline, body = frames.parse_call(payload)
            inbound = Messages() if frame_type == frames.OPEN else None
            reply = _LinkReply(self, call_id, inbound)
            self._served[call_id] = reply
            turn.add(Call(kind, body, reply, metadata, deadline, inbound))
            return
        reply_or_none = self._served.get(call_id)
        if reply_or_none is None:
            return
        if frame_type == frames.CANCEL:
            reply_or_none.leave()
        elif frame_type == frames.INBOUND:
            reply_or_none.push(payload)
        elif frame_type == frames.INBOUND_END:
            reply_or_none.push_end()
        else:
            raise frames.Malformed(f"frame type {frame_type}")

    def forget(self, call_id: int) -> None:
        """A served call has ended."""
        self._served.pop(call_id, None)

    # --- the end

    def _lost(self, why: str) -> None:
        if self.closed:
            return
        log.info("a link is lost", why=why, unanswered=len(self._waiting))
        self._shut()
        if self._on_lost is not None:
            self._on_lost(self)
            self._waiting.clear()
        else:
            self._fail_waiting()

    def _shut(self) -> None:
        self.closed = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        self._outbox.clear()
        self._wake_writers()
        for reply in list(self._served.values()):
            reply.leave()

    def _fail_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for call_id, call in waiting.items():
            call.reply.finish(unavailable(executed=not self.never_written(call_id)))


class _LinkReply(FrameReply):
    """With the caller's further messages, where there are any."""

    __slots__ = ("_inbound",)

    def __init__(self, link: FramedLink, call_id: int, inbound: Messages | None) -> None:
        super().__init__(link, call_id)
        self._inbound = inbound

    def push(self, message: Body) -> None:
        """One more message of the caller; too many that nobody listens to end the call."""
        if self._inbound is not None:
            self._inbound.push(message)
            if self._inbound.kept_bytes > HIGH_BYTES:
                self.finish(Failure(Code.RESOURCE_EXHAUSTED, "nobody reads these messages"))

    def push_end(self) -> None:
        if self._inbound is not None:
            self._inbound.close()
