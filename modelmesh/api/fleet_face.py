"""What the fleet's part of the admin service asks of the serving room. Raises `MeshError`."""

from collections.abc import Callable
from typing import Protocol

from modelmesh.api.management_face import Management
from modelmesh.serving.changes import Listener
from modelmesh.serving.status import InstanceView, ModelView
from modelmesh.serving.wishes import WishChange


class FleetFace(Management, Protocol):
    """Management, and beside it wishes for models, what changes, and who is there."""

    async def set_wishes(self, model_id: str, change: WishChange) -> ModelView:
        """Write what an operator wishes for the model; its row. NOT_FOUND if there is none."""

    def view(self, model_id: str) -> ModelView | None:
        """The model's row, if there is such a model."""

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Be told which models have changed; returns the way to stop."""

    def instances(self) -> list[InstanceView]:
        """Every instance that exists, by name."""

    def accept_restore(self) -> int:
        """What a restored store lacks shall be gone; how much was kept until now."""
