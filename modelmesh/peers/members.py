"""The Peers door over any wire: what is the same for real sockets and for the network in memory.

A wire is given as `connect(address)`. All that decides is `suspicion`, all that keeps account is
`watched`; here is only who exists.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Final

import structlog

from modelmesh.domain.fleet import Hops, Intent, Peer
from modelmesh.domain.instances import InstanceRecord
from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.peers import headers
from modelmesh.peers.forwarded import Finding, Forwarded, Question
from modelmesh.peers.links import Connect, Links
from modelmesh.peers.suspicion import DEFAULT_TIMES, Times
from modelmesh.peers.watched import Watched
from modelmesh.wire.transport import Call, Metadata

_NOT_KNOWN: Final = Failure(
    Code.UNAVAILABLE, "no such instance", Fault.PEER, Reason.NOT_HERE, executed=False
)
_IDENTIFY_S: Final = 1.0  # a new connection and one answer; nobody waits for it but a start

_CLOSE_S: Final = 5.0

log = structlog.get_logger("peers")


class Members:
    """All peers of the daemon `instance_id`. `clock`: monotonic seconds."""

    def __init__(
        self,
        instance_id: str,
        connect: Connect,
        clock: Callable[[], float],
        times: Times = DEFAULT_TIMES,
        further: Metadata = (),
    ) -> None:
        """`further`: headers that every call carries beside ours."""
        self._me = instance_id
        self._connect = connect
        self._links = Links(connect)
        self._clock = clock
        self._times = times
        self._further = further
        self._watched: dict[str, Watched] = {}
        self._peers: dict[str, Peer] = {}
        self._leaving: set[Watched] = set()
        self._closed = False

    def update(self, records: Mapping[str, InstanceRecord]) -> None:
        if self._closed:
            return
        self._leaving = {watched for watched in self._leaving if watched.open}
        for instance_id in [known for known in self._watched if known not in records]:
            watched = self._watched.pop(instance_id)
            del self._peers[instance_id]
            watched.remove()
            if watched.open:
                self._leaving.add(watched)
        for instance_id, record in records.items():
            known = self._watched.get(instance_id)
            if known is not None:
                known.renew(record)
            elif instance_id != self._me:
                self._add(instance_id, record)

    def _add(self, instance_id: str, record: InstanceRecord) -> None:
        peer = self._peers[instance_id] = Peer(instance_id, record)
        watched = Watched(peer, self._links, self._times, self._clock)
        self._watched[instance_id] = watched
        watched.ask()  # its link is there when the first call comes, or it is known not to be

    def get(self, instance_id: str) -> Peer | None:
        return self._peers.get(instance_id)

    def all(self) -> Collection[Peer]:
        return self._peers.values()

    def call(
        self,
        instance_id: str,
        hops: Hops,
        model_id: str,
        call: Call,
        on_suspect: Callable[[], None] | None = None,
    ) -> Callable[[], None]:
        watched = self._watched.get(instance_id)
        if watched is None:
            call.reply.finish(_NOT_KNOWN)
            return _nothing
        sent = Forwarded(
            call.reply, watched, watched.lane, self._clock(), on_suspect, hops.intent is Intent.HIT
        )
        watched.begin(sent)
        leave = sent.leave
        call.reply.when_gone(leave)  # at once, if it has gone: then the wire sends nothing
        watched.lane.caller.start(
            Call(
                headers.sent_kind(call.kind),
                call.body,
                sent,
                (*headers.to_metadata(hops, model_id, call.metadata), *self._further),
                call.deadline,
            )
        )
        return leave

    async def ask_health(self, instance_id: str) -> bool:
        watched = self._watched.get(instance_id)
        return watched is not None and await watched.answers()

    async def identify(self, address: str) -> str | None:
        answered: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

        def found(finding: Finding, instance_id: str) -> None:
            if not answered.done():
                answered.set_result(instance_id if finding is Finding.ANSWERED else None)

        caller, question = self._connect(address), Question(found)
        caller.start(Call(headers.HEALTH, b"", question))
        try:
            async with asyncio.timeout(_IDENTIFY_S):
                return await answered
        except TimeoutError:
            return None
        finally:
            question.leave()
            await caller.close()

    async def close(self, grace_s: float) -> None:
        self._closed = True
        watched = [*self._watched.values(), *self._leaving]
        self._watched.clear()
        self._peers.clear()
        await asyncio.gather(*(one.close(grace_s) for one in watched))
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._links.closed()
        except TimeoutError:
            log.warning("links to peers do not close")


def _nothing() -> None:
    """Nothing was sent."""
