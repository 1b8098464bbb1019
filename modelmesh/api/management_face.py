"""What the management faces ask of the serving room.

Failures are raised as `MeshError`. A load that fails is a status where a status is the answer.
Every await ends by itself, bounded by the load timeout and the wait for room.
"""

from collections.abc import Sequence
from typing import Protocol

from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Failure
from modelmesh.policy.transition import SetVModel
from modelmesh.serving.status import Explained, ModelStatus, ModelView
from modelmesh.serving.vmodels import VModelStatus, VModelView


class Management(Protocol):
    """Registering, finding, loading on purpose and explaining."""

    async def register(
        self,
        model_id: str,
        record: ModelRecord,
        load_now: bool,
        sync: bool,
        balanced: bool = False,
    ) -> ModelStatus:
        """Register once: the same again is a success, other attributes are ALREADY_EXISTS."""

    async def register_many(self, items: Sequence[tuple[str, ModelRecord]]) -> list[Failure | None]:
        """Register each; outcomes in the order of the items (None: registered)."""

    async def unregister(self, model_id: str) -> None:
        """No failure if there is no such model."""

    async def status(self, model_id: str) -> ModelStatus:
        """State.NOT_FOUND if there is no such model. Asking is no use of the model."""

    async def ensure_loaded(
        self, model_id: str, last_used_ms: int, sync: bool, balanced: bool = False
    ) -> ModelStatus:
        """Begin to load (`sync`: wait for the end). NOT_FOUND if there is no such model.

        `balanced`: who asks spreads its calls over the fleet, so that it is best loaded here.
        """

    async def load(self, model_id: str) -> None:
        """Load and wait, whatever failures are remembered; why it failed is raised."""

    async def unload(self, model_id: str) -> bool:
        """Unload after the last call; whether it was loaded. NOT_FOUND if there is none."""

    def page(self, prefix: str, after: str, limit: int) -> tuple[list[ModelView], str]:
        """Models in the order of their ids, and the id after which the next page starts, or ""."""

    async def explain(self, model_id: str) -> Explained:
        """What a request would meet now, and what would go for it. NOT_FOUND if there is none."""


class VModelManagement(Protocol):
    """Names that stand for one model now, and for another one soon."""

    async def set_vmodel(self, request: SetVModel) -> VModelStatus:
        """Make it stand for the target as soon as that is loaded; what is refused is raised."""

    async def delete_vmodel(self, vmodel_id: str, owner: str) -> None:
        """No failure if there is none, or it belongs to somebody else."""

    async def vmodel_status(self, vmodel_id: str, owner: str) -> VModelStatus:
        """NOT_FOUND if there is none, or it belongs to somebody else."""

    def vmodel_page(self, prefix: str, after: str, limit: int) -> tuple[list[VModelView], str]:
        """Vmodels in the order of their ids, and the id after which the next page starts, or ""."""
