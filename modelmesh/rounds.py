"""The slow loops of a member of a fleet, wired: none of them sits on the path of a request.

    publisher (what we say of ourselves)   janitor (what the registry says of us)
    scaler (how many copies)               reaper (the leader tidies up)
    census (the leader counts)

Nothing but wiring belongs here.
"""

import asyncio
from collections.abc import Callable, Mapping
from random import Random

from modelmesh.domain.instances import InstanceRecord
from modelmesh.fleet_config import MemberConfig
from modelmesh.observe import logs
from modelmesh.observe.metrics import FleetGauges
from modelmesh.observe.tasks import every, stop
from modelmesh.policy.reaping import ReapingLimits
from modelmesh.policy.scaling import ScalingLimits, is_too_busy
from modelmesh.registry.claims import CopyRecords
from modelmesh.registry.dynamic import DynamicConfig
from modelmesh.registry.membership import Membership
from modelmesh.registry.store import INSTANCES, MODELS
from modelmesh.registry.tables import TabledStore
from modelmesh.serving.fleet_management import FleetManagement
from modelmesh.serving.instance import Instance
from modelmesh.serving.parts import Parts
from modelmesh.serving.spreading import Spreading
from modelmesh.serving.usage import Judged, Usage
from modelmesh.serving.view import FleetView
from modelmesh.tasks import census, janitor, reaping
from modelmesh.tasks.publishing import Publisher
from modelmesh.tasks.scaling import Scaler


class Rounds:
    """Made with what a member is made of; `start` after joining, `stop` before leaving."""

    def __init__(
        self,
        config: MemberConfig,
        store: TabledStore,
        parts: Parts,
        view: FleetView,
        membership: Membership,
        records: CopyRecords,
        management: FleetManagement,
        spreading: Spreading,
        instance: Instance,
        describe: Callable[[], InstanceRecord],
        wall_ms: Callable[[], int],
        rng: Random,
    ) -> None:
        self._config = config
        self._store = store
        self._parts = parts
        self._view = view
        self._membership = membership
        self._records = records
        self._management = management
        self._spreading = spreading
        self._instance = instance
        self._rng = rng
        self._loops: list[asyncio.Task[None]] = []
        self._unsubscribe: Callable[[], None] = lambda: None
        self.dynamic = DynamicConfig(store)
        self.publisher = Publisher(describe, lambda: membership.record, membership.publish)
        self.janitor = janitor.Janitor(
            store.table(MODELS), config.instance_id, view, records, wall_ms,
            config.failure_expiry_s,
        )  # fmt: skip
        self.usage = Usage(parts, view, self.scaling_limits)
        self.scaler = Scaler(self.usage.look, self, self.scaling_limits, lambda: view.draining)
        self.reaper = reaping.Reaper(
            parts.models, self, self._typical_bytes, parts.clock, wall_ms,
            ReapingLimits(failure_expiry_s=config.failure_expiry_s),
        )  # fmt: skip
        self.census = census.Census(store.table(MODELS), self.leads, self.instances)

    def start(self) -> None:
        self.publisher.start()
        self._unsubscribe = self.dynamic.subscribe(self._dynamic_changed)
        self._dynamic_changed()
        self._loops = [
            every(self._about(janitor.PERIOD_S), self.janitor.tick, "janitor"),
            every(self.scaling_limits().tick_s, self.scaler.tick, "scaler"),
            every(self._about(reaping.PERIOD_S), self.reaper.tick, "reaper"),
            every(census.PERIOD_S, self.census.tick, "census"),
        ]

    async def stop(self) -> None:
        self._unsubscribe()
        await stop(*self._loops)
        await self.scaler.close()
        await self.publisher.stop()

    def _about(self, period_s: float) -> float:
        """Not all daemons at once."""
        return period_s * (0.75 + self._rng.random() / 2)

    def _dynamic_changed(self) -> None:
        config = self._config
        self._instance.log_each_invoke = self.dynamic.log_each_invocation(config.log_each_invoke)
        if config.log_level:
            logs.set_level(self.dynamic.log_level(config.log_level))

    # --- scaling

    def scaling_limits(self) -> ScalingLimits:
        """As they are now: an operator may change them while the fleet runs."""
        config = self._config
        return ScalingLimits(
            scaleup_rpm=self.dynamic.scaleup_rpm(config.scaleup_rpm),
            bandwidth_pct=config.bandwidth_pct,
        )

    async def another_copy(self, judged: Judged) -> str:
        limits, rate_rpm = self.scaling_limits(), judged.use.rate_rpm
        busy = [
            peer.instance_id
            for peer in self._view.peers()
            if is_too_busy(peer.record, rate_rpm, limits)
        ]
        return await self._spreading.another_copy(
            judged.model_id, self._config.load_timeout_s, avoid=busy
        )

    async def drop(self, model_id: str) -> bool:
        if not await self._records.give_up(model_id, self.usage.may_drop):
            return False
        await self._management.unload_here(model_id)
        return True

    def _typical_bytes(self) -> int:
        ledger = self._parts.copies.ledger
        loaded = len(self._parts.copies)
        known = ledger.reserved_bytes // loaded if loaded else 0
        return known or self._config.default_model_size_bytes

    # --- reaping

    def leads(self) -> bool:
        return self._membership.joined and self._membership.is_leader()

    def counted(self) -> FleetGauges | None:
        """What the fleet holds; None if we do not lead it, or have not counted yet."""
        count = self.census.count
        if count is None:
            return None
        return FleetGauges(count.loaded, count.failed, len(self._parts.models))

    def instances(self) -> Mapping[str, InstanceRecord]:
        me = self._config.instance_id
        return {**self._membership.others(), me: self._view.my_record}

    def feasible(self, model_type: str, record: InstanceRecord) -> bool:
        fits = self._view.fits
        return fits is None or fits.rank(model_type, record.labels) is not None

    async def exists(self, instance_id: str) -> bool:
        return await self._store.get(INSTANCES + instance_id) is not None

    async def ensure_loaded(self, model_id: str, last_used_ms: int) -> None:
        never = 1  # 0 means now, and to load ahead is no use of it
        await self._management.ensure_loaded(model_id, last_used_ms or never, sync=False)
