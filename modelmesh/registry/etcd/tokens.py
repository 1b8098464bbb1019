"""Who we are to etcd: a token got for user and password, and got anew when it is no longer good.

A token is renewed when etcd refuses one, not by the clock: a restart forgets tokens long before
they are due, and only etcd knows their life. Callers that were refused together share one renewal,
and its failure: none waits for the attempts of those before it.
"""

import asyncio
from typing import Any, Final

import grpc

from modelmesh.observe.tasks import spawn
from modelmesh.pb.etcd import rpc_pb2
from modelmesh.registry.etcd.links import AUTHENTICATE, Links

# etcd hashes the password (bcrypt) for it.
AUTHENTICATE_S: Final = 2.0

Headers = tuple[tuple[str, str], ...]

# A member that has lost its leader must say so instead of keeping us waiting.
_LEADER: Final[Headers] = (("hasleader", "true"),)


class Tokens:
    def __init__(self, links: Links, user: str, password: str) -> None:
        self._links = links
        self._user = user
        self._password = password
        self._renewing: asyncio.Task[Any] | None = None
        self._headers = _LEADER
        self._wanted = bool(user)
        self.renewals = 0

    def refused(self, headers: Headers) -> bool:
        """etcd did not take these; whether there is a way to get better ones."""
        if self._user and headers is self._headers:
            self._wanted = True
        return bool(self._user)

    async def headers(self, endpoint: int) -> Headers:
        """What goes with a call. Raises grpc.aio.AioRpcError where no token is to be had."""
        if self._wanted:
            if self._renewing is None:
                self._renewing = spawn(self._renew(endpoint), "etcd token")
            error = await asyncio.shield(self._renewing)
            if error is not None:
                raise error
        return self._headers

    async def _renew(self, endpoint: int) -> Any:
        """Get a token; the error, if there is none to be had."""
        authenticate = self._links.method(endpoint, AUTHENTICATE)
        request = rpc_pb2.AuthenticateRequest(name=self._user, password=self._password)
        try:
            answer = await authenticate(request, timeout=AUTHENTICATE_S, metadata=_LEADER)
            self._headers = (*_LEADER, ("token", answer.token))
        except grpc.aio.AioRpcError as error:
            if not _is_off(error):
                return error
            self._headers = (*_LEADER,)
        finally:
            self._renewing = None
        self._wanted = False
        self.renewals += 1
        return None


def _is_off(error: Any) -> bool:
    """etcd asks nobody who he is (yet)."""
    return "authentication is not enabled" in (error.details() or "")
