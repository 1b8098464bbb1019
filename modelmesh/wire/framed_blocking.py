"""The host's end of a `framed` link: one thread, no event loop, calls come in and answers go out.

A host runs models, so it does one thing at a time and blocks where it has nothing to do. It reads
all that is there, hands all calls over in one list, and writes all answers in one send before it
blocks again. A handler with many calls asks between its steps: `flush` puts the answers into the
socket (a host does so before each journal entry), `poll` says what has arrived or was cancelled.

Never used in the daemon: `flush` waits for the peer to read.
"""

import select
import socket
from collections.abc import Callable
from math import ceil
from typing import Final

from modelmesh.errors import Code, Failure
from modelmesh.wire import frames
from modelmesh.wire.framed_reply import FrameReply
from modelmesh.wire.outbox import Outbox
from modelmesh.wire.transport import Body, Call, Metadata
from modelmesh.wire.turns import hand_over

READ_BYTES: Final = 1 << 18
HIGH_BYTES: Final = 1 << 20
HEAD_ROOM_BYTES: Final = 1 << 16
_UNARY_ONLY = Failure(Code.UNIMPLEMENTED, "a model host takes unary calls only")


class NumberedCall(Call):
    """A call that knows its id on the link (the journal names calls by it)."""

    __slots__ = ("call_id",)

    def __init__(
        self,
        call_id: int,
        kind: str,
        body: Body,
        reply: FrameReply,
        metadata: Metadata,
        deadline: float,
    ) -> None:
        super().__init__(kind, body, reply, metadata, deadline)
        self.call_id = call_id


class FramedServer:
    """Serves the calls of one connected, blocking stream socket, which it owns from now on.

    Takes unary calls only; a streaming one is answered UNIMPLEMENTED. When the link ends, every
    open call is `gone` and `serve` returns. `frames.Malformed` if the daemon speaks no frames.
    """

    def __init__(
        self,
        sock: socket.socket,
        handler: Callable[[list[NumberedCall]], None],
        *,
        most_bytes: int = frames.MOST_BYTES,
    ) -> None:
        sock.setblocking(True)
        self.most_bytes = most_bytes
        self._sock = sock
        self._handler = handler
        # Kept, and what came is copied out of it: a fresh one for each read costs a mapping.
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._decoder = frames.Decoder(most_bytes + HEAD_ROOM_BYTES)
        self._outbox = Outbox()
        self._arrived: list[NumberedCall] = []
        self._open: dict[int, FrameReply] = {}
        self._when_writable: list[Callable[[], None]] = []
        self._stopped = False
        self._ended = False

    def serve(
        self,
        idle: Callable[[], None] = lambda: None,
        idle_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        """Serve until the daemon ends the link, or `stop`.

        `idle` is called each time that nothing has come for `idle_s()` seconds, which is asked
        anew before each wait; None waits for ever.
        """
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while not self._stopped:
            wait_s = idle_s()
            if wait_s is not None and not poll.poll(ceil(max(0.0, wait_s) * 1000)):
                idle()
                self.flush()
                continue
            self._read(0)
            calls = self._take_arrived()
            if calls:
                hand_over(self._handler, calls)
            self.flush()
        self._end()
        self._sock.close()

    def stop(self) -> None:
        """`serve` returns once its handler has, with all answers written."""
        self._stopped = True

    def poll(self) -> list[NumberedCall]:
        """Never blocks: what has arrived since; cancelled calls are `gone` from now on."""
        self._read(socket.MSG_DONTWAIT)
        return self._take_arrived()

    def flush(self) -> None:
        """Every answer given so far is in the socket; waits for the peer to make room."""
        if self._outbox.unsent_bytes and not self._ended:
            try:
                self._outbox.push(self._sock.send)
            except OSError:  # the daemon is gone
                self._end()
        if self._when_writable:
            callbacks, self._when_writable = self._when_writable, []
            for callback in callbacks:
                callback()

    @property
    def ended(self) -> bool:
        """The link is lost: what was not flushed before will never be."""
        return self._ended

    @property
    def slow(self) -> bool:
        """More than HIGH_BYTES wait for a `flush`."""
        return self._outbox.unsent_bytes > HIGH_BYTES

    def put(self, frame: tuple[Body, ...]) -> None:
        """Queue a frame for the next flush."""
        self._outbox.put(frame)

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Call back once after the next flush."""
        self._when_writable.append(callback)

    def forget(self, call_id: int) -> None:
        """A call has ended."""
        self._open.pop(call_id, None)

    def _take_arrived(self) -> list[NumberedCall]:
        if not self._arrived:
            return []
        arrived, self._arrived = self._arrived, []
        return [call for call in arrived if not call.reply.gone]

    def _read(self, flags: int) -> None:
        """Block (unless told not to) for the first bytes, then take all that is there."""
        while not self._ended:
            try:
                count = self._sock.recv_into(self._buffer, 0, flags)
            except BlockingIOError:
                return
            except OSError:  # the daemon is gone, with our answers unread
                count = 0
            if not count:
                self._end()
                return
            for frame_type, call_id, payload in self._decoder.feed(bytes(self._buffer[:count])):
                self._take(frame_type, call_id, payload)
            if count < READ_BYTES:
                return
            flags = socket.MSG_DONTWAIT

    def _take(self, frame_type: int, call_id: int, payload: Body) -> None:
        if frame_type == frames.CALL:
            kind, metadata, deadline, body = frames.parse_call(payload)
            reply = self._open[call_id] = FrameReply(self, call_id)
            self._arrived.append(NumberedCall(call_id, kind, body, reply, metadata, deadline))
        elif frame_type == frames.CANCEL:
            left = self._open.get(call_id)
            if left is not None:
                left.leave()
                if left.read_s >= 0:  # the work was done, though nobody waits for what came of it
                    self.put(frames.finish(call_id, times=(left.read_s, left.written_s)))
        elif frame_type == frames.OPEN:
            self.put(frames.finish(call_id, _UNARY_ONLY))
        elif frame_type not in (frames.INBOUND, frames.INBOUND_END):
            raise frames.Malformed(f"frame type {frame_type} at a host")

    def _end(self) -> None:
        self._stopped = self._ended = True
        self._outbox.clear()
        for reply in list(self._open.values()):
            reply.leave()
