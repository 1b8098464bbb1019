"""What loading a model costs, in seconds: a running median, since single loads lie.

One load waits for a busy disk, the next finds everything in the page cache; a median of the last
few is robust against both. A model that has never been loaded is judged by the others of its type.
"""

from collections import deque
from statistics import median

from cachetools import LRUCache

# Below this a load costs as much as the work around it (unload, bookkeeping, a cold first call):
# smaller differences say nothing, and a cost of zero would make a model worthless.
LEAST_S = 0.005
_OF_MODEL = 5
_OF_TYPE = 31
_TYPES = 1024


def median_of(loads_s: tuple[float, ...]) -> float:
    """The cost that these loads of one model (at least one) speak for."""
    return max(LEAST_S, median(loads_s))


def with_load(loads_s: tuple[float, ...], load_s: float) -> tuple[float, ...]:
    """The last few loads of one model after one more."""
    return (*loads_s[1 - _OF_MODEL :], load_s)


class TypeCosts:
    """The last loads of each model type; the types least lately loaded are forgotten."""

    def __init__(self) -> None:
        self._loads_s: LRUCache[str, deque[float]] = LRUCache(_TYPES)

    def add(self, model_type: str, load_s: float) -> None:
        loads = self._loads_s.get(model_type)
        if loads is None:
            loads = self._loads_s[model_type] = deque(maxlen=_OF_TYPE)
        loads.append(load_s)

    def expected_s(self, model_type: str) -> float:
        """What a first load of this type is likely to take; the floor if nothing is known."""
        loads = self._loads_s.get(model_type)
        return max(LEAST_S, median(loads)) if loads else LEAST_S
