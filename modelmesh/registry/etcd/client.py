"""One call to etcd, asked until it is answered or its time is up.

* Each try is short; a member that does not answer is left for the next one.
* What only reads is asked again after any failure of the way; what changes something only where
  it was certainly not done (`meanings`). Otherwise its outcome is unknown, and the caller is told:
  `executed` in its failure. There is no re-reading here: equal bytes under a key do not prove
  that it was we who wrote them, and a proposal that is not there yet may still come.
* A caller with less patience may leave: the member that kept it waiting is left as well.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import grpc

from modelmesh.errors import Code, MeshError
from modelmesh.pb.etcd import rpc_pb2
from modelmesh.registry.etcd.config import EtcdConfig
from modelmesh.registry.etcd.links import KEEP_ALIVE, Links, Reread
from modelmesh.registry.etcd.meanings import Meaning, failure_of, may_ask_again, meaning_of
from modelmesh.registry.etcd.tokens import Headers, Tokens
from modelmesh.registry.local import unavailable

# A try: longer than an election (1 s), shorter than etcd's own 7 s for a proposal that was lost.
TRY_S: Final = 1.5
# A page may have many MiB.
LONG_TRY_S: Final = 4.0
LEAST_TRY_S: Final = 0.1
# Whoever is left by a caller after this long has not answered.
SLOW_S: Final = 0.5
# All tries of one call with the pauses between them, which double; a long try has room for two.
CALL_S: Final = 3.5
LONG_CALL_S: Final = 6.0
PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 0.4
# A token that is refused as often will not be better the next time.
TOKENS: Final = 3

_ON_THE_WAY: Final = frozenset({Meaning.ELSEWHERE, Meaning.UNKNOWN})

Work = Callable[[int, Headers, float], Awaitable[Any]]  # one try there, within that time


class Refused(Exception):
    """A try that failed, and what that means."""

    def __init__(self, meaning: Meaning, details: str) -> None:
        super().__init__(details)
        self.meaning = meaning
        self.details = details


class EtcdClient:
    """Made on a running loop."""

    def __init__(self, config: EtcdConfig, reread: Reread | None = None) -> None:
        self.links = Links(config, reread=reread)
        self.tokens = Tokens(self.links, config.user, config.password)
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()

    async def call(self, path: str, request: Any, *, repeatable: bool, try_s: float = TRY_S) -> Any:
        """etcd's answer; MeshError if there is none that helps."""

        async def work(endpoint: int, headers: Headers, within_s: float) -> Any:
            method = self.links.method(endpoint, path)
            return await method(request, timeout=within_s, metadata=headers)

        return await self._ask(work, repeatable, try_s)

    async def keep_alive(self, lease: int) -> bool:
        """Start the lease's time to live anew; False if there is no such lease."""

        async def work(endpoint: int, headers: Headers, within_s: float) -> Any:
            stream = self.links.method(endpoint, KEEP_ALIVE)(timeout=within_s, metadata=headers)
            try:
                with suppress(asyncio.InvalidStateError):  # it has failed; reading says how
                    await stream.write(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
                answer = await stream.read()
            finally:
                stream.cancel()
            if answer is grpc.aio.EOF:
                raise Refused(Meaning.UNKNOWN, "no answer about the lease")
            return answer

        ttl_s: int = (await self._ask(work, True, TRY_S)).TTL
        return ttl_s > 0

    async def close(self) -> None:
        """Calls that still run end with UNAVAILABLE."""
        if self.closed:
            return
        self.closed = True
        self.ended.set_result(None)
        await self.links.close()

    async def headers(self, endpoint: int) -> Headers:
        """What goes with a call to it; raises Refused, the call itself being certainly not done."""
        try:
            return await self.tokens.headers(endpoint)
        except grpc.aio.AioRpcError as error:
            refused = refusal(error)
            on_the_way = refused.meaning in _ON_THE_WAY
            meaning = Meaning.ELSEWHERE if on_the_way else Meaning.WRONG
            raise Refused(meaning, refused.details) from error
        except asyncio.CancelledError:
            self._unless_closed()
            raise

    async def _ask(self, work: Work, repeatable: bool, try_s: float) -> Any:
        ends_at = self._loop.time() + (CALL_S if try_s <= TRY_S else LONG_CALL_S)
        tries = 0
        while True:
            endpoint = self.links.current
            try:
                return await self._try(work, endpoint, min(try_s, ends_at - self._loop.time()))
            except Refused as refused:
                tries += 1
                if refused.meaning in _ON_THE_WAY:
                    self.links.leave(endpoint)
                if not self._goes_on(refused.meaning, repeatable, tries, ends_at):
                    failure = failure_of(refused.meaning, refused.details, repeatable)
                    raise MeshError(failure) from refused
            rounds = tries - len(self.links)
            if rounds >= 0:
                await asyncio.sleep(min(LONGEST_PAUSE_S, PAUSE_S * 2**rounds))

    async def _try(self, work: Work, endpoint: int, within_s: float) -> Any:
        """One try; raises Refused."""
        if self.closed:
            raise unavailable("the registry is closed")
        headers: Headers = ()
        began_at = self._loop.time()
        try:
            headers = await self.headers(endpoint)
            return await work(endpoint, headers, max(within_s, LEAST_TRY_S))
        except grpc.aio.AioRpcError as error:
            refused = refusal(error)
            if refused.meaning is Meaning.TOKEN and not self.tokens.refused(headers):
                refused.meaning = Meaning.WRONG  # and there is nobody else that we could be
            raise refused from error
        except asyncio.CancelledError:
            self._unless_closed()
            if self._loop.time() - began_at >= SLOW_S:
                self.links.leave(endpoint)
            raise

    def _goes_on(self, meaning: Meaning, repeatable: bool, tries: int, ends_at: float) -> bool:
        if not may_ask_again(meaning, repeatable) or self._loop.time() >= ends_at:
            return False
        return meaning is not Meaning.TOKEN or tries < TOKENS

    def _unless_closed(self) -> None:
        """gRPC cancels the calls of a channel that is closed; that is no cancelled task."""
        task = asyncio.current_task()
        if self.closed and task is not None and not task.cancelling():
            raise unavailable("the registry is closed") from None


def refusal(error: Any) -> Refused:
    """What a status says, in our words."""
    details = error.details() or ""
    code = Code(error.code().value[0])
    return Refused(meaning_of(code, details), details or code.name)
