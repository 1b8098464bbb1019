"""What a load needs of the rest of the fleet: leave to begin, and to be believed afterwards.

A daemon alone needs neither (`Alone`); a member of a fleet claims each cold model in the registry
before it loads it, and says there what became of its copies.
"""

from typing import Protocol


class Claims(Protocol):
    """Asked by `loading`, on the loop."""

    async def claim(self, model_id: str, *, further: bool) -> None:
        """Leave to load. MeshError with Reason.NOT_HERE: somebody else has it or is getting it.

        `further`: somebody decided that there should be one more copy.
        """

    def loaded(self, model_id: str, load_s: float) -> None:
        """A copy takes calls here, after so many seconds of loading."""

    def failed(self, model_id: str, message: str) -> None:
        """The load that was claimed failed, and it was the model's fault."""

    def gone(self, model_id: str) -> None:
        """There is no copy here, and none is coming."""


class Alone:
    """There is nobody to ask, and nobody to tell."""

    async def claim(self, model_id: str, *, further: bool) -> None:
        return None

    def loaded(self, model_id: str, load_s: float) -> None:
        return None

    def failed(self, model_id: str, message: str) -> None:
        return None

    def gone(self, model_id: str) -> None:
        return None
