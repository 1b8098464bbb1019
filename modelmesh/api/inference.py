"""inference.GRPCInferenceService, and every other unary method that a runtime may know.

A call is routed by an id that is read from its headers or scanned out of its message; the message
itself goes on as it came, and its answer comes back as it is. Only the small questions about the
server and its repository are decoded here. Headers win over the message, except where the
dataplane's configuration says that ids are extracted from it.

ModelInfer is the hot path: no task, no future, nothing decoded but the id.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from modelmesh import __version__
from modelmesh.api.addressing import NOWHERE, Address, address
from modelmesh.api.asking import Answer, Tasks, at_once, parsed
from modelmesh.api.dataplane import EVERYTHING
from modelmesh.api.dispatch import Method
from modelmesh.api.fan_out import FanOut
from modelmesh.api.management_face import Management
from modelmesh.api.serving_face import Serving
from modelmesh.codec.splice import MalformedMessage, Path, find
from modelmesh.errors import (
    Code,
    Failure,
    MeshError,
    Reason,
    invalid,
    not_found,
    unimplemented,
)
from modelmesh.pb import inference_pb2 as pb
from modelmesh.wire.kinds import MODEL_INFER, MODEL_METADATA
from modelmesh.wire.transport import NO_METADATA, Call

SERVICE: Final = "inference.GRPCInferenceService"
SERVER_NAME: Final = "modelmesh"
EXTENSIONS: Final = ("model_repository_extension",)

# Models in one RepositoryIndexResponse, some 6 MiB; it has no pages. Their states are asked for a
# chunk at a time, since a call that waits its turn must not wait for a whole listing.
MOST_INDEXED: Final = 100_000
_CHUNK: Final = 500

# Services of this daemon, and of what stands behind it: their methods are never passed on.
_OURS: Final = (
    "/mmesh.",
    "/modelmesh.",
    "/grpc.health.",
    "/grpc.reflection.",
    "/com.ibm.watson.tas.",
)
_NAME: Final = (1,)  # ModelInferRequest.model_name, ModelMetadataRequest.name
_LONGEST_SHOWN: Final = 200

_NAMELESS = Failure(Code.INVALID_ARGUMENT, "must include mm-model-id header")
_TOO_MANY = Failure(
    Code.RESOURCE_EXHAUSTED,
    f"more than {MOST_INDEXED} models: ask modelmesh.admin.v1.Admin/ListModels, which has pages",
    reason=Reason.MESSAGE_TOO_LARGE,
)


class Inference:
    """The methods of the service, and `pass_on` for those of services unknown here.

    `ready` says whether the whole daemon is ready. Of a call of several models so many are asked at
    a time: `multi_parallelism`.
    """

    def __init__(
        self,
        serving: Serving,
        management: Management,
        tasks: Tasks,
        ready: Callable[[], bool],
        multi_parallelism: int = 4,
    ) -> None:
        self._serving = serving
        self._multi_parallelism = multi_parallelism
        self.dataplane = EVERYTHING  # may change while we run
        self._daemon_ready = ready
        self._management = management
        self._tasks = tasks

    def methods(self) -> dict[str, Method]:
        """By kind."""
        small: dict[str, Method] = {
            "ServerLive": at_once(pb.ServerLiveRequest, self._live),
            "ServerReady": at_once(pb.ServerReadyRequest, self._ready),
            "ServerMetadata": at_once(pb.ServerMetadataRequest, self._server_metadata),
            "ModelReady": self._model_ready,
            "RepositoryIndex": self._tasks.method(pb.RepositoryIndexRequest, self._index),
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        methods = {f"/{SERVICE}/{name}": method for name, method in small.items()}
        return methods | {MODEL_INFER: self.infer, MODEL_METADATA: self.infer}

    # --- what goes on to the model

    def infer(self, call: Call) -> None:
        """A call whose model stands in a header or in field 1 of its message."""
        if self.dataplane is not EVERYTHING and self._named_by_rule(call):
            return
        there = address(call.metadata) if call.metadata else NOWHERE
        if there.names:
            self._ask(there, call)
        else:
            name = _in_message(call, _NAME)
            if not name:
                raise MeshError(_NAMELESS)
            self._serving.infer_named(name, _without_ours(call, there), balanced=there.balanced)

    def pass_on(self, call: Call) -> None:
        """A call of a method that only a runtime may know: a header or a rule says for which."""
        kind, there = call.kind, NOWHERE
        if kind.startswith("/") and not kind.startswith(_OURS):
            if self.dataplane is not EVERYTHING and self._named_by_rule(call):
                return
            there = address(call.metadata)
        if not there.names:
            raise _not_permitted(kind)
        self._ask(there, call)

    def _named_by_rule(self, call: Call) -> bool:
        """Ask the model whose id stands where the rule for this method says; False if none does.

        UNIMPLEMENTED if callers may not use the method.
        """
        rule = self.dataplane.rpc(call.kind)
        if rule is None:
            raise _not_permitted(call.kind)
        name = _in_message(call, rule.path) if rule.path else ""
        if not name:
            return False
        there = address(call.metadata) if call.metadata else NOWHERE
        self._ask(there._replace(names=(name,), vmodel=rule.vmodel), call)
        return True

    def _ask(self, there: Address, call: Call) -> None:
        """Ask the model that the headers name, or each of them."""
        call = _without_ours(call, there)
        names = there.names
        infer = self._serving.infer_vmodel if there.vmodel else self._serving.infer
        if len(names) == 1:
            infer(names[0], call, balanced=there.balanced)
        else:
            ask = partial(infer, balanced=there.balanced)
            parallelism = self._multi_parallelism
            FanOut(ask, names, call, parallelism, all_required=there.all_required).start()

    # --- what is answered here

    def _live(self, _asked: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def _ready(self, _asked: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._daemon_ready())

    def _server_metadata(self, _asked: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name=SERVER_NAME, version=__version__, extensions=EXTENSIONS
        )

    def _model_ready(self, call: Call) -> None:
        """An unknown model is not ready; of an error, Triton's clients would make an exception."""
        asked = parsed(pb.ModelReadyRequest, call.body)
        ready = self._serving.ready(self._named(call, asked.name)).ready
        call.reply.answer(pb.ModelReadyResponse(ready=ready).SerializeToString())

    async def _index(self, asked: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """A model counts as ready if it would be served, loaded or not."""
        response = pb.RepositoryIndexResponse()
        for count, model_id in enumerate(self._serving.names()):
            if count % _CHUNK == _CHUNK - 1:
                await asyncio.sleep(0)
            readiness = self._serving.ready(model_id)
            if len(response.models) >= MOST_INDEXED:
                raise MeshError(_TOO_MANY)
            if readiness.ready or (readiness.known and not asked.ready):
                state = "READY" if readiness.ready else "UNAVAILABLE"
                response.models.add(name=model_id, state=state, reason=readiness.detail)
        return response

    def _load(self, call: Call) -> None:
        asked = parsed(pb.RepositoryModelLoadRequest, call.body)
        # KServe puts the model's name into field 1, Triton into field 2 (1 is then its repository).
        model_id = self._named(call, asked.model_name or asked.repository_name)

        async def load() -> Answer:
            await self._management.load(model_id)
            response = pb.RepositoryModelLoadResponse(model_name=model_id, isLoaded=True)
            return response.SerializeToString(), NO_METADATA

        self._tasks.answer(call, load)

    def _unload(self, call: Call) -> None:
        asked = parsed(pb.RepositoryModelUnloadRequest, call.body)
        model_id = self._named(call, asked.model_name or asked.repository_name)

        async def unload() -> Answer:
            await self._management.unload(model_id)
            response = pb.RepositoryModelUnloadResponse(model_name=model_id, isUnloaded=True)
            return response.SerializeToString(), NO_METADATA

        self._tasks.answer(call, unload)

    def _named(self, call: Call, name: str) -> str:
        """The model of a call whose message is decoded: that of its headers, else this name."""
        there = address(call.metadata)
        if len(there.names) > 1:
            raise invalid("this method takes one model")
        name = there.names[0] if there.names else name
        if not name:
            raise MeshError(_NAMELESS)
        if there.names and not there.vmodel:
            return name
        model_id = self._serving.resolve(name)
        if there.vmodel and not model_id:
            raise not_found("vmodel not found")
        return model_id or name


def _not_permitted(kind: str) -> MeshError:
    return unimplemented(f"Method not found or not permitted: {kind[1:_LONGEST_SHOWN]}")


def _in_message(call: Call, path: Path) -> str:
    """The name that stands there in the message; "" if there is none."""
    try:
        return find(call.body, path)
    except MalformedMessage as error:
        method = call.kind.rpartition("/")[2]
        raise invalid(f"malformed {method}Request: {error}") from None


def _without_ours(call: Call, there: Address) -> Call:
    """The call with the headers that are passed on; itself, if that is all of them."""
    if there.passed is call.metadata or not call.metadata:
        return call
    return Call(call.kind, call.body, call.reply, there.passed, call.deadline)
