"""What the fleet is compared with: a naive one that plays the same workload.

Naive: every daemon stands alone. A request goes to whatever daemon its caller picks; what that one
does not hold it loads, whoever else has it, and the model unused for longest makes room. Loads take
their time, and whoever comes meanwhile waits for the same load. No claims, no forwards, no faults:
the comparison flatters it.

The other baseline is the fleet itself with `MM_EVICTION_POLICY=lru` (`run.Options.policy`).
"""

from collections import OrderedDict
from dataclasses import dataclass
from math import inf

from modelmesh.simulation.doors import Behaviour, behaviour
from modelmesh.simulation.workload import Doing, Workload


@dataclass(slots=True)
class Naive:
    """What came of it. `hits`: requests for what their daemon held when they came."""

    requests: int = 0
    hits: int = 0
    loads: int = 0
    load_s: float = 0.0
    evictions: int = 0
    waited_s: float = 0.0


class _Cache:
    """One daemon that knows nobody else."""

    def __init__(self, capacity_bytes: int) -> None:
        self.ready_s: OrderedDict[str, float] = OrderedDict()  # model: when its load has ended
        self._capacity_bytes = capacity_bytes
        self._sizes: dict[str, int] = {}

    def ask(self, model_id: str, what: Behaviour, now_s: float, naive: Naive) -> None:
        naive.hits += self.ready_s.get(model_id, inf) <= now_s
        if model_id not in self.ready_s:
            self._load(model_id, what, now_s, naive)
        self.ready_s.move_to_end(model_id)
        wait_s = max(self.ready_s[model_id] - now_s, 0.0)
        naive.waited_s += wait_s + what.predict_s

    def forget(self, model_id: str) -> None:
        self.ready_s.pop(model_id, None)
        self._sizes.pop(model_id, None)

    def _load(self, model_id: str, what: Behaviour, now_s: float, naive: Naive) -> None:
        naive.loads += 1
        naive.load_s += what.load_s
        while self._sizes and sum(self._sizes.values()) + what.size_bytes > self._capacity_bytes:
            victim, _ = self.ready_s.popitem(last=False)
            del self._sizes[victim]
            naive.evictions += 1
        self._sizes[model_id] = what.size_bytes
        self.ready_s[model_id] = now_s + what.load_s


def play_naively(work: Workload) -> Naive:
    """The workload, played to daemons that know nothing of each other."""
    naive = Naive()
    caches = [_Cache(work.capacity_bytes) for _ in work.pods]
    names: dict[str, str] = {}  # vmodel: its model, at once
    known = {model_id: behaviour(key) for model_id, key in work.models}
    for deed in work.deeds:
        if deed.doing is Doing.REGISTER:
            known.setdefault(deed.model_id, behaviour(deed.key))
        elif deed.doing is Doing.UNREGISTER:
            known.pop(deed.model_id, None)
            for cache in caches:
                cache.forget(deed.model_id)
        elif deed.doing is Doing.SET:
            known[deed.model_id], names[deed.name] = behaviour(deed.key), deed.model_id
        else:
            naive.requests += 1
            model_id = names.get(deed.name, deed.model_id)
            what = known.get(model_id)
            if what is not None and not what.load_error:
                caches[int(deed.pick * len(caches))].ask(model_id, what, deed.at_s, naive)
    return naive
