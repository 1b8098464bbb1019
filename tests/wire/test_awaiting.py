"""Awaiting an answer: who stops waiting, by whatever way, takes the call along."""

import asyncio

import pytest

from modelmesh.errors import Code, MeshError
from modelmesh.wire.awaiting import FutureReply, ask
from modelmesh.wire.transport import Call


class Silent:
    """A caller whose callee never answers."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.left: list[Call] = []

    def start(self, call: Call) -> None:
        self.calls.append(call)
        call.reply.when_gone(lambda: self.left.append(call))

    async def close(self) -> None: ...


async def test_who_is_cancelled_leaves() -> None:
    caller = Silent()
    asking = asyncio.create_task(ask(caller, "kind", b""))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert caller.left == caller.calls


async def test_who_is_too_late_leaves() -> None:
    caller = Silent()
    deadline = asyncio.get_running_loop().time() + 0.01
    with pytest.raises(MeshError) as caught:
        await ask(caller, "kind", b"", deadline=deadline)
    assert caught.value.failure.code is Code.DEADLINE_EXCEEDED
    assert caller.left == caller.calls


async def test_who_was_answered_does_not_leave() -> None:
    caller = Silent()
    asking = asyncio.create_task(ask(caller, "kind", b""))
    await asyncio.sleep(0)
    caller.calls[0].reply.answer(b"answer")
    assert await asking == b"answer"
    assert caller.left == []


async def test_who_leaves_is_told_of_once() -> None:
    reply, told = FutureReply(), list[int]()
    reply.when_gone(lambda: told.append(1))
    reply.future.cancel()
    reply.leave()
    reply.leave()
    assert told == [1]
