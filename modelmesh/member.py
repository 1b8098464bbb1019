"""What makes one daemon a member of a fleet: put together here, room by room.

    registry (who exists, who claims) -> peers (who answers) -> view -> walks, management -> tasks

A daemon alone has none of this. Nothing but wiring belongs here: no decision, no parsing.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any

import structlog

from modelmesh.api.asking import Answer, Tasks
from modelmesh.domain.fleet import Hops
from modelmesh.domain.instances import PROTOCOL, InstanceRecord, units_of
from modelmesh.errors import Code, Failure, Fault, MeshError, Reason
from modelmesh.fleet_config import LATER_FIELDS, FleetDoors, MemberConfig
from modelmesh.observe.tasks import logged, spawn, stop
from modelmesh.peers.port import PeerPort
from modelmesh.policy.placement import likely_replaced
from modelmesh.policy.routing import (
    FleetRequest,
    FleetRoute,
    LoadHere,
    RoutingLimits,
    route_in_fleet,
)
from modelmesh.registry.claims import CopyRecords
from modelmesh.registry.membership import Membership
from modelmesh.registry.store import MODELS, VMODELS, Event
from modelmesh.registry.vmodels import Look, fresh_look
from modelmesh.rounds import Rounds
from modelmesh.serving.fleet_claims import FleetClaims
from modelmesh.serving.fleet_management import FleetManagement
from modelmesh.serving.instance import Instance
from modelmesh.serving.parts import Parts
from modelmesh.serving.remote import LOAD, UNLOAD, Remote, read
from modelmesh.serving.spreading import Spreading
from modelmesh.serving.standing import InFleet
from modelmesh.serving.view import FleetView
from modelmesh.serving.walk import Others
from modelmesh.tasks.draining import Drain
from modelmesh.wire.transport import NO_METADATA, Call

# How long what is said of our copies may take to reach the store before we go on without.
_SETTLE_S = 1.0

_JOIN_RETRY_S = 1.0

# How often those who leave are asked whether they still do; a record that changes is looked at now.
_ASK_AGAIN_S = 0.5

_NOTHING_KNOWN = Failure(
    Code.UNAVAILABLE,
    "the registry's store does not answer, and no snapshot of it tells of any model",
    Fault.STORE,
    retry_after_s=1.0,
)

log = structlog.get_logger("fleet")


class Member:
    """One daemon among others. `claims` first, then `attach`, then `join`, at last `leave`."""

    def __init__(
        self,
        config: MemberConfig,
        doors: FleetDoors,
        rng: Random,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
    ) -> None:
        self._config = config
        self._doors = doors
        self._rng = rng
        self._clock = clock
        self._wall_ms = wall_ms
        me = config.instance_id
        self.records = CopyRecords(doors.store, me, wall_ms)
        self.membership = Membership(
            doors.store, me, wall_ms, ttl_s=config.lease_s, replaced=self._replaced
        )
        self.claims = FleetClaims(self.records, lambda: self.view, wall_ms, config.load_timeout_s)
        self._tasks = Tasks()
        self._subscribed: list[Callable[[], None]] = []
        self._at_work: dict[str, asyncio.Task[None]] = {}  # by name, what the store's news began
        self._to_say_again = False  # there was more news while copies were being said
        self._address = ""
        self._limits = RoutingLimits(
            load_timeout_s=config.load_timeout_s,
            failure_expiry_s=config.failure_expiry_s,
            max_load_failures=config.max_load_failures,
        )
        self._joining: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()  # it must not go on under its id (`why_ended`)
        self.why_ended = ""
        self._calls_before = (0, 0.0)
        self._rate_rpm = 0

    # --- wiring

    def see(self, parts: Parts, open_calls: Callable[[], int]) -> FleetView:
        """The view that routing has of this daemon and the others."""
        config = self._config
        self._parts = parts
        self.view = FleetView(
            parts,
            config.instance_id,
            self._doors.peers,
            published=self._record,
            store_answers=self._doors.answers,
            open_calls=open_calls,
            wall_ms=self._wall_ms,
            default_size_bytes=config.default_model_size_bytes,
            fits=config.constraints,
        )
        return self.view

    def decide(self, served: FleetRequest, now: float) -> FleetRoute:
        """Where a call goes."""
        decision = route_in_fleet(self.view, served, now, self._rng.random, self._limits)
        if isinstance(decision, LoadHere):
            self.view.note_begun(served.model_id)
        return decision

    def attach(self, instance: Instance, management: FleetManagement) -> PeerPort:
        """Join the daemon's parts to the fleet; returns what answers on the peer port."""
        self._instance, self._management = instance, management
        peers, me = self._doors.peers, self._config.instance_id
        instance.join(Others(self.view, peers, self._look, instance.route_again))
        self.remote = Remote(me, peers, self._clock)
        self.spreading = Spreading(
            self.view,
            self.remote,
            self._clock,
            self._rng.random,
            self._limits,
            lambda: self.records.flush(_SETTLE_S),
        )
        management.further_fields = LATER_FIELDS if self._config.skew else {}
        management.attach(
            self.view, self.decide, self.remote, self._look, self.records.forgiven,
            self._doors.accept_restore, self._reread,
        )  # fmt: skip
        self.rounds = Rounds(
            self._config, self._doors.store, self._parts, self.view, self.membership, self.records,
            management, self.spreading, instance, self.describe, self._wall_ms, self._rng,
        )  # fmt: skip
        return PeerPort(me, self._serve, lambda: instance.open_calls, self._clock)

    def look(self) -> Look:
        """Reads a key of a model or vmodel into the tables."""
        fresh = fresh_look(self._doors.store, self._doors.answers)

        async def look(key: str) -> None:
            await (fresh(key) if key.startswith(VMODELS) else self._doors.look(key))

        return look

    def store_answers(self) -> bool:
        return self._doors.answers()

    def copies(self) -> InFleet:
        """Where the copies of models are."""
        return InFleet(self.view, self._management, self.spreading, self._clock, self._limits)

    async def _look(self, model_id: str) -> object:
        return await self._doors.look(MODELS + model_id)

    async def _reread(self, model_id: str) -> None:
        """The table sees what the store knows now, though it knows the model already."""
        if self._doors.answers():
            with suppress(MeshError):  # then what the table has must do
                await self._doors.store.get(MODELS + model_id)

    # --- being one of them

    async def join(self, address: str) -> None:
        """Publish ourselves at this address of the peer port, and take part.

        During an outage a daemon that knows the models (from its snapshot) serves them meanwhile,
        and joins as soon as the store answers.
        """
        self._address = address
        self._subscribed = [
            self.membership.subscribe(self._instances_changed),
            self._doors.on_answers(self._answers_again),
            self._doors.on_restored(self._restored),
        ]
        try:
            await self._take_part()
        except MeshError as error:
            if error.failure.fault is not Fault.STORE:
                raise
            if not len(self._parts.models):
                raise MeshError(_NOTHING_KNOWN) from error
            log.warning("joins later", failure=error.failure.message)
            self._joining = spawn(self._join_later(), "join")

    async def _take_part(self) -> None:
        await self.membership.join(self.describe(), self._holder_answers)
        self._look_around()
        self.rounds.start()
        await self.rounds.janitor.sweep()

    async def _join_later(self) -> None:
        while not self.membership.joined:
            await asyncio.sleep(_JOIN_RETRY_S)
            try:
                await self._take_part()
            except MeshError as error:
                if error.failure.fault is not Fault.STORE:
                    self._give_up(error.failure.message)
                    return

    async def hand_over(self, bound_s: float) -> None:
        """Say that we are leaving, and have our copies made elsewhere, within the bound."""
        if not self.membership.joined:
            return
        await self.rounds.publisher.now()
        await Drain(self._by_worth, self.spreading.held_elsewhere, self.spreading.another_copy).run(
            bound_s
        )

    def _by_worth(self) -> list[str]:
        """The loaded models, the most worthy first."""
        copies, now = self._parts.copies, self._clock()
        loaded = [copy.model_id for copy in copies if copies.is_loaded(copy.model_id)]
        return sorted(loaded, key=lambda model_id: -copies.worth(model_id, now))

    async def until_nobody_drains(self, bound_s: float) -> None:
        """Wait, no longer than this, until no other instance is leaving: a fleet that is being
        replaced one by one has then handed over what it had. Who died of it does not count, though
        his record stays as long as his lease."""
        changed = asyncio.Event()
        unsubscribe = self.membership.subscribe(lambda _events: changed.set())
        try:
            async with asyncio.timeout(bound_s):
                while await self._somebody_drains():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_ASK_AGAIN_S):
                            await changed.wait()
                    changed.clear()
        except TimeoutError:
            log.warning("ready though another instance is still leaving")
        finally:
            unsubscribe()

    async def _somebody_drains(self) -> bool:
        """Whether somebody who answers is leaving."""
        peers, others = self._doors.peers, self.membership.others()
        leaving = [each for each, record in others.items() if record.draining]
        await asyncio.gather(*(peers.ask_health(each) for each in leaving))
        found = [peers.get(each) for each in leaving]
        return any(peer.answers for peer in found if peer is not None)

    async def be_sure(self) -> None:
        """Who stood still finds out whether he still is who he was; UNAVAILABLE: he is not.

        While the store does not answer nobody can know, and what writes to it fails by itself.
        """
        if self._doors.answers():
            await self.membership.be_sure()
            if (joining := self._at_work.get("join anew")) is not None:
                await asyncio.wait([joining])
        if self.ended.is_set():
            message = f"this daemon ends: {self.why_ended}"
            raise MeshError(
                Failure(Code.UNAVAILABLE, message, Fault.PEER, Reason.DRAINING, retry_after_s=1.0)
            )

    async def leave(self, bound_s: float) -> None:
        """Say what is left to say, take our record away, and let go."""
        for unsubscribe in self._subscribed:
            unsubscribe()
        await stop(self._joining, *self._at_work.values())
        if self.membership.joined:
            await self.rounds.stop()
            if not self.ended.is_set():  # else who has our name now may have copies
                for copy in self._parts.copies:
                    self.records.gone(copy.model_id)
                await self.records.flush(min(bound_s, 2.0))
            await self.membership.leave()
        await self._tasks.close()
        await self.records.close()

    async def _holder_answers(self, holder: InstanceRecord) -> bool:
        found = await self._doors.peers.identify(holder.address) if holder.address else None
        return found == self._config.instance_id

    # --- what happens

    def _look_around(self) -> None:
        """Who else there is, and whose version is being rolled away."""
        others = self.membership.others()
        self._doors.peers.update(others)
        everybody = [*others.values(), self._record()]
        self.view.replaced_versions = likely_replaced(everybody, self._wall_ms())

    def _instances_changed(self, events: list[Event]) -> None:
        self._look_around()
        for event in events:
            self.view.published(event.key.rpartition("/")[2])

    def _answers_again(self, answers: bool) -> None:
        """After an outage the daemons win for copies: say what is loaded here."""
        if answers:
            self._restored()

    def _restored(self) -> None:
        """What the store says of our copies may be older than they are."""
        self._to_say_again = True
        self._begin("say copies", self._say_everything)

    def _begin(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do it now, unless it is under way."""
        if name not in self._at_work:
            task = self._at_work[name] = spawn(logged(work(), name), name)
            task.add_done_callback(lambda _: self._at_work.pop(name, None))

    async def _say_everything(self) -> None:
        while self._to_say_again:
            self._to_say_again = False
            if self.membership.joined:
                await self.rounds.publisher.now()
            await self.rounds.janitor.sweep()

    def _replaced(self) -> None:
        self._begin("join anew", self._join_anew)

    async def _join_anew(self) -> None:
        """Somebody else has our id: if he answers he keeps it, and we end."""
        try:
            holder = await self.membership.holder()
            ours = holder is not None and holder.address == self._address  # an answer was lost
            if holder is not None and not ours and await self._holder_answers(holder):
                self._give_up(f"instance {self._config.instance_id} is now at {holder.address}")
                return
            await self.membership.rejoin()
        except MeshError as error:
            log.error("could not join anew", failure=error.failure.message)

    def _give_up(self, why: str) -> None:
        """This daemon must not go on under its id."""
        log.error("this daemon ends", why=why)
        self.why_ended = why
        self.ended.set()

    # --- what we say of ourselves

    def _record(self) -> InstanceRecord:
        return self.membership.record if self.membership.joined else self.describe()

    def describe(self) -> InstanceRecord:
        """This daemon as it is now."""
        config, parts, now = self._config, self._parts, self._clock()
        ledger = parts.copies.ledger
        oldest = parts.copies.oldest_use()
        age_ms = round((now - oldest) * 1000) if oldest <= now else 0
        return InstanceRecord(
            start_ms=self._wall_ms(),
            version=config.version + config.skew,
            protocol=PROTOCOL + config.skew,
            unknown=LATER_FIELDS if config.skew else {},
            zone=config.zone,
            location=config.location,
            labels=config.labels,
            lru_ms=self._wall_ms() - age_ms if oldest <= now else 0,
            model_count=len(parts.copies),
            capacity_units=units_of(ledger.usable_bytes),
            used_units=units_of(ledger.reserved_bytes),
            load_slots=parts.loader.slots,
            loading=parts.loader.under_way,
            rate_rpm=self._rpm(now),
            draining=self.view.draining,
            address=self._address,
            victim_worth=parts.copies.victim_worth(now),
        )

    def _rpm(self, now: float) -> int:
        """Calls a minute, over the last ten seconds or more."""
        calls, since = self._calls_before
        ended = self._instance.calls_ended
        if now - since >= 10.0:
            if since:
                self._rate_rpm = round((ended - calls) * 60 / (now - since))
            self._calls_before = (ended, now)
        return self._rate_rpm

    # --- what the others ask of us

    def _serve(self, model_id: str, hops: Hops, call: Call) -> None:
        if call.kind == LOAD:
            self._tasks.answer(call, partial(self._load_here, model_id, read(call.body)))
        elif call.kind == UNLOAD:
            self._tasks.answer(call, partial(self._unload_here, model_id))
        else:
            self._instance.infer(model_id, call, hops)

    async def _load_here(self, model_id: str, asked: dict[str, object]) -> Answer:
        further, sync = bool(asked.get("further")), bool(asked.get("sync"))
        loaded = await self._management.load_here(model_id, further=further, sync=sync)
        if loaded and sync and not further and self._doors.answers():
            await self.records.flush(_SETTLE_S)  # who waited is told the model's state next
        return (b'{"loaded":true}' if loaded else b'{"loaded":false}'), NO_METADATA

    async def _unload_here(self, model_id: str) -> Answer:
        unloaded = await self._management.unload_here(model_id)
        return (b'{"unloaded":true}' if unloaded else b'{"unloaded":false}'), NO_METADATA
