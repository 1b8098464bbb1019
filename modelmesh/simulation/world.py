"""A fleet in one loop: real daemons, a network and a store in memory, and callers that retry.

`World` starts, stops, crashes and cuts daemons; callers reach a daemon as gRPC clients do: one that
refuses connections is left for another one, everything else is the answer.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Final

from modelmesh.assembly import DirectHealth
from modelmesh.daemon import Daemon, Doors
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Failure, MeshError
from modelmesh.fleet_config import FleetDoors, MemberConfig
from modelmesh.peers.door import Peers
from modelmesh.peers.memory import MemoryNetwork
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.mirror import Mirror
from modelmesh.settings import Settings
from modelmesh.simulation.doors import REQUEST_ID, TYPE, Ledger, SimulatedRuntime, SimulatedStorage
from modelmesh.simulation.store import StoreLink
from modelmesh.wire.awaiting import FutureReply
from modelmesh.wire.kinds import V1_PREDICT
from modelmesh.wire.transport import Call

# The wall clock of a simulation begins in 2026; it need not begin anywhere else.
WALL_START_MS: Final = 1_767_225_600_000


@dataclass(slots=True)
class Pod:
    """One daemon and its doors."""

    instance_id: str
    address: str
    daemon: Daemon
    runtime: SimulatedRuntime
    link: StoreLink
    mirror: Mirror
    alive: bool = True
    accepts: bool = True  # its public port is open


class World:
    """Make it on its loop. Every random choice comes from `rng`."""

    def __init__(self, seed: int, capacity_bytes: int, settings: Settings | None = None) -> None:
        self.rng = Random(seed)
        self.struck: Counter[str] = Counter()
        self.ledger = Ledger()
        self.capacity_bytes = capacity_bytes
        self.store = MemoryStore()
        self.network = MemoryNetwork(Random(self.rng.random()))
        self.pods: dict[str, Pod] = {}
        self._settings = settings or Settings(
            max_load_failures=3, default_model_size_bytes=1000, capacity_bytes=capacity_bytes
        )
        self._loop = asyncio.get_running_loop()
        self._start_s = self._loop.time()
        self._requests = 0

    def wall_ms(self) -> int:
        return WALL_START_MS + round((self._loop.time() - self._start_s) * 1000)

    # --- daemons

    async def start(self, instance_id: str) -> Pod:
        """A new daemon under this id, which becomes ready."""
        address = f"{instance_id}:1"
        link = StoreLink(self.store, Random(self.rng.random()), self.struck)
        confirm = DirectHealth()
        mirror = await Mirror.open(link, Random(self.rng.random()), confirm=confirm)
        confirm.peers = self.network.peers(instance_id, address)
        runtime = SimulatedRuntime(self.ledger, self.capacity_bytes)
        daemon = self._daemon(instance_id, confirm.peers, mirror, runtime)
        await daemon.start()
        assert daemon.peer_port is not None
        self.network.listen(address, daemon.peer_port)
        pod = self.pods[instance_id] = Pod(instance_id, address, daemon, runtime, link, mirror)
        await daemon.join(address)
        return pod

    def _daemon(
        self, instance_id: str, peers: Peers, mirror: Mirror, runtime: SimulatedRuntime
    ) -> Daemon:
        fleet = FleetDoors(
            mirror,
            peers,
            lambda: mirror.answers,
            mirror.look,
            mirror.availability.subscribe,
            mirror.subscribe_restored,
        )
        doors = Doors(
            mirror,
            runtime,
            SimulatedStorage(),
            self._loop.time,
            self.wall_ms,
            Random(self.rng.random()),
            fleet,
        )
        settings = self._settings
        member = MemberConfig(
            instance_id=instance_id,
            lease_s=settings.lease_s,
            load_timeout_s=settings.load_timeout_s,
            failure_expiry_s=settings.load_failure_expiry_s,
            max_load_failures=settings.max_load_failures,
            default_model_size_bytes=settings.default_model_size_bytes,
        )
        return Daemon(settings, doors, member)

    async def stop(self, instance_id: str, grace_s: float = 30.0) -> None:
        """As SIGTERM does it: hand over, say goodbye, go."""
        pod = self.pods[instance_id]
        await pod.daemon.hand_over(grace_s * 2 / 3)
        pod.accepts = False
        await pod.daemon.stop(grace_s / 3)
        self.network.unlisten(pod.address)
        pod.alive = False
        del self.pods[instance_id]

    # --- what callers do

    async def register(self, instance_id: str, *models: tuple[str, str]) -> None:
        """(id, key) through that daemon; raises what goes wrong."""
        items = [(model_id, ModelRecord(TYPE, "", key)) for model_id, key in models]
        outcomes = await self.pods[instance_id].daemon.management.register_many(items)
        for failure in outcomes:
            if failure is not None:
                raise MeshError(failure)

    async def ask(
        self, model_id: str, instance_id: str, timeout_s: float = 30.0
    ) -> bytes | Failure:
        """One predict through that daemon: its answer, or how it failed."""
        self._requests += 1
        reply = FutureReply()
        deadline = self._loop.time() + timeout_s
        metadata = ((REQUEST_ID, str(self._requests)),)
        call = Call(V1_PREDICT, b"{}", reply, metadata, deadline)
        self.pods[instance_id].daemon.instance.infer(model_id, call)
        try:
            async with asyncio.timeout_at(deadline):
                messages = await reply.future
            return bytes(messages[0])
        except MeshError as error:
            return error.failure
        except TimeoutError:
            return Failure(Code.DEADLINE_EXCEEDED, "deadline exceeded")
        finally:
            reply.leave()

    async def close(self) -> None:
        for instance_id in list(self.pods):
            await self.stop(instance_id, grace_s=1.0)
        await self.store.close()
