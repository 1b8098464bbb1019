"""A fleet in one loop: real daemons, a network and a store in memory, and callers that retry.

`World` starts, stops, crashes, stops for a while and cuts daemons; callers reach a daemon as gRPC
clients do: one that refuses connections is left for another one, everything else is the answer.

Each daemon is a `Life` of its own: one that crashes or stands still does so entirely, with all
its tasks and timers, as a process does.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random
from typing import Any, Final

from modelmesh.assembly import DirectHealth, member_config
from modelmesh.daemon import Daemon, Doors
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.fleet_config import FleetDoors
from modelmesh.observe.metrics import Metrics
from modelmesh.observe.tasks import spawn
from modelmesh.peers.headers import SENDER
from modelmesh.peers.members import Members
from modelmesh.peers.memory import MemoryNetwork
from modelmesh.policy.resending import IDEMPOTENT_HEADER
from modelmesh.registry.follower import Bounds
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.mirror import Mirror
from modelmesh.settings import Settings
from modelmesh.simulation.borders import Asked, BorderLink, border
from modelmesh.simulation.clock import Life, WorldsOwn
from modelmesh.simulation.doors import REQUEST_ID, TYPE, Ledger, SimulatedRuntime, SimulatedStorage
from modelmesh.simulation.store import SharedStore, StoreLink
from modelmesh.wire.kinds import V1_PREDICT
from modelmesh.wire.transport import Call, text

# The wall clock of a simulation begins in 2026; it need not begin anywhere else.
WALL_START_MS: Final = 1_767_225_600_000
START_S: Final = 60.0  # a daemon that is not ready by then is one that failed to start
CLEAR_S: Final = 30.0
_LOOK_EVERY_S: Final = 0.02

_REFUSED: Final = Failure(Code.UNAVAILABLE, "connection refused", Fault.PEER, executed=False)
_LOST: Final = Failure(Code.UNAVAILABLE, "connection lost", Fault.PEER, executed=True)
_LATE: Final = Failure(Code.DEADLINE_EXCEEDED, "deadline exceeded")


@dataclass(slots=True, eq=False)
class Pod:
    """One daemon and its doors."""

    instance_id: str
    address: str
    life: Life
    link: StoreLink
    runtime: SimulatedRuntime
    daemon: Daemon
    mirror: Mirror
    ready: bool = False
    accepts: bool = False  # its public port is open
    leaving: bool = False
    callers: dict[Asked, None] = field(default_factory=dict)  # from outside, and open

    @property
    def alive(self) -> bool:
        return not self.life.dead

    @property
    def runs(self) -> bool:
        return not self.life.standing


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of a request: the body or the failure, and the daemon that was asked last."""

    body: bytes | None
    failure: Failure | None
    instance_id: str


class Parts:
    """What a world builds daemons from; plants put something else in its place."""

    bounds = Bounds()
    daemon: type[Daemon] = Daemon
    link: type[StoreLink] = StoreLink
    mirror: type[Mirror] = Mirror

    def built(self, pod: Pod) -> None:
        """This pod was put together, and has not started yet."""


@cache
def _metrics() -> Metrics:
    """One page for all that this process simulates: nobody reads it, and making one costs."""
    return Metrics()


class World:
    """Make it on its loop. Every random choice comes from `rng`."""

    def __init__(
        self,
        seed: int,
        capacity_bytes: int,
        settings: Settings | None = None,
        parts: Parts | None = None,
    ) -> None:
        self.rng = Random(seed)
        self.struck: Counter[str] = Counter()
        self.ledger = Ledger()
        self.capacity_bytes = capacity_bytes
        self.loop = asyncio.get_running_loop()
        self.own = WorldsOwn(self.loop)
        self.shared = SharedStore(self.loop)
        self.network = MemoryNetwork(Random(self.rng.random()))
        self.network.loop = self.own  # type: ignore[assignment]  # all that it uses of a loop
        self.pods: dict[str, Pod] = {}  # those that live
        self.hops = 0
        self.asked_of: dict[str, str] = {}  # request: the daemon that its caller asked
        self.forwarded_twice: list[str] = []
        self.why_not_started = ""
        self.requests = 0
        self.parts = parts or Parts()
        self._settings = settings or Settings(
            max_load_failures=3, default_model_size_bytes=1000, capacity_bytes=capacity_bytes
        )
        self._start_s = self.loop.time()

    @property
    def store(self) -> MemoryStore:
        """The truth."""
        return self.shared.kept

    def wall_ms(self) -> int:
        return WALL_START_MS + round((self.loop.time() - self._start_s) * 1000)

    # --- daemons

    async def start(self, instance_id: str) -> Pod | None:
        """A new daemon under this id, ready. None if it is not: it ended, as a process does that
        cannot start, or it has hung for `START_S`."""
        life = Life(instance_id)
        starting = _outcome(self._bring_up(instance_id, life))
        done: asyncio.Task[Pod | MeshError] = life.run(spawn, starting, "start")
        await asyncio.wait([done], timeout=START_S)
        if not done.done():
            self.why_not_started = "it takes too long"
            return None
        failure = done.exception() or done.result()
        if isinstance(failure, Pod):
            return failure
        self.why_not_started = repr(failure)
        if instance_id in self.pods:
            self._bury(self.pods[instance_id])
        return None

    async def _bring_up(self, instance_id: str, life: Life) -> Pod:
        address = f"{instance_id}:1"
        link = self.parts.link(self.shared, Random(self.rng.random()), self.struck)
        health = DirectHealth()
        mirror = await self.parts.mirror.open(
            link, Random(self.rng.random()), confirm=health, bounds=self.parts.bounds
        )
        runtime = SimulatedRuntime(self.ledger, self.capacity_bytes, instance_id=instance_id)
        network = self.network
        health.peers = peers = Members(
            instance_id,
            lambda target: BorderLink(network.link(address, target), life),
            self.loop.time,
        )
        daemon = self._daemon(instance_id, mirror, runtime, peers)
        pod = Pod(instance_id, address, life, link, runtime, daemon, mirror)
        self.parts.built(pod)
        self.pods[instance_id] = pod
        await daemon.start()
        assert daemon.peer_port is not None
        network.listen(address, border(daemon.peer_port, life, self._came))
        await daemon.join(address)
        await daemon.until_clear(CLEAR_S)
        pod.ready = pod.accepts = True
        return pod

    def _came(self, call: Call) -> None:
        self.hops += 1
        request, sender = text(call.header(REQUEST_ID)), text(call.header(SENDER))
        if request and self.asked_of.get(request, sender) != sender:
            self.forwarded_twice.append(f"request {request}, by {sender}")

    def _daemon(
        self, instance_id: str, mirror: Mirror, runtime: SimulatedRuntime, peers: Members
    ) -> Daemon:
        fleet = FleetDoors(
            mirror,
            peers,
            lambda: mirror.answers,
            mirror.look,
            mirror.availability.subscribe,
            mirror.subscribe_restored,
            mirror.accept_restore,
        )
        doors = Doors(
            mirror,
            runtime,
            SimulatedStorage(),
            self.loop.time,
            self.wall_ms,
            Random(self.rng.random()),
            fleet,
        )
        member = replace(member_config(self._settings, instance_id), log_level="")
        return self.parts.daemon(self._settings, doors, member, _metrics())

    async def stop(self, instance_id: str, grace_s: float = 30.0) -> None:
        """As SIGTERM does it: hand over, say goodbye, go."""
        pod = self.pods[instance_id]
        pod.leaving = True
        await self._within(pod, self._leave(pod, grace_s), 2 * grace_s + 10)
        if pod.alive:
            self._bury(pod)

    async def _leave(self, pod: Pod, grace_s: float) -> None:
        """In the order of `App.stop`: a daemon that leaves the registry has no port open."""
        end_s = self.loop.time() + grace_s
        await pod.daemon.hand_over(grace_s * 2 / 3)
        pod.accepts = False
        ports_end_s = max(end_s, self.loop.time() + 1.0)
        await self._until(lambda: not pod.callers, ports_end_s)
        self.network.drain(pod.address)
        await self._until(lambda: self.network.drained(pod.address), ports_end_s)
        await pod.daemon.stop(max(end_s - self.loop.time(), 0.0))

    async def _until(self, condition: Callable[[], bool], end_s: float) -> None:
        while not condition():
            if self.loop.time() >= end_s:
                return
            await asyncio.sleep(_LOOK_EVERY_S)  # as the real ports look

    async def _within(self, pod: Pod, work: Coroutine[Any, Any, None], bound_s: float) -> None:
        done = pod.life.run(spawn, work, "stop")
        await asyncio.wait([done], timeout=bound_s)
        if not done.done():
            self.struck["stop hung"] += 1

    def crash(self, instance_id: str) -> Pod:
        """As SIGKILL does it."""
        pod = self.pods[instance_id]
        self._bury(pod)
        return pod

    def _bury(self, pod: Pod) -> None:
        pod.life.die()
        pod.accepts = pod.ready = False
        self.network.crash(pod.address)
        if pod.link in self.shared.links:
            self.shared.links.remove(pod.link)
        for reply in list(pod.callers):
            reply.lose(_LOST)
        del self.pods[pod.instance_id]

    def pause(self, instance_id: str) -> None:
        """As SIGSTOP does it."""
        pod = self.pods[instance_id]
        pod.life.stand()
        self.network.pause(pod.address)

    def resume(self, instance_id: str) -> int:
        """How much had waited."""
        pod = self.pods.get(instance_id)
        if pod is None:
            return 0
        self.network.resume(pod.address)
        return pod.life.go_on()

    # --- what callers do

    async def register(self, instance_id: str, *models: tuple[str, str]) -> None:
        """(id, key) through that daemon; raises what goes wrong."""
        items = [(model_id, ModelRecord(TYPE, "", key)) for model_id, key in models]
        management = self.pods[instance_id].daemon.management
        for failure in await self.manage(instance_id, management.register_many(items)):
            if failure is not None:
                raise MeshError(failure)

    async def unregister(self, instance_id: str, model_id: str) -> None:
        management = self.pods[instance_id].daemon.management
        await self.manage(instance_id, management.unregister(model_id))

    async def manage(
        self, instance_id: str, work: Coroutine[Any, Any, Any], bound_s: float = 30.0
    ) -> Any:
        """Have that daemon do it; MeshError if it does not answer."""
        pod = self.pods[instance_id]
        done = pod.life.run(spawn, _outcome(work), "manage")
        await asyncio.wait([done], timeout=bound_s)
        if not done.done():
            raise MeshError(_LATE if pod.alive else _LOST)
        outcome = done.result()
        if isinstance(outcome, MeshError):
            raise outcome
        return outcome

    async def ask(
        self, model_id: str, instance_id: str, timeout_s: float = 30.0
    ) -> bytes | Failure:
        """One predict through that daemon: its answer, or how it failed."""
        self.requests += 1
        answered = await self.call(model_id, [instance_id], str(self.requests), timeout_s)
        return answered.failure if answered.body is None else answered.body  # type: ignore[return-value]

    async def call(
        self,
        model_id: str,
        instance_ids: list[str],
        request_id: str,
        timeout_s: float,
        idempotent: bool = True,
        by_name: bool = False,
    ) -> Answered:
        """One predict through the first of these daemons that takes connections."""
        deadline = self.loop.time() + timeout_s
        metadata: tuple[tuple[str, str], ...] = ((REQUEST_ID, request_id),)
        if not idempotent:
            metadata = (*metadata, (IDEMPOTENT_HEADER, "false"))
        for instance_id in instance_ids:
            pod = self.pods.get(instance_id)
            if pod is not None and pod.accepts:
                self.asked_of[request_id] = instance_id
                return await self._call(pod, model_id, metadata, deadline, by_name)
        return Answered(None, _REFUSED, "")

    async def _call(
        self,
        pod: Pod,
        model_id: str,
        metadata: tuple[tuple[str, str], ...],
        deadline: float,
        by_name: bool,
    ) -> Answered:
        reply, life = Asked(), pod.life
        call = Call(V1_PREDICT, b"{}", reply, metadata, deadline)
        pod.callers[reply] = None
        daemon = pod.daemon
        life.post(daemon.named.infer_vmodel if by_name else daemon.instance.infer, model_id, call)
        try:
            async with asyncio.timeout_at(deadline):
                return Answered(await reply.future, None, pod.instance_id)
        except MeshError as error:
            return Answered(None, error.failure, pod.instance_id)
        except TimeoutError:
            return Answered(None, _LATE, pod.instance_id)
        finally:
            del pod.callers[reply]
            if not life.dead:
                life.post(reply.leave)

    async def close(self) -> None:
        for instance_id in list(self.pods):
            await self.stop(instance_id, grace_s=1.0)


async def _outcome(work: Coroutine[Any, Any, Any]) -> Any:
    """What it returns, or the MeshError that it raised: nobody may be left to hear of it."""
    try:
        return await work
    except MeshError as error:
        return error
