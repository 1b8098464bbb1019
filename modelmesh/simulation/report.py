"""What many seeds came to, in figures that can be added up and lines that can be read."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from modelmesh.simulation.baselines import Naive
from modelmesh.simulation.run import Outcome


@dataclass(slots=True)
class Total:
    """Sums over seeds. `failed` has the seeds in which something was violated."""

    seeds: int = 0
    requests: int = 0
    hits: int = 0
    loads: int = 0
    load_s: float = 0.0
    evictions: int = 0
    hops: int = 0
    waited_s: float = 0.0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    converged_most_s: float = 0.0
    codes: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    failed: dict[int, list[str]] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        for name in (
            "requests", "hits", "loads", "load_s", "evictions", "hops", "waited_s", "virtual_s",
            "cpu_s",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(outcome, name))
        self.converged_most_s = max(self.converged_most_s, outcome.converged_s)
        self.codes += outcome.codes
        self.struck += outcome.struck
        if outcome.violations:
            self.failed[outcome.seed] = [str(each) for each in outcome.violations]

    def add_naive(self, naive: Naive) -> None:
        self.seeds += 1
        for name in ("requests", "hits", "loads", "load_s", "evictions", "waited_s"):
            setattr(self, name, getattr(self, name) + getattr(naive, name))


@dataclass(slots=True)
class Beside:
    """The same seeds under other rules. A *hit* waits for no load, a naive one at its daemon."""

    fleet: Total = field(default_factory=Total)
    lru: Total = field(default_factory=Total)
    naive: Total = field(default_factory=Total)


def lines(fleet: Total, beside: Beside | None) -> Iterator[str]:
    """The report of a search."""
    hours = fleet.virtual_s / 3600
    yield f"{fleet.seeds} seeds, {hours:.1f} hours of {fleet.requests} requests"
    codes = ", ".join(f"{code} {count}" for code, count in fleet.codes.most_common())
    yield f"answers: {codes}"
    yield f"agreed again at most {fleet.converged_most_s:.0f} s after the last fault"
    yield ""
    if beside is not None:
        names = ("hit rate", "loads", "load s", "unloads", "s/request", "hops")
        yield f"{f'{beside.fleet.seeds} of them':14}" + "".join(f"{name:>11}" for name in names)
        yield _row("this fleet", beside.fleet)
        yield _row("with LRU", beside.lru)
        yield _row("naive", beside.naive)
        yield ""
    struck = ", ".join(f"{kind} {count}" for kind, count in sorted(fleet.struck.items()))
    yield f"faults that struck: {struck or 'none'}"
    for seed, violations in sorted(fleet.failed.items()):
        yield f"seed {seed}: {len(violations)} violations; the first: {violations[0].strip()}"
    if not fleet.failed:
        yield "no violation"


def _row(name: str, total: Total) -> str:
    requests = max(total.requests, 1)
    return (
        f"{name:14}{total.hits / requests:>11.1%}{total.loads:>11}{total.load_s:>11.0f}"
        f"{total.evictions:>11}{total.waited_s / requests:>11.3f}{total.hops or '-':>11}"
    )
