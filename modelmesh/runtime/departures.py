"""How a model leaves a host; and what becomes of a host that does not let go of one.

A host that a model had to itself ends with it. A shared one is asked; where it does not say that
the model is gone, the memory comes back by ending the host: make before break, so that the others,
which have done nothing, do not notice.

Must never: say that a model is gone before the host has said so, or is dead.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

import structlog

from modelmesh.errors import MeshError
from modelmesh.runtime import client
from modelmesh.runtime.host import Host, named

log = structlog.get_logger("runtime")

END_S: Final = 1.0  # until an idle host that was hung up on is ended by force


class Departures:
    """`renew` moves a host's models into another, and lets it end when its last call has."""

    def __init__(
        self, renew: Callable[[Host], None], unload_timeout_s: float, longest_entry_s: float
    ) -> None:
        self._renew = renew
        self._unload_timeout_s = unload_timeout_s
        self._longest_entry_s = longest_entry_s

    async def leave(self, host: Host, model_id: str) -> None:
        """The model leaves; `MeshError` where it may be there still."""
        host.models.pop(model_id, None)
        if host.dead or not host.usable:
            return
        if host.sole == model_id:
            await host.end(END_S)
            return
        deadline = monotonic() + self._unload_timeout_s
        try:
            await client.unload(host.link, model_id, deadline, named(model_id))
        except MeshError:
            if host.usable:
                raise

    async def clear(self, host: Host, model_id: str) -> None:
        """The same, where nobody is left to try again."""
        try:
            await self.leave(host, model_id)
        except MeshError as error:
            log.warning("unload failed", model=model_id, why=error.failure.message)
            await self.end_gently(host, model_id)

    async def end_gently(self, host: Host, model_id: str) -> bool:
        """End a host for what it keeps, once the others have moved; whether it is dead."""
        log.warning("a host is ended for what it keeps", host=host.number, model=model_id)
        self._renew(host)
        await asyncio.wait([host.ended], timeout=self._longest_entry_s)
        if not host.dead:
            await host.end(END_S)
        return host.dead
