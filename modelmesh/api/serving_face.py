"""What the inference faces ask of the serving room. Everything here is synchronous and cheap."""

from collections.abc import Iterator
from typing import Protocol

from modelmesh.serving.status import Readiness
from modelmesh.wire.transport import Call


class Serving(Protocol):
    """Models to be used, whoever holds them."""

    draining: bool

    def infer(self, model_id: str, call: Call, *, balanced: bool = False) -> None:
        """Answer the call on this model through `call.reply`, loading it if need be.

        `balanced`: its caller spreads its calls over the fleet, so that it is best served here.
        The call's kind says what its body is (see wire.kinds); NOT_FOUND if there is no such model.
        """

    def infer_vmodel(self, vmodel_id: str, call: Call, *, balanced: bool = False) -> None:
        """The same on the model that this vmodel stands for now; NOT_FOUND if there is none."""

    def infer_named(self, name: str, call: Call, *, balanced: bool = False) -> None:
        """The same on the vmodel of this name, or else on the model."""

    def resolve(self, vmodel_id: str) -> str:
        """The model that a vmodel stands for now; "" if there is no such vmodel."""

    def is_registered(self, model_id: str) -> bool:
        """Whether there is such a model."""

    def ready(self, name: str) -> Readiness:
        """Whether a request by this name would be served; asking never loads."""

    def names(self, prefix: str = "") -> Iterator[str]:
        """Registered models whose id starts so, in the order of their ids."""


class Repository(Protocol):
    """Loading and unloading on purpose. Both end by themselves, and raise `MeshError`."""

    async def load(self, model_id: str) -> None:
        """Load and wait, whatever failures are remembered; raises why it failed."""

    async def unload(self, model_id: str) -> bool:
        """Unload after the last call; whether it was loaded. NOT_FOUND if there is none."""
