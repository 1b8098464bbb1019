"""What callers write in one go stays together, from the socket to the model's arithmetic."""

import json
import socket
from typing import Any

from tests.app.daemon import running

REQUESTS = 16
BODY = json.dumps(
    {
        "parameters": {"counters": True},
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}],
    }
).encode()
REQUEST = (
    b"POST /v2/models/m/infer HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


def test_sixteen_http_requests_written_in_one_go_are_one_predict() -> None:
    with running() as daemon:
        daemon.dummies("m")
        daemon.infer("m")  # loaded
        with socket.create_connection(("127.0.0.1", daemon.ports["rest"]), 10) as caller:
            caller.sendall(REQUEST * REQUESTS)
            answers = [_answer(caller) for _ in range(REQUESTS)]
    counters = [{one["name"]: one["data"][0] for one in answer["outputs"]} for answer in answers]
    assert {each["joined"] for each in counters} == {REQUESTS}
    assert {each["predicts"] for each in counters} == {2}
    assert {each["sum"] for each in counters} == {3.0}


def _answer(caller: socket.socket) -> Any:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = caller.recv(1)
        assert byte, f"closed after {head!r}"
        head += byte
    assert head.startswith(b"HTTP/1.1 200"), head
    [length] = [
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length")
    ]
    return json.loads(_exactly(caller, length))


def _exactly(caller: socket.socket, length: int) -> bytes:
    body = b""
    while len(body) < length:
        more = caller.recv(length - len(body))
        assert more
        body += more
    return body
