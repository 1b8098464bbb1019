"""Many seeds, in several processes, and what they came to.

Processes share nothing: each is given seeds, plays them, and sends back outcomes.
"""

import gc
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from modelmesh.simulation.baselines import Naive, play_naively
from modelmesh.simulation.report import Beside, Total
from modelmesh.simulation.run import Options, Outcome, play
from modelmesh.simulation.workload import workload


@dataclass(frozen=True, slots=True)
class Asked:
    """One seed to play. `beside`: the baselines too."""

    seed: int
    options: Options
    beside: bool


@dataclass(frozen=True, slots=True)
class Played:
    """What came of it."""

    outcome: Outcome
    lru: Outcome | None = None
    naive: Naive | None = None


@dataclass(slots=True)
class Found:
    """What a search came to."""

    fleet: Total
    beside: Beside


def play_one(asked: Asked) -> Played:
    """Play a seed here."""
    outcome = play(asked.seed, asked.options)
    if not asked.beside:
        return Played(outcome)
    lru = play(asked.seed, replace(asked.options, policy="lru"))
    return Played(outcome, lru, play_naively(workload(asked.seed, asked.options.scale)))


def search(
    seeds: Iterable[int],
    options: Options,
    jobs: int,
    *,
    beside_every: int = 0,
    first_only: bool = False,
    tell: Callable[[Played], None] = lambda _played: None,
) -> Found:
    """Play all seeds; `tell` hears of each in its order.

    `beside_every`: every so manieth is also played with LRU and naively (0: none).
    `first_only`: stop at the first violation.
    """
    found = Found(Total(), Beside())
    asked = (Asked(seed, options, beside_every > 0 and seed % beside_every == 0) for seed in seeds)
    for played in _played(asked, jobs):
        found.fleet.add(played.outcome)
        if played.lru is not None and played.naive is not None:
            found.beside.fleet.add(played.outcome)
            found.beside.lru.add(played.lru)
            found.beside.naive.add_naive(played.naive)
        tell(played)
        if first_only and played.outcome.violations:
            break
    return found


def _played(asked: Iterable[Asked], jobs: int) -> Iterator[Played]:
    if jobs <= 1:
        yield from map(play_one, asked)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, initializer=gc.freeze) as pool:
        yield from pool.imap(play_one, asked, chunksize=4)
