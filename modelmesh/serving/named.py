"""Names that callers use: models, and vmodels that stand for one of them just now.

A call through a vmodel goes to the model that answers for it. That model may go while the call is
on its way (a transition has ended, an old version was deleted with it): "no such model" is then
believed only after the vmodel was read from the store, and the call goes to the model that answers
now. So with a name that nobody knows here: another daemon may have made it a vmodel a moment ago.

On the path of every request that is not addressed to a model outright: two look-ups, no task.
Must never decide which model answers for a vmodel (`policy.transition`), nor change one.
"""

from collections.abc import Iterator
from typing import Final

import structlog

from modelmesh.errors import Code, Failure, MeshError, not_found
from modelmesh.observe.tasks import spawn
from modelmesh.policy.transition import answering
from modelmesh.registry.models import Models
from modelmesh.registry.vmodels import VModels
from modelmesh.serving.instance import Instance
from modelmesh.serving.status import Readiness
from modelmesh.wire.replies import Passing
from modelmesh.wire.transport import NO_METADATA, Call, Metadata

log = structlog.get_logger("serving")

# Looks of one call: each finds another model than the one that was gone, so a further one means a
# further transition within the call.
_MOST_LOOKS: Final = 4
_NO_VMODEL: Final = not_found("vmodel not found").failure


class Named:
    """An instance, addressed by names."""

    def __init__(self, instance: Instance, models: Models, vmodels: VModels) -> None:
        self._instance = instance
        self._models = models
        self._vmodels = vmodels
        # What is addressed to a model outright takes no step more.
        self.infer = instance.infer
        self.is_registered = instance.is_registered

    @property
    def draining(self) -> bool:
        return self._instance.draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._instance.draining = draining

    def infer_named(self, name: str, call: Call, *, balanced: bool = False) -> None:
        """Answer the call on the vmodel of this name, or else on the model. Never raises."""
        if name not in self._vmodels and name in self._models:
            self._instance.infer(name, call, balanced=balanced)
        else:
            _Asked(self, name, call, balanced, certain=False).go()

    def infer_vmodel(self, vmodel_id: str, call: Call, *, balanced: bool = False) -> None:
        """Answer the call on the model that this vmodel stands for. Never raises."""
        _Asked(self, vmodel_id, call, balanced, certain=True).go()

    def resolve(self, vmodel_id: str) -> str:
        """The model that answers, as far as the tables know; "" if there is no such vmodel."""
        try:
            record = self._vmodels.get(vmodel_id)
        except MeshError:
            return ""
        if record is None:
            return ""
        return answering(record, record.active_id in self._models)

    def ready(self, name: str) -> Readiness:
        """Of the vmodel or model of this name; asking never loads."""
        return self._instance.ready(self.resolve(name) or name)

    def names(self, prefix: str = "") -> Iterator[str]:
        """Of registered models."""
        return self._instance.names(prefix)

    # --- for calls under way

    def start(self, model_id: str, call: Call, balanced: bool) -> None:
        self._instance.infer(model_id, call, balanced=balanced)

    def known(self, vmodel_id: str) -> str:
        """The model that answers, if the tables have both; "" if the store should be asked."""
        try:
            record = self._vmodels.get(vmodel_id)
        except MeshError:
            return ""
        return record.active_id if record is not None and record.active_id in self._models else ""

    async def look(self, vmodel_id: str) -> str:
        """The model that answers, as the store says; "" if there is no such vmodel."""
        await self._vmodels.look(vmodel_id)
        return self.resolve(vmodel_id)

    def unheard(self) -> Failure | None:
        """What to say where "no such vmodel" is a guess."""
        return self._vmodels.unheard()


class _Asked(Passing):
    """The reply of one call by name. `certain`: the name is a vmodel's, whatever models there are.

    Not believed: NOT_FOUND from a mesh that may have looked at the model of before.
    """

    __slots__ = ("_balanced", "_call", "_certain", "_looks", "_name", "_named", "_tried")

    def __init__(
        self, named: Named, name: str, call: Call, balanced: bool, *, certain: bool
    ) -> None:
        self._reply = call.reply  # without super(): this is made for every such call
        self._named = named
        self._name = name
        self._call = call
        self._balanced = balanced
        self._certain = certain
        self._looks = 0
        self._tried = ""

    def go(self) -> None:
        """To the model that the tables name, if it is there."""
        model_id = self._named.known(self._name)
        if model_id:
            self._try(model_id)
        else:
            self._look_again(_NO_VMODEL)

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        if failure is not None and failure.code is Code.NOT_FOUND and not failure.executed:
            self._look_again(failure, metadata)
        else:
            self._reply.finish(failure, metadata)

    def _try(self, model_id: str) -> None:
        self._tried = model_id
        call = self._call
        call = Call(call.kind, call.body, self, call.metadata, call.deadline)
        self._named.start(model_id, call, self._balanced)

    def _look_again(self, failure: Failure, metadata: Metadata = NO_METADATA) -> None:
        if self._looks >= _MOST_LOOKS:
            self._reply.finish(failure, metadata)
        elif not self.gone:
            self._looks += 1
            spawn(self._look(failure, metadata), f"look for vmodel {self._name}")

    async def _look(self, failure: Failure, metadata: Metadata) -> None:
        try:
            model_id = await self._named.look(self._name)
        except MeshError as error:
            self._reply.finish(error.failure)
            return
        except Exception:
            log.exception("a vmodel could not be looked for", vmodel=self._name)
            model_id = self._named.resolve(self._name)
        if self.gone:
            return
        if not model_id and not self._certain and not self._tried:
            model_id = self._name  # no vmodel has this name: a model, if there is one
        if model_id and model_id != self._tried:
            self._try(model_id)
        elif failure is _NO_VMODEL:
            self._reply.finish(self._named.unheard() or failure)
        else:
            self._reply.finish(failure, metadata)
