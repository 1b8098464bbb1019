"""The HTTP/1.1 server and callers that leave, dawdle, come in crowds, or break HTTP's rules."""

import json
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest

from modelmesh.wire.http1 import Http1Limits
from modelmesh.wire.transport import Reply
from tests.wire.harnesses import until
from tests.wire.http1_serving import (
    Answer,
    RawCaller,
    Running,
    Start,
    get,
    nothing,
    post,
    start,
)

__all__ = ["start"]  # the fixture

SMALL = Http1Limits(header_bytes=600, url_bytes=300, body_bytes=1000, linger_s=60.0)
CHUNKED = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"


# --- callers that leave, read slowly, or come too many


def test_a_caller_that_leaves_is_noticed(start: Start) -> None:
    server = start(nothing)
    told: list[int] = []
    caller = server.caller()
    caller.write(get("/") * 2)
    server.until(lambda: len(server.calls) == 2)
    for n, call in enumerate(server.calls):
        server.at(partial(call.reply.when_gone, partial(told.append, n)))
    caller.close()
    server.until(lambda: told == [0, 1])
    for call in server.calls:
        assert call.reply.gone
        server.at(partial(call.reply.answer, b"to nobody"))


def test_a_slow_reader_slows_the_writer_and_is_not_read(start: Start) -> None:
    server = start(nothing, limits=Http1Limits(unsent_bytes=4096))
    caller = server.caller(receive_buffer=4096)
    caller.write(get("/"))
    server.until(lambda: server.calls)
    reply = server.calls[0].reply
    sent = 0
    while not stays_slow(server, reply):
        assert sent < 5000, "never slow"
        server.at(partial(reply.send, bytes(4096)))
        sent += 1
    told: list[bool] = []
    server.at(lambda: reply.when_writable(lambda: told.append(reply.slow)))
    caller.write(get("/unread"))
    assert server.at(lambda: told) == []
    answers: list[Answer] = []
    server.at(lambda: reply.when_writable(reply.finish))
    answers.append(caller.read())
    assert len(answers[0].body) == sent * 4096
    assert told == [False]
    server.until(lambda: len(server.calls) == 2)


def stays_slow(server: Running, reply: Reply) -> bool:
    """Slow now, and not only until the kernel has made room once more."""
    if not server.at(lambda: reply.slow):
        return False
    with suppress(AssertionError):
        server.wait(until(lambda: not reply.slow, bound_s=0.1))
        return False
    return True


def test_what_is_said_out_of_turn_is_slow_beyond_the_limit(start: Start) -> None:
    server = start(nothing, limits=Http1Limits(unsent_bytes=4096))
    caller = server.caller()
    caller.write(get("/a") + get("/b"))
    server.until(lambda: len(server.calls) == 2)
    first, second = (call.reply for call in server.calls)
    server.at(partial(second.send, bytes(5000)))
    told: list[bool] = []
    assert second.slow
    server.at(lambda: second.when_writable(lambda: told.append(second.slow)))
    server.at(partial(first.answer, b"1"))
    server.until(lambda: told == [False])
    server.at(second.finish)
    assert [len(caller.read().body), len(caller.read().body)] == [1, 5000]


def test_only_so_many_requests_are_read_ahead(start: Start) -> None:
    server = start(nothing, limits=Http1Limits(pipelined=4))
    caller = server.caller()
    for n in range(12):
        caller.write(post("/", b"%d" % n + bytes(60_000)))
    server.until(lambda: len(server.calls) >= 4)
    assert server.at(lambda: len(server.calls)) < 12
    for n in range(12):
        server.until(partial(has_calls, server, n + 1))
        server.at(partial(server.calls[n].reply.answer, b"%d" % n))
        assert caller.read().body == b"%d" % n


def has_calls(server: Running, count: int) -> bool:
    return len(server.calls) >= count


def test_calls_beyond_the_limit_are_told_to_come_back(start: Start) -> None:
    server = start(nothing, limits=Http1Limits(calls=2))
    waiting = [server.caller(), server.caller()]
    for caller in waiting:
        caller.write(get("/"))
    server.until(lambda: len(server.calls) == 2)
    late = server.caller()
    answer = late.ask(get("/"))
    assert (answer.status, answer.header("retry-after")) == (429, "1")
    server.at(partial(server.calls[0].reply.answer, b""))
    waiting[0].read()
    late.write(get("/"))
    server.until(lambda: len(server.calls) == 3)


def test_connections_beyond_the_limit_are_told_so(start: Start) -> None:
    server = start(limits=Http1Limits(connections=1))
    first = server.caller()
    assert first.ask(get("/")).status == 200
    second = server.caller()
    assert second.read().said == (503, b'{"error":"too many connections"}')
    assert second.closed()
    first.close()
    server.until(lambda: server.server.connections == 0)
    assert server.caller().ask(get("/")).status == 200


# --- time


IDLE_S = 0.2
QUICK = Http1Limits(head_s=0.05, body_s=0.05, idle_s=IDLE_S, linger_s=0.05)
SLOW_ONLY = replace(Http1Limits(), linger_s=0.05)


@pytest.mark.parametrize(
    ("limits", "sent", "status"),
    [
        (replace(SLOW_ONLY, head_s=0.05), b"GET / HTTP/1.1\r\nx: ", 408),
        (replace(SLOW_ONLY, head_s=0.05), b"G", 408),
        (replace(SLOW_ONLY, body_s=0.05), post("/", b"body")[:-1], 408),
        (
            replace(SLOW_ONLY, body_s=0.05),
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
            408,
        ),
    ],
)
def test_who_does_not_go_on_is_told_and_closed(
    start: Start, limits: Http1Limits, sent: bytes, status: int
) -> None:
    server = start(limits=limits)
    caller = server.caller()
    assert caller.ask(sent).status == status
    assert caller.closed()
    server.until(lambda: server.server.connections == 0)


@pytest.mark.parametrize("first", [b"", get("/")], ids=["new", "used"])
def test_an_idle_connection_is_closed(start: Start, first: bytes) -> None:
    server = start(limits=replace(Http1Limits(), idle_s=IDLE_S))
    with server.held():  # it is not idle before it has asked
        caller = server.caller()
        caller.write(first)
    if first:
        assert caller.read().status == 200
    assert caller.closed()


def test_a_call_that_takes_long_is_not_idle(start: Start) -> None:
    server = start(nothing, limits=QUICK)
    with server.held():  # it is not idle before it has asked
        patient, idle = server.caller(), server.caller()
        patient.write(get("/"))
    assert idle.closed()
    server.until(lambda: server.calls)
    other = server.caller()
    assert other.closed(), "idle connections come and go"
    server.at(partial(server.calls[0].reply.answer, b"at last"))
    assert patient.read().body == b"at last"


# --- the drain


def test_a_drain_ends_idle_connections_and_lets_calls_end(start: Start) -> None:
    server = start(nothing)
    idle, busy, piped = server.caller(), server.caller(), server.caller()
    busy.write(get("/busy"))
    server.until(lambda: len(server.calls) == 1)
    piped.write(get("/a") + get("/b"))
    server.until(lambda: len(server.calls) == 3)
    draining = server.at(lambda: server.loop.create_task(server.server.drain(10)))
    assert idle.closed()
    with pytest.raises(ConnectionRefusedError):
        RawCaller(server.port)
    for call in server.calls:
        server.at(partial(call.reply.answer, call.kind.encode()))
    answers = [(reader, reader.read()) for reader in (busy, piped, piped)]
    assert [(answer.body, answer.header("connection")) for _, answer in answers] == [
        (b"GET /busy", "close"),
        (b"GET /a", None),
        (b"GET /b", "close"),
    ]
    assert busy.closed()
    assert piped.closed()
    server.until(draining.done)


def test_a_drain_is_bounded_and_tells_who_still_works(start: Start) -> None:
    server = start(nothing)
    told: list[str] = []
    caller = server.caller()
    caller.write(get("/"))
    server.until(lambda: server.calls)
    server.at(partial(server.calls[0].reply.when_gone, partial(told.append, "gone")))
    server.wait(server.server.drain(0.01))
    assert told == ["gone"]
    assert server.server.connections == 0


# --- what is no request, or too much of one

HOSTILE: dict[str, tuple[bytes, int]] = {
    "content-length and transfer-encoding": (
        b"POST / HTTP/1.1\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "transfer-encoding and content-length": (
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
        400,
    ),
    "two lengths": (b"POST / HTTP/1.1\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\n", 400),
    "a negative length": (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
    "a signed length": (b"POST / HTTP/1.1\r\ncontent-length: +1\r\n\r\n", 400),
    "an endless length": (b"POST / HTTP/1.1\r\ncontent-length: " + b"9" * 40 + b"\r\n\r\n", 400),
    "an unknown transfer coding": (
        b"POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    "a hidden transfer coding": (b"POST / HTTP/1.1\r\ntransfer-encoding: xchunked\r\n\r\n", 501),
    "a chunk without a size": (CHUNKED + b"x\r\n", 400),
    "a chunk of an endless size": (CHUNKED + b"f" * 20 + b"\r\n", 400),
    "a chunk longer than it says": (CHUNKED + b"1\r\nabc\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 505),
    "HTTP/2 by prior knowledge": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\n\r\n", 505),
    "HTTP/3.0": (b"GET / HTTP/3.0\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "no method": (b"/ HTTP/1.1\r\n\r\n", 400),
    "an unknown method": (b"BREW / HTTP/1.1\r\n\r\n", 400),
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\n\r\n", 405),
    "NUL in the URL": (b"GET /a\0b HTTP/1.1\r\n\r\n", 400),
    "raw UTF-8 in the URL": ("GET /\N{SNOWMAN} HTTP/1.1\r\n\r\n".encode(), 400),
    "a space in the URL": (b"GET /a b HTTP/1.1\r\n\r\n", 400),
    "NUL in a header": (b"GET / HTTP/1.1\r\nx: a\0b\r\n\r\n", 400),
    "a bare CR in a header": (b"GET / HTTP/1.1\r\nx: a\rb\r\n\r\n", 400),
    "a folded header": (b"GET / HTTP/1.1\r\nx: a\r\n b\r\n\r\n", 400),
    "a space before the colon": (b"GET / HTTP/1.1\r\nx : a\r\n\r\n", 400),
    "a header without a name": (b"GET / HTTP/1.1\r\n: a\r\n\r\n", 400),
    "a header without a colon": (b"GET / HTTP/1.1\r\nxyz\r\n\r\n", 400),
    "bare LF": (b"GET / HTTP/1.1\nx: a\n\n", 400),
    "base64 that is none": (get("/", "x-bin: %%%"), 400),
    "a timeout that is no number": (get("/", "mm-timeout-ms: soon"), 400),
    "a negative timeout": (get("/", "mm-timeout-ms: -1"), 400),
    "an endless timeout": (get("/", "mm-timeout-ms: " + "9" * 400), 400),
    "a long header": (get("/", "x: " + "y" * 600), 431),
    "a header without end": (b"GET / HTTP/1.1\r\nx: " + b"y" * 5000, 431),
    "many headers": (get("/", *(f"x{n}: y" for n in range(100))), 431),
    "headers in framing's clothes": (get("/", "upgrade: " + "y" * 600), 431),
    "a long URL": (get("/" + "y" * 300), 414),
    "a URL without end": (b"GET /" + b"y" * 5000, 431),
    "a long body": (post("/", bytes(1001)), 413),
    "a length that is too long": (post("/")[:-2].replace(b": 0", b": 1001") + b"\r\n", 413),
    "a long chunked body": (CHUNKED + b"1\r\na\r\n" * 1001, 413),
    "a long trailer": (CHUNKED + b"1\r\na\r\n0\r\nx: " + b"y" * 300_000, 431),
    "a long chunk extension": (CHUNKED + b"1;" + b"y" * 300_000, 431),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_request_is_answered_once_and_closed(start: Start, case: str) -> None:
    sent, status = HOSTILE[case]
    server = start(limits=SMALL)
    caller = server.caller()
    caller.write(post("/good", b"first"))
    assert caller.read().said == (200, b"first")
    answer = caller.ask(sent)
    assert answer.status == status
    assert set(json.loads(answer.body)) == {"error"}
    assert answer.header("connection") == "close"
    assert caller.closed()
    assert [call.kind for call in server.calls] == ["POST /good"]
    assert server.caller().ask(get("/")).status == 200, "nothing else is lost"


def test_the_answers_that_are_due_come_before_the_refusal(start: Start) -> None:
    server = start(nothing, limits=replace(SMALL, linger_s=0.05))
    caller = server.caller()
    caller.write(get("/good") + b"nonsense\r\n\r\n" + get("/never"))
    server.until(lambda: server.calls)
    other = server.caller()
    other.write(b"nonsense\r\n\r\n")
    assert other.read().status == 400
    server.until(lambda: server.server.connections == 1)  # the sweep has seen both
    server.at(partial(server.calls[0].reply.answer, b"good"))
    assert caller.read().said == (200, b"good")
    assert caller.read().status == 400
    assert caller.closed()
    assert len(server.calls) == 1


def test_a_refused_upload_is_read_to_its_end_so_that_its_caller_can_read_the_refusal(
    start: Start,
) -> None:
    caller = start(limits=Http1Limits(linger_s=60.0)).caller()
    head = b"POST / HTTP/1.1\r\ncontent-length: 30000000\r\n\r\n"
    caller.write(head + bytes(30_000_000))
    assert caller.read().status == 413


def test_a_whole_body_at_the_limit_is_taken(start: Start) -> None:
    server = start(limits=SMALL)
    caller = server.caller()
    assert len(caller.ask(post("/", bytes(1000))).body) == 1000
    assert len(caller.ask(CHUNKED + b"1\r\na\r\n" * 1000 + b"0\r\n\r\n").body) == 1000
