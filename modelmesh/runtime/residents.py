"""The models that our hosts hold, or held until their host died: what the pool of hosts is for.

A resident is loaded as far as the daemon knows. Where its host has died innocently it has no home
for a while; its next call brings it back first and waits.
"""

from dataclasses import dataclass, field

from modelmesh.policy.tiering import Measured
from modelmesh.runtime.door import LoadedModel, LoadRequest
from modelmesh.runtime.host import Host, named
from modelmesh.wire import kinds
from modelmesh.wire.transport import Call, Metadata


@dataclass(slots=True, eq=False)
class Resident:
    """One model."""

    request: LoadRequest
    loaded: LoadedModel
    home: Host | None
    digest: str = ""
    trial: Measured | None = None  # being measured in a process host; None: decided
    accused: bool = False  # it was running when its host died; the verdict is on its way
    moving: bool = False  # being brought back, or settling
    waiting: list[Call] = field(default_factory=list)
    named: Metadata = ()

    def __post_init__(self) -> None:
        self.named = named(self.request.model_id)

    def wait(self, call: Call) -> None:
        """Keep the call until the model has a home, or its caller leaves."""
        self.waiting.append(call)
        call.reply.when_gone(lambda: self._forget(call))

    def _forget(self, call: Call) -> None:
        if call in self.waiting:
            self.waiting.remove(call)

    def addressed(self, call: Call) -> Call:
        """The call as its host wants it: the model's id, and what is needed to read the body.

        Nothing else of the caller's metadata gets to model code.
        """
        metadata = self.named
        if call.metadata:
            metadata += tuple(pair for pair in call.metadata if pair[0] == kinds.BINARY_HEADER)
        return Call(call.kind, call.body, call.reply, metadata, call.deadline, call.inbound)
