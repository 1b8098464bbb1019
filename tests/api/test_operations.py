"""Metrics and probes, over loopback and over HTTP."""

import asyncio
import re
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelmesh.api.operations import Operations
from modelmesh.errors import Code, Failure, Reason
from modelmesh.observe.metrics import FleetGauges, Gauges, Metrics
from modelmesh.wire.awaiting import FutureReply
from modelmesh.wire.http1 import Http1Server
from modelmesh.wire.http1_heads import STATUS
from modelmesh.wire.transport import Call, Handler, Metadata
from tests.api.fakes import call


class Daemon:
    """What the operations face looks at."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.models = 3
        self.why_not_ready = self.why_not_live = ""
        self.read_in: list[threading.Thread] = []
        self.face = Operations(
            self.metrics, self.gauges, lambda: self.why_not_ready, lambda: self.why_not_live
        )

    def gauges(self) -> Gauges:
        self.read_in.append(threading.current_thread())
        return Gauges(capacity_bytes=1000, fleet=FleetGauges(models_registered=self.models))


async def get(handler: Handler, kind: str, query: str = "") -> tuple[bytes, dict[str, object]]:
    """The answer and its headers."""
    reply = FutureReply()
    metadata: Metadata = ((":query", query),) if query else ()
    handler([Call(kind, b"", reply, metadata)])
    async with asyncio.timeout(30):
        (body,) = await reply.future
    return bytes(body), dict(reply.metadata)


@pytest.mark.parametrize("kind", ["GET /metrics", "GET /", "HEAD /metrics"])
async def test_a_scrape_is_prometheus_text_of_now(kind: str) -> None:
    daemon = Daemon()
    daemon.metrics.request("/a.B/Infer", "OK", 0.001, 10, 20)
    body, headers = await get(daemon.face.metrics_port(), kind)
    assert headers == {"content-type": "text/plain; version=1.0.0; charset=utf-8"}
    families = {each.name: each for each in text_string_to_metric_families(body.decode())}
    assert families["modelmesh_models_managed_total"].samples[0].value == 3
    assert families["modelmesh_api_request_milliseconds"].samples
    assert daemon.read_in == [threading.main_thread()]
    daemon.models = 4
    body, _ = await get(daemon.face.metrics_port(), kind)
    assert b"\nmodelmesh_models_managed_total 4.0\n" in body


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("name[]=modelmesh_models_managed_total", {"modelmesh_models_managed_total"}),
        (
            "name[]=modelmesh_models_managed_total&name%5B%5D=modelmesh_instance_models_total",
            {"modelmesh_models_managed_total", "modelmesh_instance_models_total"},
        ),
        ("name[]=nothing", set()),
    ],
)
async def test_a_scrape_by_name(query: str, names: set[str]) -> None:
    body, _ = await get(Daemon().face.metrics_port(), "GET /metrics", query)
    samples = [s for f in text_string_to_metric_families(body.decode()) for s in f.samples]
    assert {sample.name for sample in samples} == names


async def test_a_scrape_by_too_many_names() -> None:
    daemon = Daemon()
    reply = FutureReply()
    metadata: Metadata = ((":query", "&".join(["name[]=a"] * 1001)),)
    daemon.face.metrics_port()([Call("GET /metrics", b"", reply, metadata)])
    with pytest.raises(Exception, match="too many parameters"):
        await reply.future


async def test_scrapes_are_bounded() -> None:
    handler = Daemon().face.metrics_port()
    calls = [Call("GET /metrics", b"", FutureReply()) for _ in range(6)]
    handler(calls)
    ends = []
    for each in calls:
        assert isinstance(each.reply, FutureReply)
        ends.append(await asyncio.wait([each.reply.future], timeout=30))
    failures = [done.pop().exception() for done, _ in ends]
    assert [failure is None for failure in failures] == [True] * 4 + [False] * 2


@pytest.mark.parametrize("port", ["metrics_port", "probe_port"])
async def test_probes_say_why_not(port: str) -> None:
    daemon = Daemon()
    handler = getattr(daemon.face, port)()
    plain = {"content-type": "text/plain; charset=utf-8"}
    for path in ("GET /ready", "GET /live"):
        assert await get(handler, path) == (b"ok\n", plain)
    daemon.why_not_ready = "draining"
    assert await get(handler, "GET /ready") == (b"draining\n", {**plain, STATUS: "503"})
    assert await get(handler, "GET /live") == (b"ok\n", plain)
    daemon.why_not_live = "stuck"
    assert await get(handler, "GET /live") == (b"stuck\n", {**plain, STATUS: "500"})


@pytest.mark.parametrize(
    ("kind", "code", "reason"),
    [
        ("GET /nothing", Code.NOT_FOUND, Reason.NONE),
        ("GET /metrics", Code.NOT_FOUND, Reason.NONE),  # not on this port
        ("GET /ready/", Code.NOT_FOUND, Reason.NONE),
        ("POST /ready", Code.UNIMPLEMENTED, Reason.METHOD_NOT_ALLOWED),
        ("DELETE /nothing", Code.NOT_FOUND, Reason.NONE),
    ],
)
async def test_what_is_not_there(kind: str, code: Code, reason: Reason) -> None:
    failure = await call(Daemon().face.probe_port(), kind)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.reason) == (code, reason)


async def test_over_http() -> None:
    daemon = Daemon()
    daemon.why_not_ready = "static models are loading"
    server = Http1Server(daemon.face.metrics_port())
    await server.start("127.0.0.1")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for path in ("/ready", "/live", "/metrics?name[]=modelmesh_models_managed_total", "/nothing"):
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    writer.write(b"PUT /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    said = (await asyncio.wait_for(reader.read(), 30)).decode()
    writer.close()
    await writer.wait_closed()
    await server.drain(1)
    assert re.findall(r"HTTP/1.1 (\d+)", said) == ["503", "200", "200", "404", "405"]
    assert "static models are loading\n" in said
    assert "modelmesh_models_managed_total 3.0\n" in said
