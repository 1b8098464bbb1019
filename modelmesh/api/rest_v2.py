"""The Open Inference Protocol (V2) over REST, with KServe's bodies and Triton's repository index.

Where it differs from KServe it does more: `/versions/V` in a path, to which KServe answers 501, is
accepted and means nothing, since a registration has one version and that has no name (ModelMesh
treats `model_version` so); unloading what is not loaded succeeds; the repository index exists.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from google.protobuf.message import DecodeError

from modelmesh import __version__
from modelmesh.api import rest_answers as answers
from modelmesh.api.asking import Answer, Tasks
from modelmesh.api.dispatch import Method
from modelmesh.api.inference import EXTENSIONS, SERVER_NAME
from modelmesh.api.rest_infer import infer
from modelmesh.api.serving_face import Repository, Serving
from modelmesh.errors import Code, Failure, Fault, MeshError, Reason, invalid
from modelmesh.pb import inference_pb2 as pb
from modelmesh.wire.kinds import MODEL_METADATA, V2_INFER
from modelmesh.wire.replies import Passing
from modelmesh.wire.transport import NO_METADATA, Body, Call, Metadata

MODELS: Final = "/v2/models/"
REPOSITORY: Final = "/v2/repository/models/"

_CHUNK: Final = 500  # rows of the index between two looks at what else there is to do
_NOT_READY: Final = Failure(
    Code.UNAVAILABLE, "Server is not ready.", Fault.CAPACITY, Reason.DRAINING, 1.0
)

_MALFORMED: Final = Failure(
    Code.INTERNAL, "the runtime answered with malformed metadata", Fault.MODEL, executed=True
)


class RestV2:
    """The routes of the V2 protocol."""

    def __init__(self, serving: Serving, repository: Repository, tasks: Tasks) -> None:
        self._serving = serving
        self._repository = repository
        self._tasks = tasks

    def methods(self) -> dict[str, Method]:
        """Routes whose paths hold no name."""
        return {
            "GET /v2": self._server,
            "GET /v2/health/live": self._live,
            "GET /v2/health/ready": self._ready,
            "GET /v2/models": self._models,
            "POST /v2/repository/index": self._index,
        }

    # --- the server

    def _server(self, call: Call) -> None:
        extensions = [*EXTENSIONS, "binary_tensor_data"]
        answers.answer(
            call, {"name": SERVER_NAME, "version": __version__, "extensions": extensions}
        )

    def _live(self, call: Call) -> None:
        call.reply.answer(b'{"live":true}')

    def _ready(self, call: Call) -> None:
        if self._serving.draining:
            raise MeshError(_NOT_READY)
        call.reply.answer(b'{"ready":true}')

    def _models(self, call: Call) -> None:
        answers.answer_names(call, self._serving.names())

    # --- one model

    def model(self, call: Call, verb: str, rest: str) -> None:
        """A request below `MODELS`, of which `rest` is what follows."""
        raw_name, *more = rest.split("/")
        if len(more) >= 2 and more[0] == "versions" and more[1]:
            more = more[2:]
        action = more[0] if more else ""
        if not raw_name or len(more) > 1 or (more and action not in ("infer", "ready")):
            answers.no_route(call)
        elif action == "infer":
            if verb == "POST":
                infer(self._serving, V2_INFER, raw_name, call)
            else:
                answers.wrong_verb(call, "POST")
        elif verb != "GET":
            answers.wrong_verb(call, "GET, HEAD")
        elif action == "ready":
            model_id = answers.model_name(raw_name)
            answers.answer_readiness(call, model_id, self._serving.ready(model_id))
        else:
            self._metadata(call, raw_name)

    def _metadata(self, call: Call, raw_name: str) -> None:
        """The model's own answer, a message, becomes JSON on its way out."""
        asked = pb.ModelMetadataRequest(name=answers.model_name(raw_name)).SerializeToString()
        wrapped = Call(call.kind, asked, _MetadataReply(call.reply), call.metadata, call.deadline)
        infer(self._serving, MODEL_METADATA, raw_name, wrapped)

    # --- the repository

    def repository(self, call: Call, verb: str, rest: str) -> None:
        """A request below `REPOSITORY`, of which `rest` is what follows."""
        raw_name, _, action = rest.rpartition("/")
        if "/" in raw_name or not raw_name or action not in ("load", "unload"):
            answers.no_route(call)
        elif verb != "POST":
            answers.wrong_verb(call, "POST")
        elif action == "load":
            self._change(call, answers.model_name(raw_name), "load", self._repository.load)
        else:
            self._change(call, answers.model_name(raw_name), "unload", self._repository.unload)

    def _change(
        self, call: Call, model_id: str, action: str, change: Callable[[str], Awaitable[object]]
    ) -> None:
        resolved = self._serving.resolve(model_id) or model_id
        if not self._serving.is_registered(resolved):
            raise MeshError(answers.unknown(model_id))

        async def work() -> Answer:
            await change(resolved)
            return orjson.dumps({"name": model_id, action: True}), NO_METADATA

        self._tasks.answer(call, work)

    def _index(self, call: Call) -> None:
        ready_only = _ready_only(bytes(call.body))

        async def work() -> Answer:
            return orjson.dumps(await self._rows(ready_only)), NO_METADATA

        self._tasks.answer(call, work)

    async def _rows(self, ready_only: bool) -> list[dict[str, str]]:
        """Ready is what would be served, loaded or not, as over gRPC."""
        rows: list[dict[str, str]] = []
        for count, model_id in enumerate(self._serving.names()):
            if count % _CHUNK == _CHUNK - 1:
                await asyncio.sleep(0)
            found = self._serving.ready(model_id)
            if found.ready or (found.known and not ready_only):
                state = "READY" if found.ready else "UNAVAILABLE"
                row = {"name": model_id, "version": "", "state": state, "reason": found.detail}
                rows.append(row)
        return rows


def _ready_only(body: bytes) -> bool:
    """The index's request: nothing, or `{"ready": bool}`."""
    try:
        asked = orjson.loads(body) if body.strip() else {}
    except orjson.JSONDecodeError as error:
        raise invalid(f"Unrecognized request format: {error}") from None
    ready = asked.get("ready", False) if isinstance(asked, dict) else None
    if not isinstance(ready, bool):
        raise invalid('Expected "ready" to be true or false')
    return ready


class _MetadataReply(Passing):
    """Turns a ModelMetadataResponse into the JSON of the protocol."""

    __slots__ = ()

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        try:
            found = pb.ModelMetadataResponse.FromString(bytes(body))
        except DecodeError:
            self._reply.finish(_MALFORMED)
            return
        said: dict[str, Any] = {"name": found.name}
        if found.versions:
            said["versions"] = list(found.versions)
        said["platform"] = found.platform
        said["inputs"] = [_tensor(tensor) for tensor in found.inputs]
        said["outputs"] = [_tensor(tensor) for tensor in found.outputs]
        if found.properties:
            said["properties"] = dict(found.properties)
        self._reply.answer(orjson.dumps(said))


def _tensor(tensor: pb.ModelMetadataResponse.TensorMetadata) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
