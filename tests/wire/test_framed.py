"""What only the framed links promise: ids, unanswered calls, and the host's blocking end."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from modelmesh.errors import Code, Failure, MeshError
from modelmesh.wire import frames
from modelmesh.wire.awaiting import FutureReply, ask
from modelmesh.wire.framed import FramedLink
from modelmesh.wire.framed_blocking import FramedServer, NumberedCall
from modelmesh.wire.framed_reply import FrameReply
from modelmesh.wire.transport import Body, Call
from tests.wire.harnesses import until

KIND = "/test/Call"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


class Owned:
    """A link whose owner keeps what it was left with."""

    def __init__(self, sock: socket.socket, most_bytes: int = frames.MOST_BYTES) -> None:
        self.left: list[dict[int, Call]] = []
        self.link = FramedLink(sock, on_lost=self.lost, most_bytes=most_bytes)

    def lost(self, link: FramedLink) -> None:
        self.left.append(link.unanswered())

    def call(self, body: bytes) -> tuple[int, FutureReply]:
        reply = FutureReply()
        return self.link.submit(Call(KIND, body, reply)), reply


@pytest.fixture
async def owned(pair: tuple[socket.socket, socket.socket]) -> AsyncIterator[Owned]:
    owner = Owned(pair[0])
    yield owner
    await owner.link.close()


async def test_the_owner_gets_the_unanswered_calls_after_the_last_answer(
    owned: Owned, pair: tuple[socket.socket, socket.socket]
) -> None:
    """A host that answers and dies: what it wrote counts, the rest is the owner's."""
    ids = [owned.call(b"%d" % n) for n in range(3)]
    pair[1].sendall(b"".join(frames.answer(ids[1][0], b"done")))
    pair[1].close()
    await until(lambda: owned.left)
    assert await ids[1][1].future == [b"done"]
    assert [list(left) for left in owned.left] == [[ids[0][0], ids[2][0]]]
    assert not ids[0][1].future.done()
    assert not owned.link.unanswered()


async def test_what_never_left_is_known(pair: tuple[socket.socket, socket.socket]) -> None:
    """Without an owner, `executed` tells whether the peer may have had the call."""
    link = FramedLink(pair[0])
    first, second = FutureReply(), FutureReply()
    link.start(Call(KIND, b"", first))
    await asyncio.sleep(0)
    link.start(Call(KIND, b"", second))
    link.lose()
    failures = []
    for reply in (first, second):
        with pytest.raises(MeshError) as caught:
            await reply.future
        failures.append((caught.value.failure.code, caught.value.failure.executed))
    assert failures == [(Code.UNAVAILABLE, True), (Code.UNAVAILABLE, False)]


async def test_ids_are_never_used_again(owned: Owned) -> None:
    ids = []
    for _ in range(5):
        call_id, _ = owned.call(b"")
        ids.append(call_id)
        assert owned.link.withdraw(call_id) is not None
    assert ids == [1, 2, 3, 4, 5]


async def test_a_withdrawn_call_is_the_owners_and_its_answer_is_dropped(
    owned: Owned, pair: tuple[socket.socket, socket.socket]
) -> None:
    call_id, reply = owned.call(b"move me")
    other_id, other = owned.call(b"stay")
    call = owned.link.withdraw(call_id)
    assert call is not None
    assert call.body == b"move me"
    assert owned.link.withdraw(call_id) is None
    pair[1].sendall(b"".join((*frames.answer(call_id, b"x"), *frames.answer(other_id, b"y"))))
    assert await other.future == [b"y"]
    assert not reply.future.done()


@pytest.mark.parametrize(
    "hostile",
    [
        b"\xff\xff\xff\xff" + bytes(20),
        b"".join(frames.call(1, KIND, (), 1.0, b"")),
        b"".join(frames.message(1, b"\xff", frames.ANSWER)),
        b"".join(frames.message(1, b"", 99)),
    ],
    ids=["too long", "a call", "a short answer", "no type"],
)
async def test_a_peer_that_talks_nonsense_is_lost(
    owned: Owned, pair: tuple[socket.socket, socket.socket], hostile: bytes
) -> None:
    call_id, _ = owned.call(b"")
    pair[1].sendall(hostile)
    await until(lambda: owned.left)
    assert list(owned.left[0]) == [call_id]
    assert owned.link.closed


async def test_an_answer_to_a_call_that_never_was_is_ignored(
    owned: Owned, pair: tuple[socket.socket, socket.socket]
) -> None:
    call_id, reply = owned.call(b"")
    pair[1].sendall(b"".join((*frames.answer(77, b"x"), *frames.answer(call_id, b"y"))))
    assert await reply.future == [b"y"]


async def test_a_reply_that_raises_does_not_stop_the_answers_behind_it(
    owned: Owned, pair: tuple[socket.socket, socket.socket]
) -> None:
    broken_id = owned.link.submit(Call(KIND, b"", Raising()))
    call_id, reply = owned.call(b"")
    pair[1].sendall(b"".join((*frames.answer(broken_id, b"x"), *frames.answer(call_id, b"y"))))
    assert await reply.future == [b"y"]


class Raising(FutureReply):
    def answer(self, body: object, metadata: object = ()) -> None:
        raise RuntimeError("on purpose")


async def test_a_body_above_the_limit_is_refused_before_it_is_sent(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    link = FramedLink(pair[0], most_bytes=1000)
    with pytest.raises(MeshError) as caught:
        await ask(link, KIND, bytes(1001))
    assert caught.value.failure.code == Code.RESOURCE_EXHAUSTED
    await link.close()


# --- the host's end, driven by hand: no thread, the test writes and reads the other socket


class Host:
    """A blocking server on one socket of a pair, and the daemon's view of the other."""

    def __init__(self, pair: tuple[socket.socket, socket.socket]) -> None:
        self.daemon = pair[0]
        self.daemon.settimeout(5)
        self.decoder = frames.Decoder()
        self.lists: list[list[tuple[int, bytes]]] = []
        self.server = FramedServer(pair[1], self.handle, most_bytes=1 << 20)

    def handle(self, calls: list[NumberedCall]) -> None:
        self.lists.append([(call.call_id, bytes(call.body)) for call in calls])
        for call in calls:
            call.reply.answer(call.body)

    def say(self, *parts: tuple[Body, ...]) -> None:
        self.daemon.sendall(b"".join(b"".join(part) for part in parts))

    def heard(self) -> list[tuple[int, int, bytes]]:
        data = self.daemon.recv(1 << 18)
        return [(kind, ident, bytes(body)) for kind, ident, body in self.decoder.feed(data)]


@pytest.fixture
def host(pair: tuple[socket.socket, socket.socket]) -> Host:
    return Host(pair)


def call(call_id: int, body: bytes = b"") -> tuple[Body, ...]:
    return frames.call(call_id, KIND, (), 1e9, body)


def test_all_that_is_there_is_handled_in_one_list_and_answered(host: Host) -> None:
    host.say(call(1, b"a"), call(2, b"b"), call(3, b"c"))
    host.daemon.shutdown(socket.SHUT_WR)
    host.server.serve()
    assert host.lists == [[(1, b"a"), (2, b"b"), (3, b"c")]]
    answers = [(ident, frames.parse_answer(body)[1]) for _, ident, body in host.heard()]
    assert answers == [(1, b"a"), (2, b"b"), (3, b"c")]


def test_a_call_cancelled_before_it_is_handled_never_reaches_the_handler(host: Host) -> None:
    host.say(call(1, b"a"), call(2, b"b"), frames.sign(1, frames.CANCEL))
    host.daemon.shutdown(socket.SHUT_WR)
    host.server.serve()
    assert host.lists == [[(2, b"b")]]


@pytest.mark.parametrize("read", [True, False])
def test_a_cancelled_call_that_was_read_is_ended_with_its_times(
    pair: tuple[socket.socket, socket.socket], read: bool
) -> None:
    daemon, theirs = pair

    def handle(calls: list[NumberedCall]) -> None:
        reply = calls[0].reply
        assert isinstance(reply, FrameReply)
        if read:
            reply.read_s = 0.5
        daemon.sendall(b"".join(frames.sign(1, frames.CANCEL)))
        server.poll()
        assert reply.gone
        server.stop()

    server = FramedServer(theirs, handle)
    daemon.sendall(b"".join(call(1)))
    server.serve()
    ended = list(frames.Decoder().feed(daemon.recv(1000)))
    times = [(ident, frames.parse_finish(payload)[2]) for _, ident, payload in ended]
    assert times == ([(1, (0.5, frames.NOT_TOLD))] if read else [])


def test_between_two_steps_a_handler_flushes_and_polls(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    daemon, theirs = pair
    seen: list[object] = []

    def handle(calls: list[NumberedCall]) -> None:
        first, second = calls
        first.reply.answer(b"first")
        server.flush()
        answer = next(iter(frames.Decoder().feed(daemon.recv(1000))))
        seen.append(("flushed", answer[1]))
        assert server.poll() == []
        daemon.sendall(b"".join((*frames.sign(2, frames.CANCEL), *call(3, b"new"))))
        seen.append(("polled", [new.call_id for new in server.poll()]))
        seen.append(("gone", second.reply.gone))
        server.stop()

    server = FramedServer(theirs, handle)
    daemon.sendall(b"".join((*call(1), *call(2))))
    server.serve()
    assert seen == [("flushed", 1), ("polled", [3]), ("gone", True)]


def test_a_daemon_that_dies_ends_the_host(pair: tuple[socket.socket, socket.socket]) -> None:
    """The answer cannot be written: serve returns, and whoever works on a call is told."""
    daemon, theirs = pair
    gone: list[bool] = []

    def handle(calls: list[NumberedCall]) -> None:
        calls[0].reply.when_gone(lambda: gone.append(True))
        daemon.close()
        calls[1].reply.answer(b"x")

    server = FramedServer(theirs, handle)
    daemon.sendall(b"".join((*call(1), *call(2))))
    server.serve()
    assert gone == [True]


def test_an_answer_above_the_limit_becomes_a_failure(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    daemon, theirs = pair
    server = FramedServer(theirs, lambda calls: calls[0].reply.answer(bytes(11)), most_bytes=10)
    daemon.sendall(b"".join(call(1)))
    daemon.shutdown(socket.SHUT_WR)
    server.serve()
    ((kind, _, payload),) = frames.Decoder().feed(daemon.recv(1000))
    failure = frames.parse_finish(payload)[0]
    assert (kind, failure and failure.code) == (frames.FINISH, Code.RESOURCE_EXHAUSTED)


def test_a_streaming_call_is_refused(host: Host) -> None:
    host.say(
        frames.call(1, KIND, (), 1e9, b"", frames.OPEN), frames.message(1, b"", frames.INBOUND)
    )
    host.daemon.shutdown(socket.SHUT_WR)
    host.server.serve()
    ((_, _, payload),) = host.heard()
    failure = frames.parse_finish(payload)[0]
    assert isinstance(failure, Failure)
    assert failure.code == Code.UNIMPLEMENTED


def test_nonsense_of_a_daemon_raises_malformed(host: Host) -> None:
    host.say((b"\0\0\0\0",))
    with pytest.raises(frames.Malformed):
        host.server.serve()


def test_idle_is_called_when_nothing_comes(host: Host) -> None:
    host.server.serve(host.server.stop, lambda: 0.001)
    assert host.lists == []
