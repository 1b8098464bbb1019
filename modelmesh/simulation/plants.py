"""Bugs put into real daemons on purpose: a simulation that does not find them finds nothing.

Each plant turns one part of every daemon into a subclass of itself that does one thing wrong, as
somebody might once have written it. `seed` is the first, from 0 on, in which it is found; the tests
replay it there. `modelmesh simulate --plant NAME` searches, in the weather that the plant needs.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar, Final

from modelmesh.cache.copies import Copies, Effects
from modelmesh.cache.copy import Copy
from modelmesh.daemon import Daemon
from modelmesh.domain.fleet import FROM_CALLER, Hops
from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.observe.tasks import spawn
from modelmesh.registry.follower import Bounds
from modelmesh.registry.membership import Membership
from modelmesh.registry.mirror import PREFIXES, Mirror
from modelmesh.registry.remote_table import RemoteTable
from modelmesh.registry.store import Entry, Event
from modelmesh.serving.failures import LoadFailures
from modelmesh.serving.fleet_claims import FleetClaims
from modelmesh.serving.instance import Instance
from modelmesh.serving.view import FleetView
from modelmesh.serving.walk import Others
from modelmesh.simulation.store import StoreLink
from modelmesh.simulation.world import Parts, Pod
from modelmesh.wire.transport import NO_METADATA, Call, Metadata


def become(part: object, wrong: type) -> None:
    """The part is one of these from now on: a subclass of what it was, without state of its own."""
    assert issubclass(wrong, type(part)), f"{wrong} is no {type(part)}"
    part.__class__ = wrong


class Plant(Parts):
    """One bug. `weather`: the kinds of faults that bring it out (none: any may)."""

    what: ClassVar[str] = ""
    weather: ClassVar[tuple[str, ...]] = ()
    seed: ClassVar[int] = 0


class _LossyLink(StoreLink):
    def _mangle(self, events: list[Event], late: list[Event]) -> list[Event]:
        kept = [event for event in events if self._rng.random() >= 0.02]
        self.struck["watch event lost"] += len(events) - len(kept)
        return super()._mangle(kept, late)


class LostEvent(Plant):
    what = "a watch loses an event now and then, and no listing ever heals it"
    seed = 1
    bounds = Bounds(relist_s=1e7)
    link = _LossyLink


class _LateClaims(FleetClaims):
    async def claim(self, model_id: str, *, further: bool) -> None:
        """Not now."""

    def loaded(self, model_id: str, load_s: float) -> None:
        spawn(self._claim_late(model_id), "claim late")
        super().loaded(model_id, load_s)

    async def _claim_late(self, model_id: str) -> None:
        with suppress(MeshError):
            await super().claim(model_id, further=True)


class ClaimAfterLoad(Plant):
    what = "a model is claimed after it was loaded"

    def built(self, pod: Pod) -> None:
        become(_member(pod).claims, _LateClaims)


class _Blind(FleetView):
    def counts(self, model_id: str, instance_id: str) -> bool:
        return False


class ClaimIgnoresPeer(Plant):
    what = "a claim takes those who answer for dead"
    seed = 6

    def built(self, pod: Pod) -> None:
        become(_member(pod).view, _Blind)


class _Careless(Copies):
    def acquire(self, model_id: str, now: float) -> Copy | None:
        copy = super().acquire(model_id, now)
        if copy is not None:
            super().release(copy, now)
        return copy

    def release(self, copy: Copy, now: float) -> Effects:
        return ()


class EvictionInUse(Plant):
    what = "a copy in use may be evicted"
    seed = 9

    def built(self, pod: Pod) -> None:
        become(pod.daemon.parts.copies, _Careless)


class _Boundless(Copies):
    def set_capacity(self, capacity_bytes: int, now: float) -> Effects:
        return super().set_capacity(10 * capacity_bytes, now)


class NoCapacity(Plant):
    what = "nobody asks whether there is room"
    seed = 1

    def built(self, pod: Pod) -> None:
        become(pod.daemon.parts.copies, _Boundless)


class _Hasty(Daemon):
    async def hand_over(self, bound_s: float) -> None:
        self.instance.draining = True
        for copy in list(self.parts.copies):
            await self.parts.loader.unload(copy.model_id)
        await super().hand_over(bound_s)


class DrainBeforeCopy(Plant):
    what = "who leaves unloads first, and hands over what is left"
    seed = 9
    daemon = _Hasty


class _Wandering(Instance):
    def infer(
        self, model_id: str, call: Call, hops: Hops = FROM_CALLER, balanced: bool = False
    ) -> None:
        super().infer(model_id, call, FROM_CALLER, balanced)


class ForwardTwice(Plant):
    what = "a call that was forwarded may be forwarded again"

    def built(self, pod: Pod) -> None:
        become(pod.daemon.instance, _Wandering)


class _Credulous(RemoteTable):
    def _take(self, event: Event) -> bool:
        if event.entry is None:
            return self._entries.pop(event.key, None) is not None
        return self._set(event.key, event.entry)


class StaleWins(Plant):
    what = "an event changes the table though the table knows something newer"
    seed = 3
    weather = ("bad watch",)

    def built(self, pod: Pod) -> None:
        for prefix in PREFIXES:
            become(pod.mirror.table(prefix), _Credulous)


class _Insistent(Others):
    def failed(self, answer: Any, failure: Failure, metadata: Metadata = NO_METADATA) -> None:
        vanished = failure.code is Code.UNAVAILABLE and failure.fault is Fault.PEER
        if vanished and failure.executed and not answer.superseded:
            self._again(answer.served)
        else:
            super().failed(answer, failure, metadata)


class ResendAnything(Plant):
    what = "what may not be repeated is sent again after a daemon vanished with it"
    seed = 32
    weather = ("connection", "crash")

    def built(self, pod: Pod) -> None:
        become(pod.daemon.instance._walks, _Insistent)


class _Trusting(Membership):
    async def _keep(self) -> None:
        await self._store.keep_alive(self._lease)

    async def publish(self, record: Any) -> None:
        """What was said at the joining is enough."""


class LeaseLossUnnoticed(Plant):
    what = "nobody looks whether the lease was lost"
    seed = 13
    weather = ("lost lease",)

    def built(self, pod: Pod) -> None:
        become(_member(pod).membership, _Trusting)


class _Forgetful(LoadFailures):
    def record(self, model_id: str, failure: Failure, now: float) -> None:
        """It may work next time."""


class FailureForgotten(Plant):
    what = "a load that failed is tried again by the next request"
    seed = 18

    def built(self, pod: Pod) -> None:
        become(pod.daemon.parts.failures, _Forgetful)


class _Deaf(Mirror):
    async def look(self, key: str) -> Entry | None:
        return self._known(key)


class NeverAsksStore(Plant):
    what = "what the table lacks is not asked of the store"
    seed = 12
    weather = ("bad watch",)
    mirror = _Deaf


def _member(pod: Pod) -> Any:
    assert pod.daemon.member is not None
    return pod.daemon.member


PLANTS: Final[Mapping[str, type[Plant]]] = {
    "lost-event": LostEvent,
    "claim-after-load": ClaimAfterLoad,
    "claim-ignores-peer": ClaimIgnoresPeer,
    "eviction-in-use": EvictionInUse,
    "no-capacity": NoCapacity,
    "drain-before-copy": DrainBeforeCopy,
    "forward-twice": ForwardTwice,
    "stale-wins": StaleWins,
    "resend-anything": ResendAnything,
    "lease-loss-unnoticed": LeaseLossUnnoticed,
    "failure-forgotten": FailureForgotten,
    "never-asks-store": NeverAsksStore,
}
