"""Looking at a pod, and showing it: against real ports, and on a stream that may be a terminal."""

import io
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest

from modelmesh.cli.up import asking
from modelmesh.cli.up.children import Child
from modelmesh.cli.up.kept import Kept
from modelmesh.cli.up.looks import Figures, Look, Looker
from modelmesh.cli.up.plan import Pod
from modelmesh.cli.up.screen import Screen
from modelmesh.pb import admin_pb2


class Daemon(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Its admin service (one model of three is loaded) and its metrics port."""

    def __init__(self) -> None:
        self.registered = 3000
        self.page = "modelmesh_instance_models_total 1000\nmodelmesh_instance_used_bytes 5\n"
        self.ready = 200
        self.asked: list[str] = []

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._list)

    def _list(self, request: bytes, context: Any) -> bytes:
        asked = admin_pb2.ListModelsRequest.FromString(request)
        self.asked.append(asked.page_token)
        first = int(asked.page_token or 0)
        last = min(first + asked.page_size, self.registered)
        models = [
            admin_pb2.Model(model_id=f"m{n}", tier="" if n % 3 else "shared", state="LOADED")
            for n in range(first, last)
        ]
        token = str(last) if last < self.registered else ""
        page = admin_pb2.ListModelsResponse(models=models, next_page_token=token)
        return bytes(page.SerializeToString())

    def http(self, path: str) -> tuple[int, str]:
        return (self.ready, "") if path == "/ready" else (200, self.page)


@pytest.fixture
def daemon() -> Iterator[tuple[Daemon, Pod]]:
    made = Daemon()

    class Faces(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = made.http(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads, handlers=[made])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        http = ThreadingHTTPServer(("127.0.0.1", 0), Faces)
        serving = Thread(target=http.serve_forever)
        serving.start()
        try:
            yield made, Pod("a", port, 0, http.server_port, 0)
        finally:
            http.shutdown()
            http.server_close()
            serving.join()
            server.stop(None).wait()


def looker(pod: Pod) -> Looker:
    child = Child("a", (), {}, Path("/dev/null"), pod.metrics, "/ready")
    kept = Kept(child, lambda line: None, lambda: None)
    kept.pid, kept.ready = 7, True
    return Looker(pod, kept)


async def answered(eye: Looker, *models: str) -> Look:
    """A look with figures and names, or with these names; one that the machine keeps still for
    longer than a look waits has none."""
    for _ in range(10):
        look = await eye.look()
        there = look.figures is not None and bool(look.models or not look.figures.loaded)
        if there and models in ((), look.models):
            return look
    raise AssertionError(f"the last look: {look}")


async def test_a_look_has_figures_and_the_first_names(daemon: tuple[Daemon, Pod]) -> None:
    look = await answered(looker(daemon[1]))
    expected = ("m0", "m3", "m6", "m9")
    assert look == Look("a", 7, True, 0, Figures(1000, 5), expected)
    assert set(daemon[0].asked) == {""}, "the first page had enough"


async def test_names_are_asked_for_again_only_when_a_model_came_or_went(
    daemon: tuple[Daemon, Pod],
) -> None:
    eye = looker(daemon[1])
    await answered(eye)
    asked = len(daemon[0].asked)
    for _ in range(2):
        assert (await answered(eye)).models
    assert len(daemon[0].asked) == asked
    daemon[0].page += "modelmesh_unloadmodel_milliseconds_count 1\n"
    daemon[0].registered = 4
    assert (await answered(eye, "m0", "m3")).models == ("m0", "m3")
    assert len(daemon[0].asked) > asked
    asked = len(daemon[0].asked)
    daemon[0].page = "modelmesh_instance_models_total 0\n"
    assert (await answered(eye)).models == ()
    assert len(daemon[0].asked) == asked


async def test_one_that_is_not_ready_any_more_has_no_figures(daemon: tuple[Daemon, Pod]) -> None:
    daemon[0].ready = 503
    assert await looker(daemon[1]).look() == Look("a", 7, False, 0)


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 many\r\n\r\n"])
async def test_who_speaks_no_http_is_nobody(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:

        def answer() -> None:
            line, _ = server.accept()
            with line:
                line.recv(1000)
                line.sendall(said)

        answering = threads.submit(answer)
        assert await asking.get(server.getsockname()[1], "/", 10) is None
        answering.result()


async def test_silence_and_nobody_are_bounded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert await asking.get(port, "/", 0.05) is None
    assert await asking.get(port, "/", 10) is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_table_is_drawn_anew_below_what_stays() -> None:
    out = Terminal()
    screen = Screen(out)
    screen.show([Look("a", 1, False, 0)])
    first = out.getvalue()
    screen.say("news")
    said = out.getvalue().removeprefix(first)
    assert first.count("\n") == 2
    assert said == f"\x1b[2F\x1b[Jnews\n{first}", "the line is above, the table is still there"
    screen.show([Look("a", 1, True, 0)])
    drawn = out.getvalue().removeprefix(first + said)
    assert drawn.startswith("\x1b[2F\x1b[J")
    screen.close("the end")
    assert out.getvalue().endswith(f"{drawn}\x1b[2F\x1b[Jthe end\n")


def test_elsewhere_a_pod_has_a_line_only_when_it_has_news() -> None:
    out = io.StringIO()
    screen = Screen(out)
    for requests in (1, 2, 3):
        screen.show([Look("a", 1, True, 0, Figures(2, requests=requests)), Look("b", 2, True, 0)])
    screen.show([Look("a", 1, True, 0, Figures(3)), Look("b", 2, True, 0)])
    screen.say("news")
    assert out.getvalue() == (
        "a: pid 1, ready, 2 models loaded\nb: pid 2, ready\n"
        "a: pid 1, ready, 3 models loaded\nnews\n"
    )


def test_a_reader_that_has_gone_ends_nobody() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    screen = Screen(Gone())
    screen.show([Look("a", 1, True, 0)])
    screen.say("news")
