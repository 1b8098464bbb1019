"""The REST faces over a real HTTP server: requests and answers as bytes, a small fake behind."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from modelmesh import __version__
from modelmesh.api.asking import Tasks
from modelmesh.api.rest import rest_handler
from modelmesh.errors import Code, Failure, Fault, MeshError, Reason
from modelmesh.pb import inference_pb2 as pb
from modelmesh.serving.status import Readiness
from modelmesh.wire import kinds
from modelmesh.wire.transport import NO_DEADLINE, Call
from tests.wire.http1_serving import Answer, Running, get, post, running

HOSTILE_NAMES = {
    "dots": "..",
    "dots and slashes": "../../etc/passwd",
    "NUL": "a\0b",
    "line ends": "a\r\nset-cookie: b",
    "emoji": "\N{PILE OF POO}" * 100,
    "ten thousand characters": "x" * 10_000,
    "percent": "%41",
    "spaces": "  ",
    "prototype": "__proto__",
    "right to left": "\u202egnp",
    "quote": '"}',
    "colons": ":predict:",
}


def echo(model_id: str, call: Call) -> None:
    call.reply.answer(call.body)


class FakeServing:
    """Models that are there or not, and what they were asked."""

    def __init__(self, then: Callable[[str, Call], None] = echo) -> None:
        self.draining = False
        self.models = {
            "m": Readiness(True, True),
            "a/b": Readiness(True, True),
            "x:y": Readiness(True, True),
            "broken": Readiness(True, False, "its file is gone"),
        }
        self.then = then
        self.asked: list[tuple[str, Call]] = []
        self.balanced: list[bool] = []
        self.loads: list[str] = []

    def infer(self, model_id: str, call: Call, *, balanced: bool = False) -> None:
        self.asked.append((model_id, call))
        self.balanced.append(balanced)
        if model_id in self.models:
            self.then(model_id, call)
        else:
            call.reply.finish(Failure(Code.NOT_FOUND, "model not found"))

    def infer_vmodel(self, vmodel_id: str, call: Call, *, balanced: bool = False) -> None:
        call.reply.finish(Failure(Code.NOT_FOUND, "vmodel not found"))

    def infer_named(self, name: str, call: Call, *, balanced: bool = False) -> None:
        self.infer(name, call, balanced=balanced)

    def resolve(self, vmodel_id: str) -> str:
        return ""

    def is_registered(self, model_id: str) -> bool:
        return model_id in self.models

    def ready(self, model_id: str) -> Readiness:
        return self.models.get(model_id, Readiness(False, False))

    def names(self, prefix: str = "") -> Iterator[str]:
        return iter(self.models)

    async def load(self, model_id: str) -> None:
        self.loads.append(f"load {model_id}")
        if model_id == "broken":
            raise MeshError(
                Failure(Code.FAILED_PRECONDITION, "bad file", Fault.MODEL, Reason.LOAD_FAILED)
            )
        if model_id == "x:y":
            await asyncio.Event().wait()

    async def unload(self, model_id: str) -> bool:
        self.loads.append(f"unload {model_id}")
        return model_id == "m"


@contextmanager
def rest(serving: FakeServing) -> Iterator[Running]:
    tasks = Tasks()
    with running(handler=rest_handler(serving, serving, tasks)) as server:
        yield server
        server.wait(tasks.close())


def said(serving: FakeServing, request: bytes) -> Answer:
    with rest(serving) as server:
        return server.caller().ask(request)


def test_metrics_are_told_as_kserve_does_where_there_are_any() -> None:
    def scrape(call: Call) -> None:
        call.reply.answer(b"up 1\n")

    serving, tasks = FakeServing(), Tasks()
    with running(handler=rest_handler(serving, serving, tasks, scrape)) as server:
        assert server.caller().ask(get("/metrics")).said == (200, b"up 1\n")
        assert server.caller().ask(post("/metrics", b"")).said == NOT_ALLOWED
        server.wait(tasks.close())
    assert said(serving, get("/metrics")).said == NOT_FOUND


# --- routes: request -> status and body, to the byte

NOT_FOUND = (404, b'{"detail":"Not Found"}')
NOT_ALLOWED = (405, b'{"detail":"Method Not Allowed"}')
NO_MODEL = (404, b'{"error":"Model with name nobody does not exist."}')
NOT_READY = (503, b'{"error":"Model with name broken is not ready. its file is gone"}')
NAMES = (200, b'{"models":["m","a/b","x:y","broken"]}')

V1 = {
    get("/"): (200, b'{"status":"alive"}'),
    get("/?query"): (200, b'{"status":"alive"}'),
    get("/v1/models"): NAMES,
    get("/v1/models/m"): (200, b'{"name":"m","ready":true}'),
    get("/v1/models/a%2Fb"): (200, b'{"name":"a/b","ready":true}'),
    get("/v1/models/x:y"): (200, b'{"name":"x:y","ready":true}'),
    get("/v1/models/nobody"): NO_MODEL,
    get("/v1/models/broken"): NOT_READY,
    post("/v1/models/m:predict", b'{"instances":[]}'): (200, b'{"instances":[]}'),
    post("/v1/models/a%2fb:predict", b"1"): (200, b"1"),
    post("/v1/models/x:y:predict", b"1"): (200, b"1"),
    post("/v1/models/m:explain", b"{}"): (200, b"{}"),
    post("/v1/models/m:predict?x=1", b"{}"): (200, b"{}"),
    post("/v1/models/nobody:predict", b"{}"): NO_MODEL,
    post("/v1/models/nobody:explain", b"{}"): NO_MODEL,
    post("/v1/models/:predict", b"{}"): (400, b'{"error":"must provide non-empty modelId"}'),
    get("/v1/models/m:predict"): NOT_ALLOWED,
    post("/v1/models/m"): NOT_ALLOWED,
    post("/v1/models/m:classify"): NOT_ALLOWED,
    post("/v1/models"): NOT_ALLOWED,
    post("/"): NOT_ALLOWED,
    get("/v1/models/m", method="DELETE"): NOT_ALLOWED,
    get("/v1/models/"): NOT_FOUND,
    get("/v1/models/m/"): NOT_FOUND,
    get("/v1/models/a/b"): NOT_FOUND,
    get("/v1//models/m"): NOT_FOUND,
    get("/v1/models/../models/m"): NOT_FOUND,
    post("/v1/models/a/b:predict"): NOT_FOUND,
    get("/v1"): NOT_FOUND,
    get("/v3/models"): NOT_FOUND,
    get("/favicon.ico"): NOT_FOUND,
    get("*", method="OPTIONS"): NOT_FOUND,
}

INDEX = [
    {"name": "m", "version": "", "state": "READY", "reason": ""},
    {"name": "a/b", "version": "", "state": "READY", "reason": ""},
    {"name": "x:y", "version": "", "state": "READY", "reason": ""},
    {"name": "broken", "version": "", "state": "UNAVAILABLE", "reason": "its file is gone"},
]


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


V2 = {
    get("/v2"): (
        200,
        compact(
            {
                "name": "modelmesh",
                "version": __version__,
                "extensions": ["model_repository_extension", "binary_tensor_data"],
            }
        ),
    ),
    get("/v2/health/live"): (200, b'{"live":true}'),
    get("/v2/health/ready"): (200, b'{"ready":true}'),
    get("/v2/models"): NAMES,
    get("/v2/models/m/ready"): (200, b'{"name":"m","ready":true}'),
    get("/v2/models/a%2Fb/ready"): (200, b'{"name":"a/b","ready":true}'),
    get("/v2/models/m/versions/1/ready"): (200, b'{"name":"m","ready":true}'),
    get("/v2/models/nobody/ready"): NO_MODEL,
    get("/v2/models/broken/ready"): NOT_READY,
    get("/v2/models/nobody"): NO_MODEL,
    post("/v2/models/m/infer", b'{"inputs":[]}'): (200, b'{"inputs":[]}'),
    post("/v2/models/m/versions/3/infer", b"{}"): (200, b"{}"),
    post("/v2/models/a%2Fb/infer", b"{}"): (200, b"{}"),
    post("/v2/models/nobody/infer", b"{}"): NO_MODEL,
    get("/v2/models/m/infer"): NOT_ALLOWED,
    post("/v2/models/m/ready"): NOT_ALLOWED,
    post("/v2/models/m"): NOT_ALLOWED,
    post("/v2/health/live"): NOT_ALLOWED,
    get("/v2/models/m/versions"): NOT_FOUND,
    get("/v2/models/m/versions/"): NOT_FOUND,
    post("/v2/models/m/versions//infer"): NOT_FOUND,
    post("/v2/models/m/infer/"): NOT_FOUND,
    post("/v2/models/m/generate"): NOT_FOUND,
    post("/v2/models//infer"): NOT_FOUND,
    get("/v2/"): NOT_FOUND,
    get("/v2/models/"): NOT_FOUND,
    post("/v2/repository/index"): (200, compact(INDEX)),
    post("/v2/repository/index", b"{}"): (200, compact(INDEX)),
    post("/v2/repository/index", b'{"ready":false}'): (200, compact(INDEX)),
    post("/v2/repository/index", b'{"ready":true}'): (200, compact(INDEX[:3])),
    post("/v2/repository/index", b'{"ready":1}'): (
        400,
        b'{"error":"Expected \\"ready\\" to be true or false"}',
    ),
    post("/v2/repository/index", b"[]"): (
        400,
        b'{"error":"Expected \\"ready\\" to be true or false"}',
    ),
    post("/v2/repository/models/m/load", b"{}"): (200, b'{"name":"m","load":true}'),
    post("/v2/repository/models/m/unload"): (200, b'{"name":"m","unload":true}'),
    post("/v2/repository/models/a%2Fb/unload"): (200, b'{"name":"a/b","unload":true}'),
    post("/v2/repository/models/broken/load"): (422, b'{"error":"bad file"}'),
    post("/v2/repository/models/nobody/load"): NO_MODEL,
    post("/v2/repository/models/nobody/unload"): NO_MODEL,
    get("/v2/repository/models/m/load"): NOT_ALLOWED,
    get("/v2/repository/index"): NOT_ALLOWED,
    post("/v2/repository/models/m/reload"): NOT_FOUND,
    post("/v2/repository/models/a/b/load"): NOT_FOUND,
    post("/v2/repository/models/m"): NOT_FOUND,
}


def title(request: bytes) -> str:
    head, _, body = request.partition(b"\r\n\r\n")
    return f"{head.split(b' HTTP')[0].decode()} {body.decode()}".strip()


@pytest.mark.parametrize("request_bytes", [*V1, *V2], ids=title)
def test_a_route_answers_to_the_byte(request_bytes: bytes) -> None:
    expected = (V1 | V2)[request_bytes]
    answer = said(FakeServing(), request_bytes)
    assert answer.said == expected
    assert answer.header("content-type") == "application/json"


def test_a_wrong_verb_is_told_the_right_one() -> None:
    with rest(FakeServing()) as server:
        caller = server.caller()
        allowed = {
            path: caller.ask(request).header("allow")
            for path, request in {
                "predict": get("/v1/models/m:predict"),
                "status": post("/v1/models/m"),
                "fixed": post("/v2"),
                "index": get("/v2/repository/index"),
            }.items()
        }
    assert allowed == {
        "predict": "POST",
        "status": "GET, HEAD",
        "fixed": "GET, HEAD",
        "index": "POST",
    }


@pytest.mark.parametrize("path", ["/", "/v2/health/live", "/v1/models/m", "/v2/models/m/ready"])
def test_head_is_get_without_its_body(path: str) -> None:
    with rest(FakeServing()) as server:
        caller = server.caller()
        caller.write(get(path, method="HEAD"))
        head = caller.read(bodiless=True)
        got = caller.ask(get(path))
    assert (head.status, head.header("content-length")) == (200, str(len(got.body)))


def test_a_draining_server_is_alive_and_not_ready() -> None:
    serving = FakeServing()
    serving.draining = True
    answer = said(serving, get("/v2/health/ready"))
    assert answer.said == (503, b'{"error":"Server is not ready."}')
    assert answer.header("retry-after") == "1"
    assert said(serving, get("/v2/health/live")).said == (200, b'{"live":true}')


# --- what reaches the serving room


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/models/m:predict", kinds.V1_PREDICT),
        ("/v1/models/m:explain", kinds.V1_EXPLAIN),
        ("/v2/models/m/infer", kinds.V2_INFER),
        ("/v2/models/m/versions/7/infer", kinds.V2_INFER),
    ],
)
def test_inference_is_passed_on_as_it_came(path: str, kind: str) -> None:
    serving = FakeServing()
    body = b"\0 not even JSON \xff"
    answer = said(serving, post(path, body, "Content-Type: application/x-www-form-urlencoded"))
    assert answer.said == (200, body)
    ((model_id, call),) = serving.asked
    assert (model_id, call.kind, call.body) == ("m", kind, body)
    assert (call.metadata, call.deadline) == ((), NO_DEADLINE)


def test_a_deadline_and_the_binary_header_are_passed_on() -> None:
    serving = FakeServing(
        lambda _, call: call.reply.answer(
            b"12", ((kinds.BINARY_HEADER, "2"), ("content-type", "application/octet-stream"))
        )
    )
    headers = ("Inference-Header-Content-Length: 5", "mm-timeout-ms: 1000", "User-Agent: x")
    answer = said(serving, post("/v2/models/m/infer", b"{}", *headers))
    ((_, call),) = serving.asked
    assert call.metadata == ((kinds.BINARY_HEADER, "5"),)
    assert call.deadline < NO_DEADLINE
    assert answer.header("inference-header-content-length") == "2"
    assert answer.header("content-type") == "application/octet-stream"


def test_answers_may_come_later_and_keep_their_order() -> None:
    serving = FakeServing(lambda model_id, call: None)

    def answer_backwards() -> None:
        for n, (_, call) in reversed(list(enumerate(serving.asked))):
            call.reply.answer(b"%d" % n)

    with rest(serving) as server:
        caller = server.caller()
        caller.write(post("/v1/models/m:predict", b"{}") * 8 + post("/v2/models/m/infer", b"{}"))
        server.until(lambda: len(serving.asked) == 9)
        server.at(answer_backwards)
        assert [caller.read().body for _ in range(9)] == [b"%d" % n for n in range(9)]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (("mm-model-id: m",), 200),
        (("mm-model-id-bin: bQ",), 200),
        (("content-encoding: identity",), 200),
        (("mm-model-id: other",), 400),
        (("mm-model-id-bin: b3RoZXI=",), 400),
        (("mm-model-id-bin: /w==",), 400),
        (("mm-model-id: m", "mm-vmodel-id: m"), 400),
        (("mm-model-id: m", "mm-model-id: m"), 400),
        (("mm-model-id:",), 400),
        (("mm-vmodel-id: m",), 404),
        (("content-encoding: gzip",), 400),
    ],
)
def test_headers_must_not_contradict_the_path(headers: tuple[str, ...], status: int) -> None:
    serving = FakeServing()
    answer = said(serving, post("/v1/models/m:predict", b"{}", *headers))
    assert answer.status == status
    assert len(serving.asked) == (status == 200)


def test_of_its_headers_the_mesh_heeds_its_own_and_forged_hops_stay_outside() -> None:
    serving = FakeServing()
    headers = ("mm-balanced: true", "mm-idempotent: false", "mm-hop-intent: load", "x-mine: 1")
    for path in ("/v1/models/m:predict", "/v2/models/m/infer"):
        assert said(serving, post(path, b"{}", *headers)).status == 200
    assert said(serving, post("/v1/models/m:predict", b"{}", "x-mine: 1")).status == 200
    assert serving.balanced == [True, True, False]
    passed = [call.metadata for _, call in serving.asked]
    assert passed == [(("mm-idempotent", "false"),)] * 2 + [()]


@pytest.mark.parametrize(
    "failure",
    [
        Failure(Code.INVALID_ARGUMENT, 'Expected "instances" to be a list'),
        Failure(Code.UNAVAILABLE, "loading", Fault.CAPACITY, retry_after_s=3),
        Failure(Code.INTERNAL, "died", Fault.MODEL, Reason.WORKER_CRASHED, executed=True),
    ],
    ids=lambda failure: failure.code.name,
)
def test_failures_have_the_status_of_the_contract_and_the_body_of_kserve(failure: Failure) -> None:
    serving = FakeServing(lambda _, call: call.reply.finish(failure))
    answer = said(serving, post("/v1/models/m:predict", b"{}"))
    assert json.loads(answer.body) == {"error": failure.message}
    assert answer.header("mm-code") == failure.code.name


# --- names


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
@pytest.mark.parametrize("route", ["/v1/models/{}:predict", "/v2/models/{}/infer"])
def test_a_hostile_name_is_a_name_that_nobody_has(route: str, name: str) -> None:
    serving = FakeServing()
    raw = "".join(f"%{byte:02x}" for byte in name.encode()) if len(name) < 9999 else name
    with rest(serving) as server:
        caller = server.caller()
        answer = caller.ask(post(route.format(raw), b"{}"))
        assert answer.status == 404
        assert json.loads(answer.body) == {"error": f"Model with name {name} does not exist."}
        assert answer.header("set-cookie") is None
        assert caller.ask(get("/v1/models/m")).status == 200, "the connection lives on"
    assert [model_id for model_id, _ in serving.asked] == [name], "decoded once, and nothing more"


@pytest.mark.parametrize("raw", ["%", "%4", "a%zz", "%ff", "%c3%28", "%ed%a0%80"])
@pytest.mark.parametrize(
    "route",
    ["/v1/models/{}:predict", "/v2/models/{}/infer", "/v2/repository/models/{}/load"],
)
def test_a_name_that_cannot_be_decoded_is_the_callers_mistake(route: str, raw: str) -> None:
    serving = FakeServing()
    answer = said(serving, post(route.format(raw), b"{}"))
    assert answer.status == 400
    assert set(json.loads(answer.body)) == {"error"}
    assert not serving.asked


def test_the_name_in_a_path_is_told_from_its_verb_before_it_is_decoded() -> None:
    serving = FakeServing()
    serving.models["m:predict"] = Readiness(True, True)
    answer = said(serving, get("/v1/models/m%3Apredict"))
    assert answer.body == b'{"name":"m:predict","ready":true}'


# --- model metadata


def metadata_of(body: bytes) -> Answer:
    return said(FakeServing(lambda _, call: call.reply.answer(body)), get("/v2/models/m"))


def test_metadata_is_asked_as_a_message_and_told_as_json() -> None:
    tensor = pb.ModelMetadataResponse.TensorMetadata
    found = pb.ModelMetadataResponse(
        name="m",
        platform="sklearn",
        inputs=[tensor(name="input-0", datatype="FP64", shape=[-1, 4])],
        outputs=[tensor(name="output-0", datatype="INT64", shape=[-1])],
    )
    serving = FakeServing(lambda _, call: call.reply.answer(found.SerializeToString()))
    answer = said(serving, get("/v2/models/m/versions/1"))
    assert answer.said == (
        200,
        b'{"name":"m","platform":"sklearn",'
        b'"inputs":[{"name":"input-0","datatype":"FP64","shape":[-1,4]}],'
        b'"outputs":[{"name":"output-0","datatype":"INT64","shape":[-1]}]}',
    )
    ((model_id, call),) = serving.asked
    assert (model_id, call.kind) == ("m", kinds.MODEL_METADATA)
    assert pb.ModelMetadataRequest.FromString(bytes(call.body)).name == "m"


def test_versions_and_properties_are_told_where_there_are_any() -> None:
    found = pb.ModelMetadataResponse(name="m", versions=["1", "2"], properties={"k": "v"})
    assert json.loads(metadata_of(found.SerializeToString()).body) == {
        "name": "m",
        "versions": ["1", "2"],
        "platform": "",
        "inputs": [],
        "outputs": [],
        "properties": {"k": "v"},
    }


def test_metadata_that_is_no_message_is_the_runtimes_mistake() -> None:
    answer = metadata_of(b"\xff\xff\xff")
    assert answer.said == (500, b'{"error":"the runtime answered with malformed metadata"}')


# --- waiting


def test_a_caller_that_leaves_ends_the_load_it_waits_for() -> None:
    serving = FakeServing()
    with rest(serving) as server:
        caller = server.caller()
        caller.write(post("/v2/repository/models/x%3Ay/load"))
        server.until(lambda: serving.loads == ["load x:y"])
        names = server.at(lambda: {task.get_name() for task in asyncio.all_tasks(server.loop)})
        assert any("/load" in name for name in names)
        caller.close()
        server.until(lambda: not asyncio.all_tasks(server.loop) - {asyncio.current_task()})


def test_a_load_ends_with_its_callers_deadline() -> None:
    request = post("/v2/repository/models/x%3Ay/load", b"", "mm-timeout-ms: 20")
    assert said(FakeServing(), request).status == 504


def test_a_bug_in_a_face_is_an_internal_error_and_logged() -> None:
    def fail(model_id: str, call: Call) -> None:
        raise RuntimeError("on purpose")

    answer = said(FakeServing(fail), post("/v1/models/m:predict", b"{}"))
    assert answer.said == (500, b'{"error":"internal error"}')
