"""The HTTP/1.1 server, spoken to in bytes: what reaches the handler, and what it answers."""

import json
import time
from collections.abc import Callable
from functools import partial

import pytest

from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.wire.transport import NO_DEADLINE, Call, Metadata
from tests.wire.http1_serving import Start, echo, get, nothing, post, start

__all__ = ["start"]  # the fixture


# --- what reaches the handler


def test_a_request_becomes_a_call(start: Start) -> None:
    server = start()
    caller = server.caller()
    request = post(
        "/v1/models/a%2Fb:predict?x=1&y=2", b"body", "X-One: 1", "B-Bin: AP8", "X-One: 2"
    )
    assert caller.ask(request).said == (200, b"body")
    (call,) = server.calls
    assert (call.kind, call.body, call.deadline) == (
        "POST /v1/models/a%2Fb:predict",
        b"body",
        NO_DEADLINE,
    )
    assert call.metadata == (
        ("x-one", "1"),
        ("b-bin", b"\0\xff"),
        ("x-one", "2"),
        (":query", "x=1&y=2"),
    )


def test_an_answer_is_these_bytes(start: Start) -> None:
    caller = start().caller()
    caller.write(post("/", b"{}"))
    head = b"".join(iter(partial(caller.file.readline), b"\r\n"))
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"date: ")]
    assert lines == [
        b"HTTP/1.1 200 OK",
        b"content-type: application/json",
        b"content-length: 2",
        b"",
    ]
    assert caller.file.read(2) == b"{}"


def test_a_connection_is_kept_and_the_second_request_knows_nothing_of_the_first(
    start: Start,
) -> None:
    server = start()
    caller = server.caller()
    caller.ask(post("/first", b"1", "x: y", "mm-timeout-ms: 1000"))
    caller.ask(get("/second"))
    second = server.calls[1]
    assert (second.kind, second.body, second.metadata) == ("GET /second", b"", ())
    assert second.deadline == NO_DEADLINE


def test_a_timeout_becomes_a_deadline(start: Start) -> None:
    server = start()
    asked = time.monotonic()
    server.caller().ask(post("/", b"", "mm-timeout-ms: 2500"))
    assert asked + 2.5 <= server.calls[0].deadline <= time.monotonic() + 2.5
    assert server.calls[0].metadata == ()


def test_sixteen_connections_of_one_turn_are_one_list(start: Start) -> None:
    server = start()
    callers = [server.caller() for _ in range(16)]
    server.until(lambda: server.server.connections == 16)
    with server.held():
        for n, caller in enumerate(callers):
            caller.write(post("/m", b"%d" % n))
    assert [caller.read().body for caller in callers] == [b"%d" % n for n in range(16)]
    assert [len(calls) for calls in server.lists] == [16]


def test_sixteen_pipelined_requests_are_one_list_and_answered_in_order(start: Start) -> None:
    server = start()
    caller = server.caller()
    caller.write(b"".join(post("/m", b"%d" % n) for n in range(16)))
    assert [caller.read().body for _ in range(16)] == [b"%d" % n for n in range(16)]
    assert [len(calls) for calls in server.lists] == [16]


def test_answers_keep_the_order_of_requests_whatever_the_handler_does(start: Start) -> None:
    server = start(nothing)
    caller = server.caller()
    caller.write(b"".join(post("/m", b"%d" % n) for n in range(4)))
    server.until(lambda: len(server.calls) == 4)
    for n in (2, 1, 3, 0):
        server.at(partial(server.calls[n].reply.answer, b"answer %d" % n))
    assert [caller.read().body for _ in range(4)] == [b"answer %d" % n for n in range(4)]


def test_a_request_may_come_byte_by_byte(start: Start) -> None:
    server = start()
    caller = server.caller()
    for byte in post("/v1/models/m:predict?q", b"body", "Content-Type: text/plain"):
        caller.write(bytes([byte]))
    assert caller.read().said == (200, b"body")
    assert server.calls[0].kind == "POST /v1/models/m:predict"


def test_a_chunked_body_is_put_together_and_its_trailers_are_not_headers(start: Start) -> None:
    server = start()
    caller = server.caller()
    head = b"POST /m HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = b"3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nmm-timeout-ms: 1\r\nx: y\r\n\r\n"
    assert caller.ask(head + chunks).said == (200, b"abcd")
    assert (server.calls[0].metadata, server.calls[0].deadline) == ((), NO_DEADLINE)


def test_a_caller_that_expects_to_be_told_to_go_on_is_told(start: Start) -> None:
    caller = start().caller()
    head = b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n"
    assert caller.ask(head).status == 100
    assert caller.ask(b"body").said == (200, b"body")


def test_it_is_told_so_only_after_the_answers_that_are_due(start: Start) -> None:
    server = start(nothing)
    caller = server.caller()
    expecting = b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n"
    caller.write(post("/", b"first") + expecting)
    server.until(lambda: server.calls)
    server.at(lambda: echo(server.calls[0]))
    assert caller.read().said == (200, b"first")
    assert caller.read().status == 100


def test_a_head_request_gets_a_head(start: Start) -> None:
    server = start(lambda call: call.reply.answer(b"twelve bytes"))
    caller = server.caller()
    caller.write(get("/", method="HEAD"))
    answer = caller.read(bodiless=True)
    assert (answer.status, answer.header("content-length")) == (200, "12")
    assert caller.ask(get("/")).body == b"twelve bytes"
    assert server.calls[0].kind == "HEAD /"


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_an_upgrade_is_not_taken_up_and_harms_nothing(start: Start, body: bytes) -> None:
    """Java's client asks for h2c with its first request, whatever its body."""
    server = start()
    caller, asked = server.caller(), time.monotonic()
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMA")
    caller.write(post("/m?q", body, *upgrade, "x: y", "b-bin: AP8=", "mm-timeout-ms: 9000"))
    caller.write(post("/n", b"second"))
    assert [caller.read().body, caller.read().body] == [body, b"second"]
    first = server.calls[0]
    assert first.metadata == (("x", "y"), ("b-bin", b"\0\xff"), (":query", "q"))
    assert asked + 8.99 <= first.deadline <= time.monotonic() + 9


def test_an_upgrade_with_a_chunked_body_keeps_its_body(start: Start) -> None:
    caller = start().caller()
    caller.write(
        b"POST / HTTP/1.1\r\nupgrade: h2c\r\nconnection: upgrade\r\ntransfer-encoding: chunked\r\n"
        b"\r\n4\r\nbody\r\n"
    )
    caller.write(b"0\r\n\r\n")
    assert caller.read().body == b"body"


def test_a_url_with_scheme_and_host_is_its_path(start: Start) -> None:
    server = start()
    server.caller().ask(get("http://somewhere:80/v2/health/live?x"))
    assert server.calls[0].kind == "GET /v2/health/live"


@pytest.mark.parametrize(
    "request_bytes",
    [b"GET / HTTP/1.0\r\n\r\n", get("/", "Connection: close"), get("/", "connection: Close, x")],
)
def test_who_wants_one_answer_gets_one_and_the_end(start: Start, request_bytes: bytes) -> None:
    server = start()
    caller = server.caller()
    answer = caller.ask(request_bytes + b"GET /ignored HTTP/1.1\r\n\r\n")
    assert (answer.status, answer.header("connection")) == (200, "close")
    assert caller.closed()
    assert len(server.calls) == 1


# --- what the handler answers


def reply_with(metadata: Metadata, body: bytes = b"{}") -> Callable[[Call], None]:
    return lambda call: call.reply.answer(body, metadata)


def test_metadata_becomes_status_and_headers(start: Start) -> None:
    metadata: Metadata = (
        (":status", "404"),
        ("content-type", "application/octet-stream"),
        ("inference-header-content-length", "12"),
        ("b-bin", b"\0\xff"),
    )
    answer = start(reply_with(metadata)).caller().ask(get("/"))
    assert answer.said == (404, b"{}")
    assert [pair for pair in answer.headers if pair[0] != "date"] == [
        ("content-type", "application/octet-stream"),
        ("inference-header-content-length", "12"),
        ("b-bin", "AP8="),
        ("content-length", "2"),
    ]


@pytest.mark.parametrize(
    "metadata",
    [
        (("x", "a\r\nset-cookie: b"),),
        (("x", "a\nb"),),
        (("x", "a\0b"),),
        (("x\r\ny", "a"),),
        (("x y", "a"),),
        (("", "a"),),
        (("x", "\N{SNOWMAN}"),),
        (("content-length", "1"),),
        (("transfer-encoding", "chunked"),),
        (("connection", "close"),),
        ((":status", "101"),),
        ((":status", "20"),),
        ((":status", "2\r\n"),),
    ],
)
def test_a_model_cannot_write_heads(start: Start, metadata: Metadata) -> None:
    caller = start(reply_with(metadata)).caller()
    answer = caller.ask(get("/"))
    assert answer.said == (500, b'{"error":"the answer holds a header that HTTP must not carry"}')
    assert caller.ask(get("/")).status == 500, "the connection lives on"


@pytest.mark.parametrize("status", ["204", "304"])
def test_an_answer_that_has_no_body_gets_none(start: Start, status: str) -> None:
    caller = start(reply_with(((":status", status),), b"HTTP/1.1 200 OK\r\n\r\n")).caller()
    for _ in range(2):
        answer = caller.ask(get("/"))
        assert (answer.status, answer.header("content-length")) == (int(status), None)


FAILURES = [
    (
        Failure(Code.NOT_FOUND, "Model with name X does not exist."),
        404,
        {"mm-code": "NOT_FOUND", "mm-fault": "caller"},
    ),
    (
        Failure(Code.UNAVAILABLE, "wait", Fault.CAPACITY, Reason.DRAINING, 1.2),
        503,
        {"retry-after": "2", "mm-retry-after-ms": "1200", "mm-reason": "DRAINING"},
    ),
    (
        Failure(Code.INTERNAL, "died", Fault.MODEL, Reason.WORKER_CRASHED, executed=True),
        500,
        {"x-mm-executed": "maybe", "mm-reason": "WORKER_CRASHED", "mm-fault": "model"},
    ),
    (Failure(Code.FAILED_PRECONDITION, "bad", Fault.MODEL, Reason.LOAD_FAILED), 422, {}),
    (Failure(Code.CANCELLED, "left"), 499, {}),
    (Failure(Code.RESOURCE_EXHAUSTED, "big", reason=Reason.MESSAGE_TOO_LARGE), 413, {}),
    (Failure(Code.DEADLINE_EXCEEDED, 'quote " \r\n\N{SNOWMAN} \ud800'), 504, {}),
]


@pytest.mark.parametrize(("failure", "status", "headers"), FAILURES)
def test_a_failure_is_a_status_a_sentence_and_headers(
    start: Start, failure: Failure, status: int, headers: dict[str, str]
) -> None:
    answer = start(lambda call: call.reply.finish(failure)).caller().ask(get("/"))
    assert answer.status == status
    assert json.loads(answer.body) == {"error": failure.message.replace("\ud800", "?")}
    assert answer.header("content-type") == "application/json"
    assert headers.items() <= dict(answer.headers).items()
    assert ("retry-after" in dict(answer.headers)) == (failure.retry_after_s is not None)


def test_an_end_without_a_message_is_an_empty_answer(start: Start) -> None:
    caller = start(lambda call: call.reply.finish(None)).caller()
    assert [caller.ask(get("/")).said for _ in range(2)] == [(200, b"")] * 2


def test_messages_are_chunks(start: Start) -> None:
    server = start(nothing)
    caller = server.caller()
    caller.write(get("/"))
    server.until(lambda: server.calls)
    reply = server.calls[0].reply
    server.at(partial(reply.send, b"one"))
    assert caller.file.readline() == b"HTTP/1.1 200 OK\r\n"
    while caller.file.readline() != b"\r\n":
        pass
    chunks = caller.chunks()
    assert next(chunks) == b"one"
    server.at(partial(reply.send, b""))
    server.at(partial(reply.send, b"two"))
    assert next(chunks) == b"two"
    server.at(partial(reply.finish, None, (("x-trailer", "1"),)))
    assert list(chunks) == []
    caller.write(get("/again"))
    server.until(lambda: len(server.calls) == 2)


def test_an_old_caller_gets_messages_without_chunks(start: Start) -> None:
    def two(call: Call) -> None:
        call.reply.send(b"one ")
        call.reply.send(b"two")
        call.reply.finish()

    caller = start(two).caller()
    answer = caller.ask(b"GET / HTTP/1.0\r\n\r\n")
    assert (answer.body, answer.header("transfer-encoding")) == (b"one two", None)


def test_an_answer_that_breaks_off_is_seen_to_be_broken(start: Start) -> None:
    def fail(call: Call) -> None:
        call.reply.send(b"one")
        call.reply.finish(Failure(Code.INTERNAL, "half way"))

    caller = start(fail).caller()
    caller.write(get("/"))
    assert caller.file.read().endswith(b"\r\n\r\n3\r\none\r\n"), "no last chunk, then the end"


def test_streams_wait_for_their_turn(start: Start) -> None:
    server = start(nothing)
    caller = server.caller()
    caller.write(get("/a") + get("/b") + get("/c"))
    server.until(lambda: len(server.calls) == 3)
    first, second, third = (call.reply for call in server.calls)
    server.at(partial(second.send, b"2a"))
    server.at(partial(third.answer, b"3"))
    server.at(partial(first.answer, b"1"))
    assert caller.read().body == b"1"
    server.at(partial(second.send, b"2b"))
    server.at(second.finish)
    assert [caller.read().body, caller.read().body] == [b"2a2b", b"3"]


def test_large_answers_arrive_whole(start: Start) -> None:
    body = bytes(range(256)) * 16384
    caller = start(lambda call: call.reply.answer(memoryview(body))).caller()
    caller.write(get("/") * 3)
    assert all(caller.read().body == body for _ in range(3))


def test_a_second_end_is_dropped(start: Start) -> None:
    def twice(call: Call) -> None:
        call.reply.answer(b"first")
        call.reply.answer(b"second")
        call.reply.send(b"third")
        call.reply.finish(Failure(Code.INTERNAL, "fourth"))

    caller = start(twice).caller()
    assert [caller.ask(get("/")).body, caller.ask(get("/")).body] == [b"first", b"first"]


def test_a_handler_that_raises_is_an_internal_error(start: Start) -> None:
    def fail(calls: list[Call]) -> None:
        raise RuntimeError("on purpose")

    caller = start(handler=fail).caller()
    caller.write(get("/") * 2)
    for answer in (caller.read(), caller.read()):
        assert answer.status == 500
        assert b"purpose" not in answer.body
