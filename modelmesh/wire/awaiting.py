"""Awaitables over the transport interface, for code that reads better that way.

`ask` is for management calls and tests; the request path uses reply handles directly, since a
future per request is what the interface exists to avoid.
"""

import asyncio
from collections.abc import Callable

from modelmesh.errors import Code, Failure, MeshError
from modelmesh.wire.transport import (
    NO_DEADLINE,
    NO_METADATA,
    Body,
    Call,
    Caller,
    Metadata,
)


class FutureReply:
    """A reply handle that collects messages and resolves a future when the reply ends."""

    __slots__ = ("_gone", "_when_gone", "future", "messages", "metadata")

    def __init__(self) -> None:
        self.future: asyncio.Future[list[Body]] = asyncio.get_running_loop().create_future()
        self.messages: list[Body] = []
        self.metadata: Metadata = NO_METADATA
        self._when_gone: list[Callable[[], None]] = []
        self._gone = False

    @property
    def gone(self) -> bool:
        return self._gone or self.future.done()

    @property
    def slow(self) -> bool:
        return False

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        if not self.gone:
            self.messages.append(body)
            self.finish(None, metadata)

    def send(self, message: Body) -> None:
        if not self.gone:
            self.messages.append(message)

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        if self.gone:
            return
        self.metadata = metadata
        self._when_gone.clear()
        if failure is None:
            self.future.set_result(self.messages)
        else:
            self.future.set_exception(MeshError(failure))

    def when_gone(self, callback: Callable[[], None]) -> None:
        if self._gone:
            callback()
        elif not self.future.done():
            self._when_gone.append(callback)

    def when_writable(self, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(callback)

    def leave(self) -> None:
        """The asker gives up: whoever works on the call is told."""
        if self._gone or (self.future.done() and not self.future.cancelled()):
            return  # a future that was cancelled while it was awaited is no answer
        self._gone = True
        callbacks, self._when_gone = self._when_gone, []
        for callback in callbacks:
            callback()


async def ask(
    caller: Caller,
    kind: str,
    body: Body,
    metadata: Metadata = NO_METADATA,
    deadline: float = NO_DEADLINE,
) -> Body:
    """One unary call; raises `MeshError`. Leaves (and so cancels) when cancelled or too late."""
    reply = FutureReply()
    caller.start(Call(kind, body, reply, metadata, deadline))
    limit = None if deadline == NO_DEADLINE else deadline - asyncio.get_running_loop().time()
    try:
        messages = await asyncio.wait_for(reply.future, limit)
    except TimeoutError:
        raise MeshError(Failure(Code.DEADLINE_EXCEEDED, "deadline exceeded")) from None
    finally:
        reply.leave()
    if len(messages) != 1:
        raise MeshError(Failure(Code.INTERNAL, f"{kind} answered {len(messages)} messages"))
    return messages[0]
