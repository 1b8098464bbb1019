"""What routing decides, timed: the policy over the very view that a daemon asks.

The registry is a mirror over a store in memory, the peers are those that a daemon keeps; nothing is
sent. Each figure is the median over rounds of a round's mean.
"""

import asyncio
import statistics
import time
from collections.abc import Callable, Collection
from pathlib import Path
from random import Random
from typing import Any, cast

import uvloop

from benchmarks.fleet import Section
from modelmesh.cache.copies import Copies
from modelmesh.domain.fleet import Peer
from modelmesh.domain.instances import InstanceRecord
from modelmesh.domain.records import ModelRecord
from modelmesh.observe.metrics import Metrics
from modelmesh.peers.door import Peers
from modelmesh.policy.routing import Forward, ServeHere, route_in_fleet
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.mirror import Mirror
from modelmesh.registry.models import Models
from modelmesh.serving.changes import Changes
from modelmesh.serving.claims import Alone
from modelmesh.serving.failures import LoadFailures
from modelmesh.serving.flight import Waiter
from modelmesh.serving.loading import Loader, LoadLimits
from modelmesh.serving.parts import Parts
from modelmesh.serving.served import Served
from modelmesh.serving.view import FleetView
from modelmesh.wire.awaiting import FutureReply
from modelmesh.wire.kinds import MODEL_INFER
from modelmesh.wire.transport import NO_DEADLINE, Call
from tests.serving.doors import MemoryRuntime, MemoryStorage

COPIES = (1, 2, 4)
INSTANCES = 1000
ROUNDS = 15


class Known:
    """Peers that are only looked at."""

    def __init__(self, peers: Collection[Peer]) -> None:
        self._peers = {peer.instance_id: peer for peer in peers}

    def get(self, instance_id: str) -> Peer | None:
        return self._peers.get(instance_id)

    def all(self) -> Collection[Peer]:
        return self._peers.values()


class Nobody:
    """Who hears that a call has ended."""

    def ended(self, served: Served, code: str, response_bytes: int) -> None:
        pass


def _instances(count: int, rng: Random) -> list[Peer]:
    """So many other daemons, each with something loaded and a little to do."""
    return [
        Peer(
            f"instance-{n:04}",
            InstanceRecord(
                1, zone=f"zone-{n % 3}", capacity_units=100_000, load_slots=4,
                used_units=rng.randrange(50_000, 110_000), loading=rng.randrange(4),
                rate_rpm=rng.randrange(5000), victim_worth=rng.random() / 1e9,
                address=f"127.0.0.1:{n + 1}",
            ),
        )
        for n in range(count)
    ]  # fmt: skip


def _made(store: Mirror, peers: Collection[Peer]) -> tuple[FleetView, Parts]:
    """The view of a daemon that has these peers."""
    runtime, copies, metrics = MemoryRuntime(), Copies(1 << 30), Metrics()
    failures = LoadFailures(3, 900)
    limits = LoadLimits(1000, 1 << 20, space_wait_s=5)
    loader = Loader(copies, runtime, MemoryStorage(), failures, metrics, limits, time.monotonic)
    models = Models(store)
    changes = Changes(Alone(), models)
    parts = Parts(models, copies, runtime, failures, loader, metrics, time.monotonic, changes)
    mine = InstanceRecord(1, zone="zone-0", capacity_units=100_000, load_slots=4, address="here:1")
    loader.open(load_concurrency=4)
    view = FleetView(
        parts,
        "me",
        cast(Peers, Known(peers)),
        published=lambda: mine,
        store_answers=lambda: store.answers,
        open_calls=lambda: 3,
        wall_ms=lambda: time.time_ns() // 1_000_000,
        default_size_bytes=1 << 20,
    )
    return view, parts


def _request(model_id: str) -> Served:
    return Served(Nobody(), model_id, Call(MODEL_INFER, b"x", FutureReply()), time.monotonic())


def _us(work: Callable[[], Any], times: int) -> float:
    """Microseconds of CPU a time: whoever else is busy on this machine does not count."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(times):
            work()
        rounds.append((time.thread_time() - began) / times * 1e6)
    return statistics.median(rounds)


async def _load(view: FleetView, parts: Parts, model_id: str) -> None:
    """Have a copy of it here."""
    here = asyncio.Event()
    record = view.record(model_id)
    assert record is not None
    waiter = Waiter(here.set, lambda failure: print(failure), 1)
    parts.loader.wait(model_id, record, waiter, NO_DEADLINE)
    await asyncio.wait_for(here.wait(), 5)
    assert view.is_loaded(model_id)


async def _warm(view: FleetView, parts: Parts, holders: list[str], rng: Random) -> float:
    """Microseconds to route a request for a model that these instances hold."""
    model_id = f"warm-{'-'.join(holders)}"
    since = dict.fromkeys(holders, 1)
    record = ModelRecord("dummy", "/m", instance_ids=since, loaded_in=since)
    await parts.models.register(model_id, record)
    if view.me in holders:
        await _load(view, parts, model_id)
    served = _request(model_id)
    expected = ServeHere if holders == [view.me] else (ServeHere, Forward)
    assert isinstance(route_in_fleet(view, served, 1.0, rng.random), expected)
    return _us(lambda: route_in_fleet(view, served, 1.0, rng.random), 10_000)


async def _measured() -> list[str]:
    rng = Random(1)
    async with await Mirror.open(MemoryStore(), Random(1)) as store:
        peers = _instances(INSTANCES, rng)
        view, parts = _made(store, peers)
        others = [peer.instance_id for peer in peers]
        lines = ["| decision | CPU us | bound us |", "|---|---|---|"]
        for count in COPIES:
            spent = await _warm(view, parts, others[:count], rng)
            lines.append(f"| warm route, {count} copies, all elsewhere | {spent:.2f} | 5 |")
            spent = await _warm(view, parts, [view.me, *others[: count - 1]], rng)
            lines.append(f"| warm route, {count} copies, one of them here | {spent:.2f} | 5 |")
        await parts.models.register("cold", ModelRecord("dummy", "/m"))
        cold = _request("cold")
        decided = route_in_fleet(view, cold, 1.0, rng.random)
        assert isinstance(decided, Forward), decided
        spent = _us(lambda: route_in_fleet(view, cold, 1.0, rng.random), 50)
        lines.append(f"| cold: placement over {INSTANCES:,} instances | {spent:.0f} | 1,000 |")
    return lines


def decisions(_folder: Path) -> list[str]:
    """Routing and placement."""
    return uvloop.run(_measured())


SECTIONS: dict[str, Section] = {"decisions": decisions}
