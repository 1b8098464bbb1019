"""One daemon without its ports: the serving room and, in a fleet, its membership, on given doors.

`app` gives it the real doors and opens ports in front of it; the simulation gives it doors in
memory and a clock of its own. Nothing but wiring belongs here: no decision, no parsing, no socket.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from modelmesh.assembly import capacity_bytes, inflight_rule
from modelmesh.cache.copies import Copies
from modelmesh.fleet_config import FleetDoors, MemberConfig
from modelmesh.member import Member
from modelmesh.observe.metrics import FleetGauges, Metrics
from modelmesh.peers.port import PeerPort
from modelmesh.registry.models import Models
from modelmesh.registry.store import LEADER
from modelmesh.registry.tables import TabledStore
from modelmesh.registry.vmodels import VModels
from modelmesh.runtime.door import Runtime
from modelmesh.serving.changes import Changes
from modelmesh.serving.claims import Alone
from modelmesh.serving.failures import LoadFailures
from modelmesh.serving.fleet_management import FleetManagement
from modelmesh.serving.gauges import alone_gauges
from modelmesh.serving.instance import Instance
from modelmesh.serving.keeping import Kept
from modelmesh.serving.loading import Loader, LoadLimits
from modelmesh.serving.management import Management
from modelmesh.serving.named import Named
from modelmesh.serving.parts import Parts
from modelmesh.serving.standing import CopiesOf, Here
from modelmesh.serving.vmodels import VModelManagement
from modelmesh.settings import Settings
from modelmesh.storage.door import Storage
from modelmesh.tasks.transitions import Transitions

_UNKNOWN_CAPACITY = 0  # until the runtime has started and its hosts' base is known


@dataclass(slots=True)
class Doors:
    """The world of one daemon. `fleet` is None for one that is alone."""

    store: TabledStore
    runtime: Runtime
    storage: Storage
    clock: Callable[[], float]  # monotonic seconds
    wall_ms: Callable[[], int]  # milliseconds since the epoch
    rng: Random
    fleet: FleetDoors | None = None


class Daemon:
    """Make it on its loop; `start` once, `join` once if there is a fleet, at last `stop`."""

    def __init__(
        self,
        settings: Settings,
        doors: Doors,
        member: MemberConfig,
        metrics: Metrics | None = None,
    ) -> None:
        self._settings = settings
        self._doors = doors
        self.metrics = metrics or Metrics()
        self.member = self._member(member) if doors.fleet is not None else None
        self.parts = self._parts()
        self.instance = self._instance()
        self._keep()
        self.management = self._management(member.instance_id)
        self.peer_port = self._peer_port()
        self._wire_vmodels()
        self._runtime_runs = False

    # --- wiring

    def _member(self, config: MemberConfig) -> Member:
        doors = self._doors
        assert doors.fleet is not None
        return Member(config, doors.fleet, doors.rng, doors.clock, doors.wall_ms)

    def _parts(self) -> Parts:
        settings, doors = self._settings, self._doors
        copies = Copies(
            _UNKNOWN_CAPACITY,
            settings.eviction_policy,
            half_life_s=settings.rate_half_life_s,
            max_waiting=settings.max_queued_loads,
        )
        failures = LoadFailures(settings.max_load_failures, settings.load_failure_expiry_s)
        limits = LoadLimits(
            settings.max_queued_loads, settings.max_waiting_bytes, settings.space_wait_s
        )
        models = Models(doors.store)
        changes = Changes(self.member.claims if self.member is not None else Alone(), models)
        loader = Loader(
            copies, doors.runtime, doors.storage, failures, self.metrics, limits, doors.clock,
            changes,
        )  # fmt: skip
        return Parts(
            models, copies, doors.runtime, failures, loader, self.metrics, doors.clock, changes
        )

    def _instance(self) -> Instance:
        settings, member = self._settings, self.member
        view = decide = None
        if member is not None:
            view, decide = member.see(self.parts, lambda: self.instance.open_calls), member.decide
        return Instance(
            self.parts,
            view,
            decide,
            max_concurrent_calls=settings.max_concurrent_calls,
            inflight_limit=inflight_rule(settings, self._doors.runtime),
            log_each_invoke=settings.log_each_invoke,
        )

    def _keep(self) -> None:
        member = self.member
        if member is None:
            Kept(self.parts, None)
        else:
            Kept(self.parts, member.view, member.records)

    def _management(self, instance_id: str) -> Management:
        made = Management if self.member is None else FleetManagement
        return made(self.parts, self._doors.storage, instance_id, self._doors.wall_ms)

    def _peer_port(self) -> PeerPort | None:
        if self.member is None:
            return None
        assert isinstance(self.management, FleetManagement)
        return self.member.attach(self.instance, self.management)

    def _wire_vmodels(self) -> None:
        doors, member = self._doors, self.member
        copies: CopiesOf
        if member is None:
            vmodels, copies = VModels(doors.store), Here(self.parts, self.management)
        else:
            look, answers = member.look(), member.store_answers
            vmodels, copies = VModels(doors.store, look, answers), member.copies()
        owner, models = self._settings.default_vmodel_owner, self.parts.models
        self.vmodels = VModelManagement(vmodels, self.management, copies, doors.wall_ms, owner)
        self.named = Named(self.instance, models, vmodels)
        self.transitions = Transitions(vmodels, models, self.vmodels.push, self._leads, doors.clock)
        doors.store.table(LEADER).subscribe(self.transitions.wake)

    def _leads(self) -> bool:
        return self.member is None or self.member.rounds.leads()

    def fleet_gauges(self) -> FleetGauges | None:
        """What the whole fleet holds; None where another daemon, its leader, is to be asked."""
        return alone_gauges(self.parts) if self.member is None else self.member.rounds.counted()

    # --- life

    async def start(self) -> None:
        """The runtime up, and the memory for models known."""
        settings, loader = self._settings, self.parts.loader
        self._runtime_runs = True
        status = await self._doors.runtime.start(self.instance)
        loader.open(settings.load_concurrency or status.max_loading_concurrency)
        capacity = capacity_bytes(settings, status)
        loader.carry_out(self.parts.copies.set_capacity(capacity, self._doors.clock()))
        self.transitions.start()

    async def join(self, address: str) -> None:
        """Be one of the fleet, reached at this address of the peer port."""
        if self.member is not None:
            await self.member.join(address)

    async def be_sure(self) -> None:
        """Before anything is managed: this daemon is still who it was. UNAVAILABLE: it is not."""
        if self.member is not None:
            await self.member.be_sure()

    async def until_replaced(self) -> str:
        """Until this daemon must not go on under its id; why."""
        if self.member is None:
            await asyncio.get_running_loop().create_future()  # never: nobody else knows of us
            return ""
        await self.member.ended.wait()
        return self.member.why_ended

    async def until_clear(self, bound_s: float) -> None:
        """Until no other instance is leaving, within the bound."""
        if self.member is not None:
            await self.member.until_nobody_drains(bound_s)

    async def hand_over(self, bound_s: float) -> None:
        """Load nothing new; serve what is loaded until others have it, within the bound."""
        self.instance.draining = True
        self.parts.loader.leave_off()
        if self.member is not None:
            await self.member.hand_over(bound_s)

    async def stop(self, grace_s: float) -> None:
        """Let open calls end within the bound, leave, and end the runtime and the store."""
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_s
        await self.transitions.close()
        await self.instance.drain(grace_s)
        if self.member is not None:
            await self.member.leave(max(end - loop.time(), 1.0))
        fleet = self._doors.fleet
        if fleet is not None:
            await fleet.peers.close(max(end - loop.time(), 1.0))
        if self._runtime_runs:
            await self._doors.runtime.close(max(end - loop.time(), 1.0))
        await self._doors.store.close()
