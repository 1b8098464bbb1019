"""What an admission would mean for the models here: the next to go, and why not the others.

Pure. It reads the order; what goes has been decided before.
"""

from collections.abc import Callable

from modelmesh.cache.copy import Copy
from modelmesh.cache.decisions import Candidate, Fate
from modelmesh.cache.residents import Residents
from modelmesh.policy.scaling import Keeping

_FATES = {
    Keeping.FREE: Fate.NOT_NEEDED,
    Keeping.RELUCTANT: Fate.LAST_COPY,
    Keeping.NEVER: Fate.KEPT,
}


def candidates(
    residents: Residents,
    victims: set[str],
    worth: Callable[[Copy, float], float],
    most: int,
    now: float,
) -> tuple[Candidate, ...]:
    """At least the `most` first in the order of eviction, and every victim. `residents` are
    settled."""
    order: list[Candidate] = []
    left = set(victims)
    for copy, kept in residents.in_order(now):
        if len(order) >= most and not left:
            break
        left.discard(copy.model_id)
        fate = Fate.EVICT if copy.model_id in victims else _fate(copy, kept, now)
        order.append(Candidate(copy.model_id, worth(copy, now), copy.size_bytes, fate))
    return tuple(order)


def _fate(copy: Copy, kept: Keeping, now: float) -> Fate:
    if copy.in_use:
        return Fate.IN_USE
    return Fate.TOO_YOUNG if copy.young_until > now else _FATES[kept]
