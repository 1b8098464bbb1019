"""How a fleet's callers fare while daemons and the store are mistreated, beside an undisturbed run.

Three daemons, 30 models, paced callers that check every answer (the tests' own). "Longest" is the
longest time in which no answer came, so it says how soon the fleet was whole again; a sole copy is
back when its next caller has an answer.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.fleet.fleet import Fleet, fleet_of
from tests.fleet.traffic import Report, Traffic
from tests.registry.etcd_server import PROGRAMS, EtcdServer

MODELS = [f"m{n:02}" for n in range(30)]
RATE = 200.0
LOAD_S = 0.05
_WAIT_S = 600.0

Row = tuple[str, Report, str]


def recovery(folder: Path) -> list[str]:
    """Kill, pause, restart daemons; kill and pause the store."""
    rows = [
        row
        for mistreat in (_daemons, _rolling, _store)
        for row in mistreat(folder / mistreat.__name__)
    ]
    lines = [
        f"{RATE:.0f} requests/s for {len(MODELS)} models at three daemons; a load takes"
        f" {LOAD_S * 1000:.0f} ms",
        "",
        "| | answers | failed | p50 ms | p99 ms | longest without an answer ms | |",
        "|---|---|---|---|---|---|---|",
    ]
    return lines + [_line(*row) for row in rows]


def many(folder: Path) -> list[str]:
    """20,000 registered models, Zipf, two daemons, 200 requests/s: the warm half of the run."""
    models = [f"m{n:05}" for n in range(20_000)]
    lines = ["| 20,000 models | answers | failed | p50 ms | p99 ms | bound p99 |", "|---" * 6 + "|"]
    with _fleet(folder, "a", "b") as fleet:
        fleet.dummies(*models, size_bytes=1000)
        for run in ("cold", "warm"):
            with Traffic(fleet.targets, models, rate=RATE, most=6000) as traffic:
                report = traffic.finish(_WAIT_S)
            bound = "10" if run == "warm" else ""
            p50, p99 = _quantiles(report)
            lines.append(
                f"| {run} | {report.right} | {report.failed.total()} | {p50:.1f} | {p99:.1f}"
                f" | {bound} |"
            )
    return lines


@contextmanager
def _fleet(folder: Path, *members: str, **settings: Any) -> Iterator[Fleet]:
    server = EtcdServer(next(iter(PROGRAMS.values())), folder / "etcd")
    server.start()
    try:
        with fleet_of(server, folder, *members, quiet=True, **settings) as fleet:
            yield fleet
    finally:
        server.resume()
        server.stop()


def _warm(fleet: Fleet) -> None:
    fleet.dummies(*MODELS, size_bytes=1_000_000, load_s=LOAD_S)
    with Traffic(fleet.targets, MODELS, skew=0, most=300) as traffic:
        traffic.finish(_WAIT_S).assert_all_right(300)


def _under_load(targets: list[str], meanwhile: Callable[[Traffic], str]) -> tuple[Report, str]:
    with Traffic(targets, MODELS, rate=RATE) as traffic:
        traffic.more(200, _WAIT_S)
        said = meanwhile(traffic)
        traffic.more(1000, _WAIT_S)
    return traffic.report, said


def _daemons(folder: Path) -> Iterator[Row]:
    with _fleet(folder, "a", "b", "c", MM_LEASE_SECS="10") as fleet:
        _warm(fleet)
        others = [fleet[name].target for name in "ac"]
        yield "undisturbed", *_under_load(fleet.targets, lambda _: "")

        def kill(_: Traffic) -> str:
            sole = _sole_copy_in_b(fleet, "before-the-kill")
            fleet["b"].kill()
            return _answered_after(fleet, sole, f"load + 1 s = {LOAD_S + 1:.2f} s")

        yield "kill -9 of one", *_under_load(fleet.targets, kill)
        fleet["b"].restart()

        def pause(_: Traffic) -> str:
            sole = _sole_copy_in_b(fleet, "before-the-pause")
            fleet["b"].pause()
            return _answered_after(fleet, sole, "1 s")

        yield "SIGSTOP of one (callers of the others)", *_under_load(others, pause)
        fleet["b"].resume()


def _sole_copy_in_b(fleet: Fleet, name: str) -> str:
    """A model that only b has loaded."""
    for number in range(60):
        model_id = f"{name}-{number}"
        fleet.dummies(model_id, size_bytes=1_000_000, load_s=LOAD_S)
        fleet["a"].client.infer(model_id)
        if fleet.holders(model_id) == {"b"}:
            return model_id
    raise SystemExit("none of 60 models went to b")


def _answered_after(fleet: Fleet, model_id: str, bound: str) -> str:
    begun = time.monotonic()
    fleet["a"].client.infer(model_id)
    return f"its sole copy is back after {time.monotonic() - begun:.2f} s (bound: {bound})"


def _rolling(folder: Path) -> Iterator[Row]:
    with _fleet(folder, "a", "b", "c", SHUTDOWN_TIMEOUT_MS="12000") as fleet:
        _warm(fleet)
        yield "undisturbed", *_under_load(fleet.targets, lambda _: "")

        def roll(traffic: Traffic) -> str:
            begun = time.monotonic()
            for member in fleet:
                member.restart()
                traffic.more(200, _WAIT_S)
            return f"all three in {time.monotonic() - begun:.0f} s (bound: p99 <= 2x)"

        yield "rolling restart", *_under_load(fleet.targets, roll)


def _store(folder: Path) -> Iterator[Row]:
    with _fleet(folder, "a", "b", "c", MM_LEASE_SECS="6") as fleet:
        _warm(fleet)

        def kill(traffic: Traffic) -> str:
            fleet.etcd.kill()
            traffic.more(2000, _WAIT_S)
            fleet.etcd.start()
            return "10 s without etcd"

        def pause(traffic: Traffic) -> str:
            fleet.etcd.pause()
            traffic.more(2000, _WAIT_S)
            fleet.etcd.resume()
            return "10 s, past the lease of 6 s"

        yield "etcd killed", *_under_load(fleet.targets, kill)
        yield "etcd paused", *_under_load(fleet.targets, pause)


def _line(name: str, report: Report, said: str) -> str:
    p50, p99 = _quantiles(report)
    ends = sorted(end for end, _ in report.took)
    longest = max(b - a for a, b in pairwise(ends))
    failed = report.failed.total() + len(report.wrong)
    return (
        f"| {name} | {report.right} | {failed} | {p50:.1f} | {p99:.1f} | {longest * 1000:.0f}"
        f" | {said} |"
    )


def _quantiles(report: Report) -> tuple[float, float]:
    """The median and the 99th percentile, in milliseconds."""
    took = sorted(seconds * 1000 for _, seconds in report.took)
    return took[len(took) // 2], took[len(took) * 99 // 100]


SECTIONS = {"recovery": recovery, "many": many}
