"""`modelmesh simulate`: play seeds, show progress, and say what came of them.

A violated invariant is a failure of this command; a plant that is not found is one too.
"""

import argparse
import sys
import time

from modelmesh.cli.exits import BadUsage, Exit
from modelmesh.simulation.plants import PLANTS
from modelmesh.simulation.report import lines
from modelmesh.simulation.run import Options, play
from modelmesh.simulation.search import Found, Played, search
from modelmesh.simulation.workload import Scale

# Every so manieth seed is also played with LRU and naively: a comparison needs no more.
_BESIDE_EVERY = 10
_TELL_EVERY_S = 1.0


def simulate(args: argparse.Namespace) -> int:
    """Search, or replay one seed."""
    if args.plant and args.plant not in PLANTS:
        raise BadUsage(f"no such plant: {args.plant}; these are: {', '.join(PLANTS)}")
    options = Options(Scale(args.pods, args.models, args.minutes), args.plant)
    if args.seed is not None:
        return _replay(args.seed, options)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    progress = _Progress(len(seeds))
    found = search(
        seeds,
        options,
        args.jobs,
        beside_every=0 if args.plant else _BESIDE_EVERY,
        first_only=bool(args.plant),
        tell=progress.tell,
    )
    progress.end()
    return _plant_outcome(args.plant, found) if args.plant else _outcome(found)


def _replay(seed: int, options: Options) -> int:
    """One seed, event by event."""
    outcome = play(seed, options, lambda at_s, what: print(f"{at_s:10.3f}  {what}"))
    print(f"seed {seed}: {outcome.requests} requests, digest {outcome.digest}")
    for violation in outcome.violations:
        print(f"violated: {violation}")
    return Exit.FAILED if outcome.violations else Exit.OK


def _outcome(found: Found) -> int:
    for line in lines(found.fleet, found.beside if found.beside.fleet.seeds else None):
        print(line)
    if found.fleet.failed:
        print(f"replay one with: modelmesh simulate --seed {min(found.fleet.failed)}")
    return Exit.FAILED if found.fleet.failed else Exit.OK


def _plant_outcome(name: str, found: Found) -> int:
    failed = found.fleet.failed
    if not failed:
        print(f"{name} was not found in {found.fleet.seeds} seeds: {PLANTS[name].what}")
        return Exit.FAILED
    seed = min(failed)
    print(f"{name} ({PLANTS[name].what}) is found by seed {seed}: {failed[seed][0].strip()}")
    return Exit.OK


class _Progress:
    """One line on a terminal that is written over; elsewhere a line now and then."""

    def __init__(self, seeds: int) -> None:
        self._seeds = seeds
        self._began = self._told = time.monotonic()
        self._played = 0
        self._failed = 0
        self._live = sys.stderr.isatty()

    def tell(self, played: Played) -> None:
        self._played += 1
        if played.outcome.violations:
            self._failed += 1
            first = played.outcome.violations[0]
            self._line(f"seed {played.outcome.seed}: {first}", stays=True)
        now = time.monotonic()
        if now - self._told >= _TELL_EVERY_S * (1 if self._live else 10):
            self._told = now
            per_s = self._played / (now - self._began)
            self._line(
                f"{self._played}/{self._seeds} seeds, {self._failed} failed, {per_s:.1f} a second",
                stays=not self._live,
            )

    def end(self) -> None:
        if self._live:
            self._line("", stays=False)

    def _line(self, text: str, stays: bool) -> None:
        start = "\r\x1b[K" if self._live else ""
        print(f"{start}{text}", end="\n" if stays else "", file=sys.stderr, flush=True)
