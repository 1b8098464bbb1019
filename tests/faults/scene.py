"""A daemon at peace, and clients rude enough to send it anything: bytes over sockets and gRPC.

Ten models are loaded: eight dummies, the iris SVC, and one that tells where it lives. After each
test `assert_nothing_lost`: they are loaded still, in the same process, the registrations are what
they were, and they answer.
"""

import http.client
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Final

import grpc

from tests.app.client import CALL_S, Refused, Response, refusal_of
from tests.app.daemon import Child
from tests.faults.suspects import File

IRIS: Final = "iris"
WITNESS: Final = "witness"
DUMMIES: Final = tuple(f"calm-{n}" for n in range(8))
ALL: Final = {*DUMMIES, IRIS, WITNESS}
ROW: Final = (6.8, 2.8, 4.8, 1.4)  # an iris of class 1
GOOD_V1: Final = json.dumps({"instances": [ROW]}).encode()
GOOD_PATH: Final = f"/v1/models/{IRIS}:predict"
INFER: Final = "/inference.GRPCInferenceService/ModelInfer"

Headers = Sequence[tuple[str, str | bytes]]


class Scene:
    """The daemon, its models, and what they were at the beginning."""

    def __init__(self, daemon: Child, iris: Path) -> None:
        self.daemon = daemon
        daemon.dummies(*DUMMIES)
        daemon.register(IRIS, "sklearn", str(iris))
        daemon.register(WITNESS, "sklearn", str(File.write(iris.with_name("witness.pkl")).path))
        for model_id in ALL:
            assert daemon.load(model_id) == "LOADED"
        self._registered = self._registrations()
        self._home = self._lives_in()

    def assert_nothing_lost(self) -> None:
        assert self.daemon.loaded() >= ALL
        assert self._registrations() == self._registered
        assert self._lives_in() == self._home, "no input costs a host"
        for number, model_id in enumerate(DUMMIES):
            answer = self.daemon.infer(model_id, float(number))
            assert answer.outputs == {"model": model_id, "sum": float(number)}
        assert self.daemon.infer(IRIS, *ROW)["output-0"] == 1

    def _registrations(self) -> dict[str, tuple[str, str, str]]:
        rows = self.daemon.models().items()
        return {model_id: (row.type, row.path, row.key) for model_id, row in rows}

    def _lives_in(self) -> int:
        return int(self.daemon.infer(WITNESS)["output-0"])

    # --- gRPC

    def call(
        self, method: str, body: bytes, metadata: Headers = (), compression: Any = None
    ) -> Refused | bytes:
        """One unary call of these bytes: its answer, or how it was refused."""
        future = self.daemon.channel.unary_unary(method).future(
            body, timeout=CALL_S, metadata=tuple(metadata), compression=compression
        )
        return bytes(future.result()) if future.exception() is None else refusal_of(future)

    @contextmanager
    def own_channel(self) -> Iterator[grpc.Channel]:
        """A connection of its own, without limits of the client's."""
        unlimited = ("grpc.max_send_message_length", "grpc.max_receive_message_length")
        options = [*((name, -1) for name in unlimited), ("grpc.max_metadata_size", 1 << 24)]
        with grpc.insecure_channel(f"127.0.0.1:{self.daemon.ports['grpc']}", options) as channel:
            yield channel

    # --- HTTP

    def connection(self) -> AbstractContextManager["Connection"]:
        return connected(self.daemon.ports["rest"])

    def send(self, *pieces: bytes) -> Response:
        """These bytes on a connection; and that a good request is served after it, on the same
        connection if the daemon has kept it."""
        with self.connection() as connection:
            answer = connection.ask(*pieces)
            if answer.headers.get("connection") != "close":
                assert connection.ask(*post(GOOD_PATH, GOOD_V1)).status == 200
        with self.connection() as connection:
            assert connection.ask(*post(GOOD_PATH, GOOD_V1)).body == b'{"predictions":[1]}'
        return answer


class Connection:
    """A raw HTTP/1.1 connection."""

    def __init__(self, sock: socket.socket, answers: IO[bytes]) -> None:
        self.sock = sock
        self._answers = answers

    def ask(self, *pieces: bytes) -> Response:
        """Write these bytes as they are; the next answer."""
        for piece in pieces:
            try:
                self.sock.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break  # it has heard enough: its answer is there
        return self.answer()

    def answer(self) -> Response:
        """The next answer."""
        version, status, *_ = self._answers.readline().split()
        assert version == b"HTTP/1.1"
        fields = http.client.parse_headers(self._answers)
        headers = {name.lower(): value for name, value in fields.items()}
        return Response(int(status), headers, self._answers.read(int(headers["content-length"])))


@contextmanager
def connected(port: int) -> Iterator[Connection]:
    """A connection to a port of this machine."""
    with socket.create_connection(("127.0.0.1", port), timeout=CALL_S) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock.makefile("rb") as answers:
            yield Connection(sock, answers)


def post(path: str, body: bytes, *headers: bytes) -> tuple[bytes, bytes]:
    """The bytes of a POST."""
    return head(b"POST", path.encode(), b"content-length: %d" % len(body), *headers), body


def head(method: bytes, target: bytes, *headers: bytes) -> bytes:
    """The bytes of a request's head, whatever stands in it."""
    return b"\r\n".join((b"%b %b HTTP/1.1" % (method, target), b"host: x", *headers, b"", b""))


def error_of(answer: Response) -> str:
    """The message of an error in KServe's form (nothing else is in its body)."""
    document = answer.document
    assert list(document) == ["error"]
    message: str = document["error"]
    assert message
    return message
