"""Methods with protobuf messages, and calls whose answer has to be waited for.

Everything but inference itself: management, listings, metrics. Such a call gets a task, and tasks
are bounded twice: so many at a time, and none for longer than its caller waits or `longest_s`.
A caller that leaves takes its task along; what was begun at a door (a commit, a load) ends as the
door has it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, Self, TypeVar

from google.protobuf.message import DecodeError

from modelmesh.api.dispatch import Method, fail
from modelmesh.errors import Code, Failure, Fault, MeshError, Reason, invalid
from modelmesh.observe.tasks import spawn, stop
from modelmesh.wire.transport import NO_METADATA, Body, Call, Metadata

# Tasks at a time: a caller per model being loaded by hand, and room for listings beside them.
MOST_TASKS: Final = 1024
# Longer than any load, download included, that somebody would wait for in one call.
LONGEST_S: Final = 3600.0

_BUSY = Failure(
    Code.RESOURCE_EXHAUSTED,
    "too many management calls are open",
    Fault.CAPACITY,
    Reason.OVERLOADED,
    retry_after_s=1.0,
)
_LATE = Failure(Code.DEADLINE_EXCEEDED, "deadline exceeded", reason=Reason.DEADLINE, executed=True)


class Message(Protocol):
    """A protobuf message, as far as it is needed here."""

    @classmethod
    def FromString(cls, s: bytes) -> Self: ...

    def SerializeToString(self) -> bytes: ...


M = TypeVar("M", bound=Message)

Answer = tuple[Body, Metadata]


def parsed(message: type[M], body: Body) -> M:
    """The body as a message; INVALID_ARGUMENT if it is none."""
    try:
        return message.FromString(bytes(body))
    except DecodeError:
        raise invalid(f"malformed {message.__name__}") from None


def at_once(request: type[M], method: Callable[[M], Message]) -> Method:
    """A unary method that need not wait."""

    def answer(call: Call) -> None:
        call.reply.answer(method(parsed(request, call.body)).SerializeToString())

    return answer


class Tasks:
    """Answers calls from tasks of their own, a bounded number of them; `first` comes before each
    and may refuse it."""

    def __init__(
        self,
        most: int = MOST_TASKS,
        longest_s: float = LONGEST_S,
        first: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._most = most
        self._longest_s = longest_s
        self._first = first
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def method(self, request: type[M], method: Callable[[M], Awaitable[Message]]) -> Method:
        """A unary method that waits for something."""
        return self.method_of_call(request, lambda asked, _call: method(asked))

    def method_of_call(
        self, request: type[M], method: Callable[[M, Call], Awaitable[Message]]
    ) -> Method:
        """The same for one that looks at more of the call than its message."""

        def answer(call: Call) -> None:
            asked = parsed(request, call.body)

            async def work() -> Answer:
                return (await method(asked, call)).SerializeToString(), NO_METADATA

            self.answer(call, work)

        return answer

    def answer(self, call: Call, work: Callable[[], Awaitable[Answer]]) -> None:
        """Answer with what comes of the work; refuse if too much is under way."""
        if len(self._running) >= self._most:
            raise MeshError(_BUSY)
        task = spawn(self._run(call, work), f"answer {call.kind}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

        def leave() -> None:
            task.cancel()

        call.reply.when_gone(leave)

    async def close(self) -> None:
        """Give up what is still under way; the calls have been ended by their wire."""
        await stop(*self._running)

    async def _run(self, call: Call, work: Callable[[], Awaitable[Answer]]) -> None:
        end = min(call.deadline, asyncio.get_running_loop().time() + self._longest_s)
        bound = asyncio.timeout_at(end)
        try:
            async with bound:
                if self._first is not None:
                    await self._first()
                body, metadata = await work()
        except Exception as error:
            if bound.expired():
                call.reply.finish(_LATE)
            else:
                fail(call, error)
        else:
            call.reply.answer(body, metadata)
