"""Door 4: where a model's files come from.

The daemon names a model's path as it was registered; a storage makes it a local path that a host
may open. The daemon itself never reads a byte of a model. Which schemes work is known at
registration, so that a typo is refused there and not at the first request.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model's files on this machine. `size_bytes` is what lies on disk (0: needs no files)."""

    path: str
    size_bytes: int


class Storage(Protocol):
    """The door. Failures are `MeshError`: FAILED_PRECONDITION + LOAD_FAILED if for good (no such
    file), UNAVAILABLE + LOAD_FAILED if a retry may help."""

    @property
    def schemes(self) -> tuple[str, ...]:
        """Schemes that work, for messages: ("file",)."""

    def check(self, path: str) -> None:
        """Refuse (INVALID_ARGUMENT, naming the schemes that work) what could never be fetched."""

    async def fetch(self, model_id: str, path: str, key: str) -> LocalModel:
        """Bring the model's files here, or find them."""

    async def release(self, model_id: str) -> None:
        """The model's files are no longer needed by this daemon."""
