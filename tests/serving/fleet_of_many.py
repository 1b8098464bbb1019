"""One member of a fleet: its serving room on doors in memory, and others that the test plays."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace

from modelmesh.cache.copies import Copies
from modelmesh.domain.fleet import FROM_CALLER, Hops, Peer
from modelmesh.domain.instances import InstanceRecord
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Failure
from modelmesh.observe.metrics import Metrics
from modelmesh.policy.routing import FleetRequest, FleetRoute, RoutingLimits, route_in_fleet
from modelmesh.registry.claims import CopyRecords
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.models import Models
from modelmesh.registry.store import MODELS
from modelmesh.serving.changes import Changes
from modelmesh.serving.failures import LoadFailures
from modelmesh.serving.fleet_claims import FleetClaims
from modelmesh.serving.fleet_management import FleetManagement
from modelmesh.serving.instance import Instance
from modelmesh.serving.loading import Loader, LoadLimits
from modelmesh.serving.parts import Parts
from modelmesh.serving.remote import Remote
from modelmesh.serving.spreading import Spreading
from modelmesh.serving.view import FleetView
from modelmesh.serving.walk import Others
from modelmesh.wire.awaiting import FutureReply
from modelmesh.wire.kinds import V1_PREDICT
from modelmesh.wire.transport import NO_DEADLINE, Call, Metadata
from tests.serving.doors import MemoryRuntime, MemoryStorage

ME = "me"
LIMITS = RoutingLimits(load_timeout_s=90, failure_expiry_s=900, max_load_failures=3)
ROOM = InstanceRecord(start_ms=1, capacity_units=1000, load_slots=4)


@dataclass
class Sent:
    """One call that this member sent to a peer."""

    instance_id: str
    hops: Hops
    model_id: str
    call: Call
    on_suspect: Callable[[], None] | None
    ended: bool = False
    given_up: bool = False

    def answer(self, body: bytes) -> None:
        assert not self.given_up, "who is asked no more says nothing"
        self.ended = True
        self.call.reply.answer(body)

    def fail(self, failure: Failure) -> None:
        assert not self.given_up, "who is asked no more says nothing"
        self.ended = True
        self.call.reply.finish(failure)

    def give_up(self) -> None:
        self.given_up = not self.ended


class PlayedPeers:
    """The Peers door: the test says who there is, and answers what is `sent`."""

    def __init__(self) -> None:
        self.known: dict[str, Peer] = {}
        self.sent: list[Sent] = []
        self.answers: Callable[[Sent], None] = lambda _sent: None

    def add(self, *names: str, record: InstanceRecord = ROOM) -> None:
        for name in names:
            self.known[name] = Peer(name, record)

    def suspect(self, name: str) -> None:
        """It fell silent, with whatever it has."""
        self.known[name].suspect = True
        for sent in list(self.sent):
            if sent.instance_id == name and sent.on_suspect is not None:
                told, sent.on_suspect = sent.on_suspect, None
                told()

    healthy: frozenset[str] | set[str] = frozenset()

    def update(self, records: Mapping[str, InstanceRecord]) -> None:
        raise NotImplementedError

    def get(self, instance_id: str) -> Peer | None:
        return self.known.get(instance_id)

    def all(self) -> Collection[Peer]:
        return self.known.values()

    def call(
        self,
        instance_id: str,
        hops: Hops,
        model_id: str,
        call: Call,
        on_suspect: Callable[[], None] | None = None,
    ) -> Callable[[], None]:
        sent = Sent(instance_id, hops, model_id, call, on_suspect)
        call.reply.when_gone(sent.give_up)
        self.sent.append(sent)
        self.answers(sent)
        return sent.give_up

    async def ask_health(self, instance_id: str) -> bool:
        """Whether it is in `healthy`; nobody is there where it is not."""
        self.known[instance_id].reachable = instance_id in self.healthy
        return instance_id in self.healthy

    def identify(self, address: str) -> Awaitable[str | None]:
        raise NotImplementedError

    async def close(self, grace_s: float) -> None:
        self.known.clear()


class OfMany:
    """The member `ME`. Run it on a loop of virtual time; `close` it."""

    def __init__(
        self, *others: str, capacity_bytes: int = 1000, store: MemoryStore | None = None
    ) -> None:
        self.peers = PlayedPeers()
        self.peers.add(*others)
        self.runtime, self.storage = MemoryRuntime(), MemoryStorage()
        self.store = store or MemoryStore()
        self.models, self.copies = Models(self.store), Copies(capacity_bytes)
        self.answers = True  # the store
        self.looked: list[str] = []
        self.look_fails: Exception | None = None
        self.record = ROOM
        self.records = CopyRecords(self.store, ME, self.wall_ms)
        self.claims = FleetClaims(self.records, lambda: self.view, self.wall_ms, 90)
        failures, changes = LoadFailures(3, 900), Changes(self.claims, self.models)
        self.loader = Loader(
            self.copies, self.runtime, self.storage, failures, Metrics(),
            LoadLimits(100, 1000, space_wait_s=5), self.clock, changes,
        )  # fmt: skip
        self.loader.open(load_concurrency=8)
        self.parts = parts = Parts(
            self.models, self.copies, self.runtime, failures, self.loader, Metrics(), self.clock,
            changes,
        )  # fmt: skip
        self.view = FleetView(
            parts,
            ME,
            self.peers,
            published=lambda: self.record,
            store_answers=lambda: self.answers,
            open_calls=lambda: self.instance.open_calls,
            wall_ms=self.wall_ms,
            default_size_bytes=100,
        )
        self.instance = Instance(parts, self.view, self.decide, max_concurrent_calls=1000)
        self.runtime.listener = self.instance
        self.others = Others(self.view, self.peers, self.look, self.instance.route_again)
        self.instance.join(self.others)
        self.remote = Remote(ME, self.peers, self.clock)
        self.management = FleetManagement(parts, self.storage, ME, self.wall_ms)
        self.management.attach(
            self.view, self.decide, self.remote, self.look, self.records.forgiven, lambda: 0
        )
        self.spreading = Spreading(
            self.view, self.remote, self.clock, lambda: 0.0, LIMITS, lambda: self.records.flush(1)
        )

    def clock(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_ms(self) -> int:
        return round(self.clock() * 1000)

    def decide(self, request: FleetRequest, now: float) -> FleetRoute:
        return route_in_fleet(self.view, request, now, lambda: 0.0, LIMITS)

    async def look(self, model_id: str) -> object:
        self.looked.append(model_id)
        if self.look_fails is not None:
            raise self.look_fails
        return await self.store.get(MODELS + model_id)

    async def register(
        self, model_id: str, *, loaded: Collection[str] = (), coming: Collection[str] = ()
    ) -> None:
        """Registered, with copies of others as its record says."""
        since = {each: self.wall_ms() for each in (*loaded, *coming)}
        record = ModelRecord("dummy", f"/models/{model_id}", instance_ids=since)
        record = replace(record, loaded_in={each: since[each] for each in loaded})
        await self.models.register(model_id, record)

    def known(self, model_id: str) -> ModelRecord:
        record = self.models.get(model_id)
        assert record is not None
        return record

    def ask(
        self,
        model_id: str,
        hops: Hops = FROM_CALLER,
        deadline: float = NO_DEADLINE,
        metadata: Metadata = (),
    ) -> FutureReply:
        reply = FutureReply()
        call = Call(V1_PREDICT, b"x", reply, metadata, deadline)
        self.instance.infer(model_id, call, hops)
        return reply

    async def close(self) -> None:
        await self.instance.drain(0.0)
        await self.records.close()


async def answered(reply: FutureReply) -> bytes:
    """The answer, within a minute of virtual time; raises MeshError."""
    return bytes((await asyncio.wait_for(reply.future, 60))[0])
