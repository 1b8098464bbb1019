"""The replies and inbound streams of a grpc.aio server: what a coroutine waits for."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from modelmesh.errors import Code, Failure, Fault
from modelmesh.wire.replies import Messages, OpenReply
from modelmesh.wire.transport import NO_METADATA, Body, Metadata

HIGH_BYTES: Final = 1 << 20


class UnaryReply(OpenReply):
    """One message and a status; `future` is done when both are there."""

    __slots__ = ("_loop", "_messages", "body", "failure", "future", "metadata")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._messages = 0
        self.future: asyncio.Future[None] = loop.create_future()
        self.body = b""
        self.failure: Failure | None = None
        self.metadata: Metadata = NO_METADATA

    @property
    def slow(self) -> bool:
        return False

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        if not self.gone:
            self.send(body)
            self.finish(None, metadata)

    def send(self, message: Body) -> None:
        if not self.gone:
            self.body = message if isinstance(message, bytes) else bytes(message)
            self._messages += 1

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        if self.gone:
            return
        self.end()
        if failure is None and self._messages != 1:
            failure = Failure(
                Code.INTERNAL,
                f"a unary call was answered with {self._messages} messages",
                Fault.PEER,
                executed=True,
            )
        self.failure = failure
        self.metadata = metadata
        if not self.future.done():
            self.future.set_result(None)

    def when_writable(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(callback)


class StreamReply(OpenReply):
    """Messages in a queue that the call's coroutine writes out; `slow` while it is long."""

    __slots__ = (
        "_loop",
        "_queue",
        "_something",
        "_unsent_bytes",
        "_when_writable",
        "failure",
        "metadata",
        "sent",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._queue: deque[bytes] = deque()
        self._something = asyncio.Event()
        self._unsent_bytes = 0
        self._when_writable: list[Callable[[], None]] = []
        self.failure: Failure | None = None
        self.metadata: Metadata = NO_METADATA
        self.sent = False

    @property
    def slow(self) -> bool:
        return not self.gone and self._unsent_bytes > HIGH_BYTES

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        if not self.gone:
            self.send(body)
            self.finish(None, metadata)

    def send(self, message: Body) -> None:
        if not self.gone:
            self._queue.append(bytes(message))
            self._unsent_bytes += len(message)
            self._something.set()

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        if not self.gone:
            self.end()
            self.failure = failure
            self.metadata = metadata
            self._something.set()

    def when_writable(self, callback: Callable[[], None]) -> None:
        if self.slow:
            self._when_writable.append(callback)
        else:
            self._loop.call_soon(callback)

    async def next(self) -> bytes | None:
        """The next message to write; None when the reply has ended and all is written."""
        while not self._queue:
            if self.gone:
                return None
            self._something.clear()
            await self._something.wait()  # bounded by the call: leaving it cancels the coroutine
        return self._queue.popleft()

    def written(self, size: int) -> None:
        """A message has been taken by the transport."""
        self.sent = True
        self._unsent_bytes -= size
        if self._when_writable and not self.slow:
            self._wake()

    def leave(self) -> None:
        super().leave()
        self._wake()

    def _wake(self) -> None:
        callbacks, self._when_writable = self._when_writable, []
        for callback in callbacks:
            self._loop.call_soon(callback)


class StreamInbound(Messages):
    """Says when somebody listens: only then is the caller's stream read."""

    __slots__ = ("listened",)

    def __init__(self) -> None:
        super().__init__()
        self.listened = asyncio.Event()

    def listen(self, message: Callable[[Body], None], end: Callable[[], None]) -> None:
        super().listen(message, end)
        self.listened.set()
