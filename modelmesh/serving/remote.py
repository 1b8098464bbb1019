"""What daemons ask of each other about models, beside inference: load it, let it go.

A handful of bytes of JSON on the peer port, under kinds of their own (`peer:load`, `peer:unload`).
Who asks is bound to nothing: the one who is asked may refuse, and says why.
"""

import asyncio
import json
from collections.abc import Callable
from math import inf
from typing import Any, Final

from modelmesh.domain.fleet import Hops, Intent
from modelmesh.errors import Code, Failure, Fault, MeshError, invalid
from modelmesh.peers.door import Peers
from modelmesh.wire.awaiting import FutureReply
from modelmesh.wire.transport import Body, Call

LOAD: Final = "peer:load"
UNLOAD: Final = "peer:unload"

_NO_ANSWER = Failure(
    Code.UNAVAILABLE, "the instance did not answer in time", Fault.PEER, retry_after_s=1.0
)
_NONSENSE = Failure(
    Code.UNAVAILABLE, "the instance answered what cannot be understood", Fault.PEER, executed=True
)


class Remote:
    """Asks other instances."""

    def __init__(self, me: str, peers: Peers, clock: Callable[[], float]) -> None:
        self._me = me
        self._peers = peers
        self._clock = clock

    async def load(
        self, instance_id: str, model_id: str, *, further: bool, sync: bool, bound_s: float
    ) -> bool:
        """Have it loaded there; whether it is loaded now (with `sync`: else it may be coming).

        MeshError: why not. `further`: though others have a copy.
        """
        asked = {"further": further, "sync": sync}
        answer = await self._ask(instance_id, model_id, LOAD, asked, Intent.LOAD, bound_s)
        return bool(answer.get("loaded"))

    async def unload(self, instance_id: str, model_id: str, bound_s: float) -> bool:
        """Have the copy there unloaded; whether there was one."""
        answer = await self._ask(instance_id, model_id, UNLOAD, {}, Intent.HIT, bound_s)
        return bool(answer.get("unloaded"))

    async def _ask(
        self,
        instance_id: str,
        model_id: str,
        kind: str,
        asked: dict[str, Any],
        intent: Intent,
        bound_s: float,
    ) -> dict[str, Any]:
        reply = FutureReply()
        deadline = self._clock() + bound_s if bound_s != inf else inf
        body = json.dumps(asked).encode()
        hops = Hops(intent, self._me)
        self._peers.call(instance_id, hops, model_id, Call(kind, body, reply, (), deadline))
        try:
            async with asyncio.timeout(None if bound_s == inf else bound_s):
                messages = await reply.future
        except TimeoutError:
            raise MeshError(_NO_ANSWER) from None
        finally:
            reply.leave()
        try:
            return read(messages[0] if messages else b"")
        except MeshError as error:
            raise MeshError(_NONSENSE) from error


def read(body: Body) -> dict[str, Any]:
    """What such a call or answer says."""
    try:
        said = json.loads(bytes(body))
    except ValueError:
        raise invalid("this is not what daemons say to each other") from None
    if not isinstance(said, dict):
        raise invalid("this is not what daemons say to each other")
    return said
