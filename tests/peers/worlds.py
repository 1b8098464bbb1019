"""Daemon `a` and its peers, over each implementation: what the contract suite acts in.

`World.faults` are the same on a real network (a relay before each gRPC server) and in memory,
where time is virtual and passes at once.
"""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from modelmesh.domain.fleet import Hops, Intent, Peer
from modelmesh.domain.instances import InstanceRecord
from modelmesh.errors import Failure
from modelmesh.peers.channels import grpc_peers
from modelmesh.peers.headers import HEALTH
from modelmesh.peers.members import Members
from modelmesh.peers.memory import MemoryNetwork
from modelmesh.peers.port import PeerPort
from modelmesh.simulation import clock
from modelmesh.wire.grpcio import GrpcServer
from modelmesh.wire.kinds import MODEL_INFER
from modelmesh.wire.replies import OpenReply
from modelmesh.wire.transport import NO_METADATA, Body, Call, Metadata
from tests.peers.relay import Relay

HIT = Hops(Intent.HIT, "a")


async def until(condition: Callable[[], Any], bound_s: float = 30.0) -> None:
    """Wait for the condition, in the loop's time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + bound_s
    while not condition():
        assert loop.time() < end, "the condition never came true"
        await asyncio.sleep(0.002)


async def elapse(seconds: float) -> None:
    """So much virtual time passes, at once."""
    assert isinstance(asyncio.get_running_loop(), clock.SimulatedLoop)
    await asyncio.sleep(seconds)


class Answer(OpenReply):
    """A caller's reply that keeps everything it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []
        self.ends: list[Failure | None] = []
        self.metadata: Metadata = NO_METADATA

    @property
    def slow(self) -> bool:
        return False

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        self.send(body)
        self.finish(None, metadata)

    def send(self, message: Body) -> None:
        self.bodies.append(bytes(message))

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        self.end()
        self.ends.append(failure)
        self.metadata = metadata

    def when_writable(self, callback: Callable[[], None]) -> None:
        callback()

    async def failure(self) -> Failure:
        await until(lambda: self.ends)
        failure = self.ends[0]
        assert failure is not None
        return failure

    async def body(self) -> bytes:
        await until(lambda: self.ends)
        assert self.ends == [None], self.ends
        return self.bodies[0]


@dataclass
class Callee:
    """One daemon that is called. `then` acts on each call; `health` counts the questions.

    `deaf`: it keeps the questions, and answers none.
    """

    instance_id: str
    then: Callable[[Call], None] = lambda call: call.reply.answer(call.body)
    seen: list[tuple[str, Hops, Call]] = field(default_factory=list)
    queue_depth: int = 0
    health: int = 0
    deaf: bool = False
    unheard: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.port = PeerPort(self.instance_id, self._serve, lambda: self.queue_depth, loop.time)

    def handler(self, calls: list[Call]) -> None:
        self.health += sum(call.kind == HEALTH for call in calls)
        if self.deaf:
            self.unheard += [call for call in calls if call.kind == HEALTH]
            calls = [call for call in calls if call.kind != HEALTH]
        self.port(calls)

    def _serve(self, model_id: str, hops: Hops, call: Call) -> None:
        self.seen.append((model_id, hops, call))
        self.then(call)


class World(ABC):
    """`peers` are those of daemon `a`."""

    peers: Members

    @abstractmethod
    async def add(self, callee: Callee) -> InstanceRecord:
        """Start this daemon; what it publishes."""

    @abstractmethod
    async def crash(self, instance_id: str) -> None:
        """Nobody listens any more; connections are broken."""

    @abstractmethod
    async def drain(self, instance_id: str) -> None:
        """It takes nothing new, and answers what it has: until that has ended."""

    @abstractmethod
    async def restart(self, instance_id: str) -> None:
        """It listens again, at the same address."""

    @abstractmethod
    def block(self, instance_id: str, *, there: bool = False, back: bool = False) -> None:
        """What is sent there, or what comes back, is swallowed."""

    @abstractmethod
    def unblock(self, instance_id: str) -> None:
        """And arrives after all."""

    @abstractmethod
    def cut(self, instance_id: str) -> int:
        """Break its connections; how many there were."""

    @abstractmethod
    def freeze(self, instance_id: str) -> int:
        """Its connections are dead for good, and nobody says so; how many there were."""

    @abstractmethod
    def connections(self, instance_id: str) -> int:
        """How many are open to it."""

    @abstractmethod
    async def close(self) -> None: ...

    async def meet(self, *callees: Callee) -> list[Peer]:
        """Start these, and let `a` know them and be connected to them."""
        records = {callee.instance_id: await self.add(callee) for callee in callees}
        self.peers.update(records)
        for callee in callees:
            assert await self.peers.ask_health(callee.instance_id)
        found = [self.peers.get(callee.instance_id) for callee in callees]
        return [peer for peer in found if peer is not None]

    def send(
        self,
        instance_id: str = "b",
        body: bytes = b"",
        hops: Hops = HIT,
        on_suspect: Callable[[], None] | None = None,
        **options: Any,
    ) -> Answer:
        answer = Answer()
        kind = options.pop("kind", MODEL_INFER)
        call = Call(kind, body, answer, **options)
        self.peers.call(instance_id, hops, "m", call, on_suspect)
        return answer


class MemoryWorld(World):
    def __init__(self) -> None:
        self.network = MemoryNetwork(random.Random(4))
        self.peers = self.network.peers("a", "at-a")
        self._callees: dict[str, Callee] = {}
        self._addresses: dict[str, str] = {}
        self._added = 0

    async def add(self, callee: Callee) -> InstanceRecord:
        self._added += 1
        address = self._addresses[callee.instance_id] = f"place-{self._added}"
        self._callees[callee.instance_id] = callee
        await self.restart(callee.instance_id)
        return InstanceRecord(start_ms=1, address=address)

    async def crash(self, instance_id: str) -> None:
        self.network.crash(self._addresses[instance_id])

    async def drain(self, instance_id: str) -> None:
        address = self._addresses[instance_id]
        self.network.drain(address)
        await until(lambda: self.network.drained(address))

    async def restart(self, instance_id: str) -> None:
        self.network.listen(self._addresses[instance_id], self._callees[instance_id].handler)

    def block(self, instance_id: str, *, there: bool = False, back: bool = False) -> None:
        if there:
            self.network.block("at-a", self._addresses[instance_id])
        if back:
            self.network.block(self._addresses[instance_id], "at-a")

    def unblock(self, instance_id: str) -> None:
        self.network.heal("at-a", self._addresses[instance_id])

    def cut(self, instance_id: str) -> int:
        before = self.network.struck["cut"]
        self.network.cut("at-a", self._addresses[instance_id])
        return self.network.struck["cut"] - before

    def freeze(self, instance_id: str) -> int:
        before = self.network.struck["freeze"]
        self.network.freeze("at-a", self._addresses[instance_id])
        return self.network.struck["freeze"] - before

    def connections(self, instance_id: str) -> int:
        return self.network.connections("at-a", self._addresses[instance_id])

    async def close(self) -> None:
        await self.peers.close(0)


class GrpcWorld(World):
    def __init__(self) -> None:
        self.peers = grpc_peers("a")
        self._relays: dict[str, Relay] = {}
        self._servers: list[GrpcServer] = []
        self._newest: dict[str, GrpcServer] = {}
        self._all: list[Relay] = []

    async def add(self, callee: Callee) -> InstanceRecord:
        server = GrpcServer(callee.handler)
        self._servers.append(server)
        self._newest[callee.instance_id] = server
        await server.start()
        relay = self._relays[callee.instance_id] = Relay(server.port)
        self._all.append(relay)
        await relay.open()
        return InstanceRecord(start_ms=1, address=f"127.0.0.1:{relay.port}")

    async def crash(self, instance_id: str) -> None:
        await self._relays[instance_id].close()

    async def drain(self, instance_id: str) -> None:
        self._relays[instance_id].refuse()
        await self._newest[instance_id].drain(60)

    async def restart(self, instance_id: str) -> None:
        await self._relays[instance_id].open()

    def block(self, instance_id: str, *, there: bool = False, back: bool = False) -> None:
        relay = self._relays[instance_id]
        if there:
            relay.there.clear()
        if back:
            relay.back.clear()

    def unblock(self, instance_id: str) -> None:
        self._relays[instance_id].there.set()
        self._relays[instance_id].back.set()

    def cut(self, instance_id: str) -> int:
        return self._relays[instance_id].cut()

    def freeze(self, instance_id: str) -> int:
        return self._relays[instance_id].freeze()

    def connections(self, instance_id: str) -> int:
        return self._relays[instance_id].connections

    async def close(self) -> None:
        await self.peers.close(0)
        for server in self._servers:
            await server.drain(0)
        for relay in self._all:
            await relay.close()


Run = Callable[[Callable[[World], Coroutine[Any, Any, None]]], None]


async def _in(
    world: Callable[[], World], act: Callable[[World], Coroutine[Any, Any, None]]
) -> None:
    made = world()
    try:
        await act(made)
    finally:
        await made.close()


def run_in_memory(act: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    clock.run(_in(MemoryWorld, act))


def run_over_grpc(act: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner() as runner:
        runner.run(_in(GrpcWorld, act))


WORLDS: dict[str, Run] = {"memory": run_in_memory, "grpc": run_over_grpc}


def scenario(act: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[Run], None]:
    """Make a pytest function of it that runs in every world."""

    def test(run: Run) -> None:
        run(act)

    test.__name__, test.__doc__ = act.__name__, act.__doc__
    return test


def virtual(act: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Like `scenario`, in memory alone: for what must not happen however long one waits."""

    def test() -> None:
        run_in_memory(act)

    test.__name__, test.__doc__ = act.__name__, act.__doc__
    return test
