"""What goes wrong, by seed: faults as data, how each is done to a world, and what is known of it.

A fault counts only when it *struck*: somebody was in its way. Whoever judges what callers saw asks
the `Weather` which faults were about at the time.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import Final

from modelmesh.registry.store import INSTANCES
from modelmesh.simulation.world import Pod, World


@dataclass(frozen=True, slots=True)
class Fault:
    """`one`, `other` in [0, 1) choose daemons (or a model); `share` is the fault's own measure."""

    at_s: float
    kind: str
    one: float
    other: float
    lasts_s: float
    share: float


@dataclass(slots=True)
class Disturbance:
    """A fault at work. `who`: the daemons that it is done to."""

    kind: str
    who: tuple[str, ...]
    began_s: float
    ended_s: float = inf
    model_id: str = ""


@dataclass(slots=True)
class Weather:
    """Every fault so far, and when."""

    past: list[Disturbance] = field(default_factory=list)

    def during(self, since_s: float, until_s: float) -> list[Disturbance]:
        """Those that were at work at some time between."""
        return [each for each in self.past if each.began_s <= until_s and each.ended_s >= since_s]

    def calm_since(self) -> float:
        """When the last one ended; inf while one is at work."""
        return max((each.ended_s for each in self.past), default=0.0)


class Sky:
    """Does faults to a world."""

    def __init__(self, world: World, weather: Weather, tell: Callable[[str], None]) -> None:
        self.world = world
        self.weather = weather
        self._tell = tell

    async def strike(self, fault: Fault) -> None:
        """From its beginning to its end, the recovery included."""
        await _KINDS[fault.kind](self, fault)

    # --- who

    def one(self, fault: Fault, least: int = 1) -> Pod | None:
        """The daemon it is done to, if at least so many are ready and nothing is done to it."""
        struck = {who for each in self.weather.past if each.ended_s == inf for who in each.who}
        ready = [name for name in sorted(self.world.pods) if self.world.pods[name].ready]
        if len(ready) < least or len(ready) - len(struck & {*ready}) < least:
            return None
        free = [name for name in ready if name not in struck]
        return self.world.pods[free[int(fault.one * len(free))]] if free else None

    def other(self, fault: Fault, pod: Pod) -> Pod | None:
        ready = [name for name in sorted(self.world.pods) if name != pod.instance_id]
        return self.world.pods[ready[int(fault.other * len(ready))]] if ready else None

    @asynccontextmanager
    async def at_work(
        self, kind: str, *who: str, after_s: float = 0.0, model_id: str = ""
    ) -> AsyncIterator[None]:
        """Note it; it counts as at work until so long after its end."""
        now = self.world.loop.time()
        noted = Disturbance(kind, who, now, model_id=model_id)
        self.weather.past.append(noted)
        self._tell(f"{kind} {' '.join(who)} {model_id}")
        try:
            yield
        finally:
            noted.ended_s = self.world.loop.time() + after_s
            self._tell(f"{kind} {' '.join(who)} ends")

    async def restart(self, instance_id: str) -> None:
        """As supervisors do: who ends instead of becoming ready, as without the store, is started
        again."""
        give_up_s = self.world.loop.time() + _STARTED_S
        while instance_id not in self.world.pods:
            if await self.world.start(instance_id) is not None:
                return
            self.world.struck["start failed"] += 1
            if self.world.loop.time() > give_up_s:
                raise RuntimeError(f"{instance_id} cannot start: {self.world.why_not_started}")
            await asyncio.sleep(_START_AGAIN_S)


_START_AGAIN_S: Final = 1.0
_STARTED_S: Final = 300.0  # longer than any fault lasts

# How long the effects of a sudden silence are still about: suspicion, and calls sent again.
_AFTER_S: Final = 2.0


async def _crash(sky: Sky, fault: Fault) -> None:
    pod = sky.one(fault, least=2)
    if pod is None:
        return
    name = pod.instance_id
    async with sky.at_work("crash", name, after_s=_AFTER_S):
        sky.world.struck["crash"] += 1
        sky.world.crash(name)
        await asyncio.sleep(fault.lasts_s)
        await sky.restart(name)


async def _stop(sky: Sky, fault: Fault) -> None:
    pod = sky.one(fault, least=2)
    if pod is None:
        return
    async with sky.at_work("graceful stop", pod.instance_id, after_s=_AFTER_S):
        sky.world.struck["graceful stop"] += 1
        await sky.world.stop(pod.instance_id)
        await sky.restart(pod.instance_id)


async def _rolling(sky: Sky, fault: Fault) -> None:
    if sky.one(fault, least=2) is None:
        return
    sky.world.struck["rolling restart"] += 1
    for name in sorted(sky.world.pods):
        if name in sky.world.pods and sky.world.pods[name].ready and len(sky.world.pods) > 1:
            async with sky.at_work("graceful stop", name, after_s=_AFTER_S):
                await sky.world.stop(name)
                await sky.restart(name)


async def _pause(sky: Sky, fault: Fault) -> None:
    pod = sky.one(fault, least=2)
    if pod is None:
        return
    async with sky.at_work("pause", pod.instance_id, after_s=_AFTER_S):
        sky.world.pause(pod.instance_id)
        await asyncio.sleep(fault.lasts_s * (2.5 if fault.share > 0.7 else 1.0))
        sky.world.struck["pause"] += sky.world.resume(pod.instance_id) > 0


async def _partition(sky: Sky, fault: Fault) -> None:
    pod = sky.one(fault)
    other = sky.other(fault, pod) if pod is not None else None
    if pod is None or other is None:
        return
    network, one_way = sky.world.network, fault.share < 0.4
    kind = "one-way partition" if one_way else "partition"
    before = network.struck["held"] + network.struck["no_connection"]
    async with sky.at_work(kind, pod.instance_id, other.instance_id, after_s=_AFTER_S):
        network.block(pod.address, other.address)
        if not one_way:
            network.block(other.address, pod.address)
        await asyncio.sleep(fault.lasts_s)
        network.heal(pod.address, other.address)
    after = network.struck["held"] + network.struck["no_connection"]
    sky.world.struck[kind] += after > before


async def _breaks(sky: Sky, fault: Fault) -> None:
    """Connections break, die silently, or break with the next answer or with every one."""
    pod = sky.one(fault)
    other = sky.other(fault, pod) if pod is not None else None
    if pod is None or other is None:
        return
    network, names = sky.world.network, (pod.instance_id, other.instance_id)
    kind = ("reset", "freeze", "cut_answers")[int(fault.share * 3)]
    before = network.struck["cut"] + network.struck["freeze"] + network.struck["cut_answers"]
    async with sky.at_work(f"connection {kind}", *names, after_s=_AFTER_S):
        if kind == "reset":
            network.cut(pod.address, other.address)
        elif kind == "freeze":
            network.freeze(pod.address, other.address)
            await asyncio.sleep(fault.lasts_s)
            network.cut(pod.address, other.address)  # what nobody has used since is dead still
        else:
            network.cut_answers(pod.address, other.address, 1 if fault.share < 5 / 6 else inf)
            await asyncio.sleep(fault.lasts_s)
            network.pass_answers(pod.address, other.address)
    after = network.struck["cut"] + network.struck["freeze"] + network.struck["cut_answers"]
    sky.world.struck[f"connection {kind}"] += after > before


async def _slow_network(sky: Sky, fault: Fault) -> None:
    pod = sky.one(fault)
    other = sky.other(fault, pod) if pod is not None else None
    if pod is None or other is None:
        return
    network, way = sky.world.network, (pod.address, other.address)
    async with sky.at_work("slow network", pod.instance_id, other.instance_id, after_s=_AFTER_S):
        sky.world.struck["slow network"] += 1
        for one, another in (way, way[::-1]):
            network.delay(one, another, 0.02 + 0.3 * fault.share, 0.05)
        await asyncio.sleep(fault.lasts_s)
        for one, another in (way, way[::-1]):
            network.delay(one, another, 0.0002)


async def _slow_loads(sky: Sky, fault: Fault) -> None:
    pod = sky.one(fault)
    if pod is None:
        return
    before = sky.world.ledger.slowed
    async with sky.at_work("slow load", pod.instance_id, after_s=40.0):
        pod.runtime.slow = 2 + 18 * fault.share
        await asyncio.sleep(fault.lasts_s)
        pod.runtime.slow = 1.0
    sky.world.struck["slow load"] += sky.world.ledger.slowed - before


async def _lost_lease(sky: Sky, fault: Fault) -> None:
    pod = sky.one(fault)
    entry = sky.world.store.space.get(INSTANCES + pod.instance_id) if pod is not None else None
    if pod is None or entry is None or not entry.lease:
        return
    async with sky.at_work("lost lease", pod.instance_id, after_s=15.0):
        sky.world.struck["lost lease"] += 1
        store, lease = sky.world.store, entry.lease
        sky.world.shared.do(lambda: store.revoke(lease))


async def _bad_watch(sky: Sky, fault: Fault) -> None:
    """Events of one daemon's watches, or of all, are lost or come late."""
    pods = sorted(sky.world.pods) if fault.other < 0.4 else []
    pod = sky.one(fault)
    names = pods or ([pod.instance_id] if pod is not None else [])
    links = [sky.world.pods[name].link for name in names]
    async with sky.at_work("bad watch", *names):
        for link in links:
            link.lose, link.delay = (0.5 * fault.share, 0.0) if fault.one < 0.5 else (0.0, 0.5)
        await asyncio.sleep(fault.lasts_s)
        for link in links:
            link.lose = link.delay = 0.0


async def _compaction(sky: Sky, fault: Fault) -> None:
    pod = sky.one(fault)
    if pod is not None:
        async with sky.at_work("compaction", pod.instance_id):
            pod.link.compact()


async def _store_cut(sky: Sky, fault: Fault) -> None:
    pod = sky.one(fault)
    if pod is None:
        return
    async with sky.at_work("store cut", pod.instance_id, after_s=_AFTER_S + 1.0):
        pod.link.cut()
        await asyncio.sleep(fault.lasts_s)
        pod.link.mend()


async def _outage(sky: Sky, fault: Fault) -> None:
    """The store is down, or hangs, for everybody; also for who starts meanwhile."""
    hangs = fault.share < 0.5
    async with sky.at_work("store outage", after_s=_AFTER_S + 1.0):
        until = sky.world.loop.time() + fault.lasts_s
        while (left := until - sky.world.loop.time()) > 0:
            for link in sky.world.shared.links:
                if hangs:
                    link.cut()
                else:
                    link.down = True
            await asyncio.sleep(min(left, 0.5))
        for link in sky.world.shared.links:
            link.mend()
            link.down = False


async def _host_loss(sky: Sky, fault: Fault) -> None:
    pod = sky.one(fault)
    held = sorted(pod.runtime.resident) if pod is not None else []
    if pod is None or not held:
        return
    model_id = held[int(fault.other * len(held))]
    async with sky.at_work("host loss", pod.instance_id, model_id=model_id, after_s=_AFTER_S):
        sky.world.struck["host loss"] += pod.life.run(pod.runtime.lose, model_id)


_KINDS: Final[dict[str, Callable[[Sky, Fault], Awaitable[None]]]] = {
    "crash": _crash,
    "graceful stop": _stop,
    "rolling restart": _rolling,
    "pause": _pause,
    "partition": _partition,
    "connection": _breaks,
    "slow network": _slow_network,
    "slow load": _slow_loads,
    "lost lease": _lost_lease,
    "bad watch": _bad_watch,
    "compaction": _compaction,
    "store cut": _store_cut,
    "store outage": _outage,
    "host loss": _host_loss,
}
# Kinds that make daemons unreachable, silent or dead: what may be sent again is sent again.
BREAKING: Final = frozenset(
    {
        "crash", "graceful stop", "pause", "partition", "one-way partition", "connection reset",
        "connection freeze", "connection cut_answers", "slow network",
    }
)  # fmt: skip
# Kinds that keep daemons from the store, or let them see it late.
BLINDING: Final = frozenset(
    {"store cut", "store outage", "bad watch", "compaction", "pause", "lost lease", "crash"}
)


def faults(seed: int, lasts_s: float, only: tuple[str, ...] = ()) -> tuple[Fault, ...]:
    """The faults of this seed, in the order of their times; none in some worlds.

    `only`: of these kinds, and some in every world.
    """
    rng = Random(f"faults {seed}")
    count = rng.choice((2, 3, 4) if only else (0, 1, 1, 2, 2, 3, 4, 6))
    kinds = only or tuple(sorted(_KINDS))
    return tuple(
        sorted(
            (
                Fault(
                    rng.uniform(2.0, lasts_s),
                    rng.choice(kinds),
                    rng.random(),
                    rng.random(),
                    rng.choice((rng.uniform(0.3, 3.0), rng.uniform(3.0, 25.0))),
                    rng.random(),
                )
                for _ in range(count)
            ),
            key=lambda fault: fault.at_s,
        )
    )
