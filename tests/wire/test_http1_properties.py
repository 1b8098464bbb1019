"""An HTTP/1.1 connection fed by hand: how bytes are cut never matters, and no bytes break it."""

import asyncio
from collections.abc import Iterable
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from modelmesh.wire.http1_connection import Connection
from modelmesh.wire.http1_port import Http1Limits, Port
from modelmesh.wire.transport import Call
from tests.wire.http1_serving import get, post

LIMITS = Http1Limits(header_bytes=400, url_bytes=200, body_bytes=300)
CHUNKED = (
    b"POST /c HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    b"3;x\r\nabc\r\n2\r\nde\r\n0\r\nt: u\r\n\r\n"
)
UPGRADE = post("/u", b"body", "Connection: Upgrade", "Upgrade: h2c", "mm-timeout-ms: 100000")
EXPECT = post("/e", b"body", "expect: 100-continue")
GOOD = [
    get("/"),
    get("/a?b=c", "X-Y: z"),
    get("/h", method="HEAD"),
    post("/p", b"x" * 250, "b-bin: AP8="),
    CHUNKED,
    UPGRADE,
    EXPECT,
]
BAD = [
    b"BREW /\r\n\r\n",
    b"GET / HTTP/1.1\r\nx y\r\n\r\n",
    get("/" + "x" * 300),
    post("/", b"x" * 301),
]


class Kept(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closing = self.ended = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing
        assert not self.ended
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


def heard(chunks: Iterable[bytes]) -> tuple[list[tuple[object, ...]], bytes, bool]:
    """The calls that a connection makes of these reads, what it writes, and whether it closes."""
    calls: list[Call] = []

    def handle(arrived: list[Call]) -> None:
        calls.extend(arrived)
        for call in arrived:
            call.reply.answer(call.body)

    loop = asyncio.new_event_loop()
    try:
        port = Port(handle, LIMITS, loop)
        port.date("now")
        connection, transport = Connection(port), Kept()
        connection.connection_made(transport)
        for chunk in chunks:
            if not transport.closing:
                connection.data_received(chunk)
            loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
        left = not transport.closing and not transport.ended
        connection.connection_lost(None)
        assert port.calls == 0
        assert not port.connections
    finally:
        loop.close()
    seen = [(call.kind, bytes(call.body), call.metadata) for call in calls]
    return list(seen), bytes(transport.written), left


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges) if a < b]


@given(
    st.lists(st.sampled_from(GOOD), min_size=1, max_size=6),
    st.sampled_from([b"", *BAD]),
    st.lists(st.integers(0, 5000), max_size=12),
)
@example(GOOD, b"", range(2000))
def test_how_a_stream_is_cut_never_matters(
    good: list[bytes], bad: bytes, places: Iterable[int]
) -> None:
    stream = b"".join(good) + bad
    calls, written, left = heard([stream])
    assert len(calls) == len(good)
    assert left == (not bad)
    assert heard(cut(stream, places)) == (calls, written, left)


@given(st.data())
def test_no_bytes_break_a_connection(data: st.DataObject) -> None:
    stream = bytearray(b"".join(data.draw(st.lists(st.sampled_from(GOOD), max_size=4))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(stream)))
        more = data.draw(st.integers(0, 3))
        stream[at : at + more] = data.draw(st.binary(max_size=6))
    calls, written, _ = heard(cut(bytes(stream), data.draw(st.lists(st.integers(0, 5000)))))
    assert written == b"" or written.startswith(b"HTTP/1.1 ")
    assert written.count(b"HTTP/1.1 ") >= len(calls)
