"""The heart of a model host, whichever process it is in: calls come in, models answer.

`HostCore` is a transport `Handler` for the kinds of `mmesh.ModelRuntime` and of inference. It runs
one *entry* at a time: one predict of joined requests, one load or one unload. Requests go before
loads, since a load keeps everybody waiting and its caller expects to wait; a load that has waited
long goes in between. What has expired or been left is dropped before it starts.

Must never: raise for what a caller or a model does, start a thread, or know in which process it is.
"""

from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError, Message

import modelmesh
from modelmesh.errors import Code, Failure, MeshError, unimplemented
from modelmesh.pb import inference_pb2, model_runtime_pb2
from modelmesh.wire import kinds
from modelmesh.wire.transport import Call, text
from runtime_adapters import loads, protocols, verdicts
from runtime_adapters.base import TensorSpec
from runtime_adapters.finding import Runtimes
from runtime_adapters.predicts import Predicts
from runtime_adapters.surroundings import Surroundings

MOST_ANSWER_BYTES: Final = 16 << 20
_LOAD_PATIENCE_S: Final = 0.1  # a load that has waited this long is not overtaken twice


class HostCore:
    """A handler with a queue: `take` calls and `step`, or call it to run all that is there."""

    def __init__(
        self,
        runtimes: Runtimes,
        surroundings: Surroundings,
        most_answer_bytes: int = MOST_ANSWER_BYTES,
    ) -> None:
        self._runtimes = runtimes
        self._surroundings = surroundings
        self._loads = loads.Loads(runtimes, surroundings)
        self._predicts = Predicts(self._loads.models, surroundings, most_answer_bytes)
        self._loaded_last = False  # the last entry was a load: one predict at least is next
        self._tell: dict[str, Callable[[Call], Message]] = {
            kinds.RUNTIME_STATUS: self._runtime_status,
            kinds.MODEL_SIZE: self._model_size,
            kinds.PREDICT_MODEL_SIZE: self._predict_model_size,
            kinds.MODEL_METADATA: self._model_metadata,
        }

    def __call__(self, calls: list[Call]) -> None:
        self.take(calls)
        while self.step():
            pass

    def take(self, calls: list[Call]) -> bool:
        """Queue these calls; what needs no entry is answered at once. Whether there was any."""
        answered = False
        for call in calls:
            if call.kind in protocols.KINDS:
                self._predicts.add(model_id_of(call), call)
            elif call.kind in (kinds.LOAD_MODEL, kinds.UNLOAD_MODEL):
                self._loads.add(call)
            else:
                self._answer(call)
                answered = True
        return answered

    def step(self) -> bool:
        """Run one entry; False if nothing waits."""
        load_first = not self._loaded_last and self._loads.waited_s() >= _LOAD_PATIENCE_S
        if self._predicts.waiting and not load_first:
            self._loaded_last = False
            self._predicts.step()
        elif self._loads.waiting:
            self._loaded_last = True
            self._loads.step()
        else:
            return False
        return True

    # --- what can be told without running a model

    def _answer(self, call: Call) -> None:
        tell = self._tell.get(call.kind)
        try:
            if tell is None:
                raise unimplemented(f"a model host has no {verdicts.printable(call.kind)}")
            call.reply.answer(tell(call).SerializeToString())
        except MeshError as error:
            call.reply.finish(error.failure)
        except DecodeError as error:
            call.reply.finish(Failure(Code.INVALID_ARGUMENT, f"malformed message: {error}"))
        except Exception as error:  # a runtime's own `predict_size`, say
            call.reply.finish(verdicts.model_error(verdicts.text_of(error)))

    def _runtime_status(self, call: Call) -> Message:
        status = model_runtime_pb2.RuntimeStatusResponse
        return status(
            status=status.READY, maxLoadingConcurrency=1, runtimeVersion=modelmesh.__version__
        )

    def _model_size(self, call: Call) -> Message:
        """A model's weight; for the empty id, the private bytes of the whole process."""
        model_id = model_runtime_pb2.ModelSizeRequest.FromString(bytes(call.body)).modelId
        if model_id:
            held = self._loads.models.get(model_id)
            if held is None:
                raise MeshError(verdicts.not_held(model_id))
            size_bytes = held.size_bytes
        else:
            size_bytes = self._surroundings.private_bytes()
        return model_runtime_pb2.ModelSizeResponse(sizeInBytes=size_bytes)

    def _predict_model_size(self, call: Call) -> Message:
        source = loads.source_of(call)
        size_bytes = self._runtimes.runtime_for(source.type).predict_size(source)
        return model_runtime_pb2.PredictModelSizeResponse(sizeInBytes=size_bytes)

    def _model_metadata(self, call: Call) -> Message:
        request = inference_pb2.ModelMetadataRequest.FromString(bytes(call.body))
        model_id = model_id_of(call) or request.name
        held = self._loads.models.get(model_id)
        if held is None:
            raise MeshError(verdicts.not_held(model_id))
        return inference_pb2.ModelMetadataResponse(
            name=request.name or model_id,
            platform=held.model.platform,
            inputs=[_spec(spec) for spec in held.model.inputs],
            outputs=[_spec(spec) for spec in held.model.outputs],
        )


def _spec(spec: TensorSpec) -> inference_pb2.ModelMetadataResponse.TensorMetadata:
    return inference_pb2.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype, shape=spec.shape
    )


def model_id_of(call: Call) -> str:
    """The model that a call is about ("": it does not say)."""
    return text(call.header(kinds.MODEL_ID) or call.header(kinds.MODEL_ID_BIN))
