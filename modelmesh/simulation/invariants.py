"""What must hold of daemons, whatever happens: looked at after every step, and at the end.

What callers see is judged in `promises`. A violation is a line of text with its time; the first one
is what matters, those after it may follow from it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from modelmesh.cache.decisions import State
from modelmesh.domain.records import ModelRecord
from modelmesh.registry.store import INSTANCES, MODELS, VMODELS, Event
from modelmesh.simulation.doors import behaviour
from modelmesh.simulation.faults import BLINDING, BREAKING, Weather
from modelmesh.simulation.promises import Promises
from modelmesh.simulation.workload import Workload
from modelmesh.simulation.world import Pod, World

# A fault may still be about (suspicion, a store that is asked again) for so long after its end.
_AFTERMATH_S: Final = 3.0
MOST: Final = 20  # violations told of one world
# Attempts that a model which cannot be loaded may cost each daemon (its own failures, within their
# expiry); what one daemon forgets when it dies counts anew.
_ATTEMPTS: Final = 3


@dataclass(slots=True)
class Violation:
    at_s: float
    what: str

    def __str__(self) -> str:
        return f"{self.at_s:9.3f} s  {self.what}"


class Checker:
    """Looks at a world. `broken(what)` is told of each violation."""

    def __init__(
        self,
        world: World,
        work: Workload,
        weather: Weather,
        promises: Promises,
        broken: Callable[[str], None],
    ) -> None:
        self._world = world
        self._work = work
        self._weather = weather
        self._promises = promises
        self._broken = broken
        self._in_use = 0
        self._twice = 0
        self._newest: dict[tuple[str, str], int] = {}
        self._bad_loads: dict[tuple[str, str], int] = {}
        world.ledger.load_begins = self._load_begins
        world.ledger.unload_begins = self._unload_begins

    def joined(self, pod: Pod) -> None:
        """A daemon begins a life: its table must never go back."""
        name = pod.instance_id
        for key in [key for key in self._newest if key[0] == name]:
            del self._newest[key]
        for known in [known for known in self._bad_loads if known[0] == name]:
            del self._bad_loads[known]
        pod.mirror.table(MODELS).subscribe(lambda events: self._table_changed(pod, events))

    # --- after every step

    def step(self) -> None:
        for pod in self._world.pods.values():
            self._capacity(pod)
        in_use = self._world.ledger.in_use_unloads
        if len(in_use) > self._in_use:
            self._broken(f"I5: unloaded while in use: {in_use[self._in_use :]}")
            self._in_use = len(in_use)
        twice = self._world.forwarded_twice
        if len(twice) > self._twice:
            self._broken(f"hops: forwarded twice: {twice[self._twice :]}")
            self._twice = len(twice)

    def _capacity(self, pod: Pod) -> None:
        ledger, runtime = pod.daemon.parts.copies.ledger, pod.runtime
        if ledger.debt_bytes and not self._work.surprises:
            self._broken(f"I5: {pod.instance_id} has reserved {ledger.debt_bytes} bytes too many")
        allowed = self._world.capacity_bytes + runtime.surprise_bytes
        if runtime.used_bytes > allowed:
            self._broken(f"I5: {pod.instance_id} holds {runtime.used_bytes} of {allowed} bytes")

    # --- loads

    def _load_begins(self, instance_id: str, model_id: str) -> None:
        pod = self._world.pods.get(instance_id)
        entry = self._world.store.space.get(MODELS + model_id)
        if pod is None or entry is None:
            return
        self._capacity(pod)
        record = ModelRecord.from_json(entry.value)
        self._note_bad(instance_id, model_id, record)
        now = self._world.loop.time()
        about = self._weather.during(now - _AFTERMATH_S, now)
        if any(each.kind in BLINDING | BREAKING for each in about) or not pod.mirror.answers:
            return
        if self._changed_lately(model_id, now):
            return
        if instance_id not in record.instance_ids:
            self._broken(f"claim: {instance_id} loads {model_id} without a claim")
        others = [
            other.instance_id
            for other in self._world.pods.values()
            if other is not pod and model_id in other.runtime.loading
            and other.instance_id in record.instance_ids
        ]  # fmt: skip
        if others:
            self._broken(f"herd: {instance_id} loads {model_id}, and so does {others}")

    def _note_bad(self, instance_id: str, model_id: str, record: ModelRecord) -> None:
        if not behaviour(record.key).load_error:
            return
        known = (instance_id, model_id)
        self._bad_loads[known] = self._bad_loads.get(known, 0) + 1
        if self._bad_loads[known] > _ATTEMPTS:
            self._broken(f"failures: {instance_id} tries to load {model_id} again and again")

    def _changed_lately(self, model_id: str, now: float) -> bool:
        spans = self._promises.spans.get(model_id, ())
        return any(
            now - 2 <= at_s <= now or at_s <= now < end_s
            for span in spans
            for at_s, end_s in (
                (span.asked_s, min(span.known_s, span.asked_s + 2)),
                (span.end_asked_s, min(span.end_known_s, span.end_asked_s + 2)),
            )
        )

    def _unload_begins(self, instance_id: str, model_id: str) -> None:
        """Make before break: who leaves keeps what nobody else has, until he closes his port."""
        pod = self._world.pods.get(instance_id)
        if pod is None or not (pod.leaving and pod.accepts) or not self._work.roomy:
            return
        if self._work.surprises or self._world.store.space.get(MODELS + model_id) is None:
            return
        others = (each for each in self._world.pods.values() if each is not pod)
        if not any(model_id in each.runtime.resident for each in others):
            self._broken(f"drain: {instance_id} gives {model_id} up before another has it")

    # --- tables

    def _table_changed(self, pod: Pod, events: list[Event]) -> None:
        for event in events:
            known = (pod.instance_id, event.key)
            if event.revision < self._newest.get(known, 0):
                self._broken(f"table: {pod.instance_id} goes back with {event.key}")
            self._newest[known] = event.revision

    # --- at the end

    def apart(self) -> str:
        """I6: where registry, caches and tables differ ("": nowhere)."""
        space = self._world.store.space
        pods = self._world.pods
        named = {key.removeprefix(INSTANCES) for key in space.keys(INSTANCES)}
        if named != set(pods):
            return f"instances {sorted(named)} are named, {sorted(pods)} live"
        for name in sorted(pods):
            if difference := self._table_differs(pods[name]) or self._caches_differ(pods[name]):
                return f"{name}: {difference}"
        return ""

    def _table_differs(self, pod: Pod) -> str:
        space = self._world.store.space
        for prefix in (MODELS, INSTANCES, VMODELS):
            table = pod.mirror.table(prefix)
            keys = [*space.keys(prefix)]
            if len(table) != len(keys):
                return f"its table of {prefix} has {len(table)} entries instead of {len(keys)}"
            for key in keys:
                entry, truth = table.entry(key), space.get(key)
                if entry is None or truth is None or entry.mod_revision != truth.mod_revision:
                    return f"its table has another {key}"
        peers = {peer.instance_id for peer in pod.daemon.member.view.peers() if peer.answers}  # type: ignore[union-attr]
        others = set(self._world.pods) - {pod.instance_id}
        return "" if peers == others else f"it takes {sorted(peers)} for alive"

    def _caches_differ(self, pod: Pod) -> str:
        copies, name = pod.daemon.parts.copies, pod.instance_id
        loaded = {copy.model_id for copy in copies if copy.state is State.LOADED}
        if loaded != set(pod.runtime.resident):
            return f"cache and runtime differ in {sorted(loaded ^ set(pod.runtime.resident))}"
        for model_id in sorted(loaded):
            if self._world.store.space.get(MODELS + model_id) is None:
                return f"it holds {model_id}, which is not registered"
        for key in self._world.store.space.keys(MODELS):
            model_id = key.removeprefix(MODELS)
            entry = self._world.store.space.get(key)
            record = ModelRecord.from_json(entry.value) if entry is not None else None
            if record is None:
                continue
            if (name in record.loaded_in) != (model_id in loaded):
                return f"the record of {model_id} is wrong about it"
            coming = pod.daemon.parts.loader.is_coming(model_id)
            if (name in record.instance_ids) != (model_id in loaded or coming):
                return f"the record of {model_id} has a claim of it that nobody keeps"
        return ""

    def leftovers(self) -> list[str]:
        """What nobody has let go of, now that every request has ended."""
        found = []
        for name, pod in sorted(self._world.pods.items()):
            instance, copies = pod.daemon.instance, pod.daemon.parts.copies
            if instance.open_calls:
                found.append(f"I10: {name} has {instance.open_calls} calls open")
            if copies.ledger.in_use_bytes:
                found.append(f"I10: {name} has models in use")
            peers = pod.daemon.member.view.peers()  # type: ignore[union-attr]
            if waits := sum(peer.in_flight for peer in peers):
                found.append(f"I10: {name} waits for {waits} calls at its peers")
        return found

    def durable(self) -> list[str]:
        """I2: what was acknowledged and not taken back is in the store, and nothing else is."""
        found, space = [], self._world.store.space
        for model_id, spans in sorted(self._promises.spans.items()):
            last = spans[-1]
            entry = space.get(MODELS + model_id)
            if last.certain(self._world.loop.time(), self._world.loop.time()):
                if entry is None:
                    found.append(f"I2: {model_id} was registered and is lost")
                elif ModelRecord.from_json(entry.value).key != last.key:
                    found.append(f"I2: {model_id} is registered as something else")
            elif last.end_known_s <= self._world.loop.time() and entry is not None:
                found.append(f"I2: {model_id} was unregistered and is still there")
        return found
