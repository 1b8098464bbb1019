"""Vmodels in a simulated world: who set them to what, and what their callers saw.

I3: a name answers with a model that it was set to; once somebody has seen the newer one answer, the
older one is not seen again (but while the news is on its way); and no transition costs a failure.

Which move is newer: the one that was asked for after the other was acknowledged. Of two that were
under way at once (one waits for a daemon that stands still) either may be the one that lasts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from modelmesh.domain.vmodels import VModelRecord
from modelmesh.registry.store import VMODELS
from modelmesh.simulation.doors import behaviour
from modelmesh.simulation.faults import BLINDING, BREAKING, Weather
from modelmesh.simulation.promises import HEALED_S, PROPAGATED_S, Request
from modelmesh.simulation.world import World


@dataclass(slots=True)
class Move:
    """The name was set to this model."""

    model_id: str
    key: str
    asked_s: float
    known_s: float = inf

    def precedes(self, other: "Move") -> bool:
        """Whether it was over before the other began: only then are callers promised an order."""
        return self.known_s < other.asked_s


def lasting(moves: Sequence[Move]) -> list[Move]:
    """Those that the name may stand for in the end: none that was acknowledged came after them."""
    certain = [move for move in moves if move.known_s < inf]
    return [move for move in moves if not any(move.precedes(other) for other in certain)]


@dataclass(slots=True)
class Names:
    """Every vmodel's moves, in order, and which one its callers have seen."""

    world: World
    weather: Weather
    moves: dict[str, list[Move]] = field(default_factory=dict)
    seen: dict[str, list[tuple[float, Move]]] = field(default_factory=dict)  # (when, which)

    def exists_since(self, name: str) -> float:
        """Since when it certainly stands for something; inf: it does not."""
        return min((move.known_s for move in self.moves.get(name, ())), default=inf)

    def wrong_answer(self, request: Request, body: bytes) -> str:
        """What is wrong with the answer ("": nothing)."""
        which = [
            move
            for move in self.moves.get(request.model_id, ())
            if move.asked_s <= request.ended_s and behaviour(move.key).answer(move.model_id) == body
        ]
        if not which:
            return f"I3: {request.model_id} answered {body!r}"
        seen = self.seen.setdefault(request.model_id, [])
        newer = [
            at_s
            for at_s, move in seen
            if which[0].precedes(move) and request.began_s > self._told_by(at_s)
        ]
        seen.append((request.ended_s, which[0]))
        return f"I3: {body!r} answered after a newer one was seen" if newer else ""

    def _told_by(self, seen_s: float) -> float:
        """When everybody knows what somebody has seen then."""
        by_s = seen_s + PROPAGATED_S
        for each in self.weather.past:
            if each.kind in BLINDING | BREAKING and each.began_s <= by_s:
                by_s = max(by_s, max(seen_s, each.ended_s) + HEALED_S)
        return by_s

    def apart(self) -> str:
        """At the end: a name that has not arrived where it was sent ("": none)."""
        for name, moves in sorted(self.moves.items()):
            entry = self.world.store.space.get(VMODELS + name)
            if entry is None:
                if self.exists_since(name) < inf:
                    return f"the vmodel {name} is lost"
                continue
            record = VModelRecord.from_json(entry.value)
            possible = [move.model_id for move in lasting(moves)]
            if record.transitioning:
                return f"the vmodel {name} is on its way from {record.active_id} still"
            if record.active_id not in possible:
                return f"the vmodel {name} stands for {record.active_id}, not {possible}"
        return ""
