"""How commands fail: usage, nobody there, refusals that a retry helps, silence, a closed pipe."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.pb import admin_pb2
from modelmesh.settings import NOT_YET
from modelmesh.wire.grpc_status import trailers_of
from tests.cli.processes import modelmesh

BUSY = Failure(Code.RESOURCE_EXHAUSTED, "too many", Fault.CAPACITY, Reason.OVERLOADED, 2.5)


class Refuser(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """A server that takes so many requests for bulk registration and refuses every call then."""

    def __init__(self, served: int) -> None:
        self.left = served

    def service(self, details: Any) -> Any:
        def answer(request: bytes, context: Any) -> bytes:
            if self.left > 0:
                self.left -= 1
                return _registered(admin_pb2.RegisterModelsRequest.FromString(request))
            context.set_trailing_metadata(trailers_of(BUSY))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, BUSY.message)
            raise AssertionError("abort raises")

        return grpc.unary_unary_rpc_method_handler(answer)


def _registered(asked: admin_pb2.RegisterModelsRequest) -> bytes:
    results = [{"model_id": item.model_id} for item in asked.models]
    return bytes(admin_pb2.RegisterModelsResponse(results=results).SerializeToString())


@contextmanager
def refuser(served: int = 0) -> Iterator[str]:
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads, handlers=[Refuser(served)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


@contextmanager
def silence() -> Iterator[str]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_refusal_says_when_to_come_back() -> None:
    with refuser() as address:
        people = modelmesh("models", "list", "--address", address)
        program = modelmesh("models", "list", "--address", address, "--json")
    assert (people.status, people.out) == (1, "")
    assert people.err == (
        "modelmesh: capacity's fault: too many (RESOURCE_EXHAUSTED OVERLOADED; retry in 2.5 s)\n"
    )
    assert json.loads(program.err) == {
        "error": {
            "fault": "capacity",
            "message": "too many",
            "code": "RESOURCE_EXHAUSTED",
            "reason": "OVERLOADED",
            "retry_after_s": 2.5,
        }
    }


def test_a_file_that_breaks_off_says_how_far_it_came() -> None:
    lines = "\n".join(f'{{"model_id":"{n}","type":"t"}}' for n in range(1_500))
    with refuser(served=1) as address:
        done = modelmesh("models", "register", "--file", "-", "--address", address, stdin=lines)
    assert done.status == 1
    assert "too many, after 1000 of 1500 models (RESOURCE_EXHAUSTED OVERLOADED; retry" in done.err


@pytest.mark.parametrize(
    "command", ["list", "status x", "load x", "unregister x", "register x --type t"]
)
def test_nobody_there_is_status_3(command: str) -> None:
    address = closed_port()
    done = modelmesh("models", *command.split(), "--address", address)
    assert (done.status, done.out) == (3, "")
    assert done.err.startswith(f"modelmesh: no daemon: nothing answers at {address}: ")
    assert done.err.endswith("(UNAVAILABLE; retry when it runs)\n")
    assert done.err.count("\n") == 1


def test_nobody_there_over_rest() -> None:
    address = closed_port()
    done = modelmesh("infer", "x", "--file", "-", "--rest", address, stdin='{"instances":[]}')
    assert done.status == 3
    assert done.err == (
        f"modelmesh: no daemon: nothing answers at {address}: Connection refused"
        " (UNAVAILABLE; retry when it runs)\n"
    )


def test_the_wait_for_an_answer_is_bounded() -> None:
    with silence() as address:
        grpc_ = modelmesh("models", "list", "--address", address, "--timeout", "0.3")
        rest = modelmesh(
            *("infer", "x", "--file", "-", "--rest", address, "--timeout", "0.3"),
            stdin='{"instances":[]}',
        )
    for done in (grpc_, rest):
        assert done.status == 1
        assert f"no answer from {address} in time" in done.err
        assert "--timeout waits longer" in done.err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("models register", "needs an ID and --type"),
        ("models register x", "needs an ID and --type"),
        ("models register x --file f", "either an ID with --type, or --file"),
        ("models register --file /no/such/file", "cannot read /no/such/file: No such file"),
        ("models list --page-size 0", "--page-size"),
        ("models list --page-size many", "--page-size"),
        ("models list --timeout -1", "--timeout"),
        ("models dance", "invalid choice"),
        ("infer x", "--file"),
        ("infer x --file - --v1 --v2", "not allowed with"),
        ("infer x --file - --v1 --rest nowhere", "--rest must be HOST:PORT"),
        ("infer x --file - --v1 --rest 127.0.0.1:99999", "--rest must be HOST:PORT"),
        ("infer x --file -", "the request is not JSON"),
        ("serve --grpc-port eight", "--grpc_port must be port"),
        ("", "COMMAND"),
    ],
)
def test_usage_is_status_2_and_no_traceback(command: str, said: str) -> None:
    done = modelmesh(*command.split())
    assert (done.status, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_variable_that_is_not_supported_yet_stops_serve_with_one_sentence() -> None:
    name, why = next(iter(NOT_YET.items()))
    done = modelmesh("serve", environment={name: "x"})
    assert done.status == 2
    assert done.err == f"modelmesh: {name} is set, but {why}; unset it to start without.\n"


def test_version_and_help_need_no_daemon() -> None:
    assert modelmesh("version").out.startswith("modelmesh ")
    assert modelmesh("version", "--json").document.keys() == {"version"}
    assert "exit status:" in modelmesh("--help").out
    assert "MM_SVC_GRPC_PORT" in modelmesh("serve", "--help").out


def test_a_reader_that_has_seen_enough_is_no_failure() -> None:
    command = (sys.executable, "-m", "modelmesh", "version")
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_client_commands_do_not_load_the_daemon() -> None:
    show = (
        "import sys; from modelmesh.cli.main import main; main(['models', 'list', '--address',"
        " sys.argv[1]]); print([name for name in ('modelmesh.app', 'uvloop', 'structlog', 'numpy')"
        " if name in sys.modules])"
    )
    done = subprocess.run(
        (sys.executable, "-c", show, closed_port()), capture_output=True, timeout=60
    )
    assert done.stdout.decode().strip() == "[]"
