"""Which models have changed, for whoever wants to hear: their records, or their copies here.

It stands where a load asks for its claim, since everything that becomes of a copy is said there:
what it hears it passes on to the fleet's claims, if there are any, and tells. Listeners hear a
model's name and no more; what it has become they ask when they need it.

Must never delay or change a claim.
"""

from collections.abc import Callable

from modelmesh.observe.listeners import Listeners
from modelmesh.registry.models import ModelChange, Models
from modelmesh.serving.claims import Claims

Listener = Callable[[list[ModelChange]], None]


class Changes:
    """`Claims` that tells. What it tells is of the daemon's loop."""

    def __init__(self, claims: Claims, models: Models) -> None:
        self._claims = claims
        self._listeners = Listeners[list[ModelChange]]("models")
        models.subscribe(self._listeners.tell)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Be told of every change; returns the way to stop."""
        return self._listeners.subscribe(listener)

    async def claim(self, model_id: str, *, further: bool) -> None:
        await self._claims.claim(model_id, further=further)
        self._copy_changed(model_id)

    def loaded(self, model_id: str, load_s: float) -> None:
        self._claims.loaded(model_id, load_s)
        self._copy_changed(model_id)

    def failed(self, model_id: str, message: str) -> None:
        self._claims.failed(model_id, message)
        self._copy_changed(model_id)

    def gone(self, model_id: str) -> None:
        self._claims.gone(model_id)
        self._copy_changed(model_id)

    def _copy_changed(self, model_id: str) -> None:
        if self._listeners:
            self._listeners.tell([ModelChange(model_id, exists=True, created=False)])
