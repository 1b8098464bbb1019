"""What 100,000 registered models cost a fleet whose registry is in etcd.

Bulk and single registrations through a daemon, while a second one follows them all; then daemons
that start on what is there, one alone and two at once, with nothing on their disks. Memory is
private bytes once ready, less those of a daemon on an empty registry.
"""

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks import trees
from benchmarks.daemons import Daemon
from benchmarks.etcd import etcd, member
from benchmarks.fleet import Section
from benchmarks.sections import PATH, register_singly
from modelmesh.pb import admin_pb2, admin_pb2_grpc
from tests.registry.etcd_server import EtcdServer

MODELS = int(os.environ.get("MODELS", "100000"))
SINGLES = 500  # of each caller
CALLERS = 16
KEY = "{}"
SEEN_S = 60.0
READY_BOUND_S = 10
BYTES_BOUND = 560
BULK_BOUND = 10_000
SINGLES_BOUND = 1_500


def models(count: int) -> list[tuple[str, str, str, str]]:
    """(id, type, path, key) of so many; paths have 45 characters."""
    assert len(PATH) == 45
    return [(f"iris-{n:06}", "sklearn", f"{PATH[:-10]}{n:06}.job", KEY) for n in range(count)]


def registered(served: Daemon) -> int:
    """How many models this daemon knows. It grows by being asked: measure its memory before."""
    found, token = 0, ""
    with served.channel() as channel:
        stub = admin_pb2_grpc.AdminStub(channel)
        while True:
            asked = admin_pb2.ListModelsRequest(page_size=10_000, page_token=token)
            page = stub.ListModels(asked, timeout=60)
            found, token = found + len(page.models), page.next_page_token
            if not token:
                return found


def _seen_s(served: Daemon, last: str, began: float) -> float:
    """How long after `began` this daemon knows the model that was registered last."""
    with served.channel() as channel:
        stub = admin_pb2_grpc.AdminStub(channel)
        asked = admin_pb2.ListModelsRequest(prefix=last, page_size=1)
        while not stub.ListModels(asked, timeout=60).models:
            assert time.monotonic() < began + SEEN_S, f"{last} is not seen"
            time.sleep(0.05)
    return time.monotonic() - began


def _empty(folder: Path, server: EtcdServer) -> tuple[int, list[str]]:
    """Private bytes of a daemon that knows no model: the median of three."""
    taken, ready_s = [], []
    for n in range(3):
        with member(folder, server, f"empty{n}") as served:
            taken.append(trees.private_bytes(served.pid))
            ready_s.append((served.ready_s, trees.cpu_s(served.pid)))
    empty = int(statistics.median(taken))
    started_s, cpu_s = sorted(ready_s)[1]
    return empty, [
        f"| private bytes of an empty daemon | {empty / 1e6:.1f} MB | |",
        f"| start to ready on no models (CPU {cpu_s:.1f} s) | {started_s:.1f} s | |",
    ]


def _writing(folder: Path, server: EtcdServer) -> list[str]:
    with ExitStack() as stack:
        a = stack.enter_context(member(folder, server, "writing"))
        b = stack.enter_context(member(folder, server, "following"))
        items = models(MODELS)
        began = time.monotonic()
        spent = trees.cpu_s(a.pid)
        a.register_many(items)
        bulk_s = time.monotonic() - began
        bulk_cpu_s = trees.cpu_s(a.pid) - spent
        seen_s = _seen_s(b, items[-1][0], began)
        rows = []
        for name, served in (("one daemon", a), ("another", b)):
            spent = trees.cpu_s(served.pid)
            count, seconds = register_singly(served, CALLERS, SINGLES, name.replace(" ", "-"))
            cpu_us = (trees.cpu_s(served.pid) - spent) / count * 1e6
            rows.append(
                f"| registrations/s, {CALLERS} callers at {name} ({cpu_us:.0f} us of its CPU each)"
                f" | {count / seconds:,.0f} | >= {SINGLES_BOUND:,} |"
            )
    return [
        f"| {MODELS:,} models in bulk, a second"
        f" ({bulk_cpu_s / MODELS * 1e6:.0f} us of the daemon's CPU each)"
        f" | {MODELS / bulk_s:,.0f} | >= {BULK_BOUND:,} |",
        f"| another daemon knows them all, after the last was registered"
        f" | {max(seen_s - bulk_s, 0.0):.1f} s | |",
        *rows,
    ]


def _reading(folder: Path, server: EtcdServer, empty: int) -> list[str]:
    count = MODELS + 2 * CALLERS * SINGLES
    rows = []
    for name, ids in (("one", ["alone"]), ("two at once", ["first", "second"])):
        with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
            started = [member(folder, server, each) for each in ids]
            daemons = list(pool.map(stack.enter_context, started))
            spent = [trees.cpu_s(served.pid) for served in daemons]
            for served, cpu_s in zip(daemons, spent, strict=True):
                each = (trees.private_bytes(served.pid) - empty) / count
                rows += [
                    f"| start to ready on {count:,} models, {name} (CPU {cpu_s:.1f} s)"
                    f" | {served.ready_s:.1f} s | < {READY_BOUND_S} s |",
                    f"| private bytes a model, {name} | {each:.0f} | <= {BYTES_BOUND} |",
                ]
            assert all(registered(served) == count for served in daemons)
    return rows


def registry(folder: Path) -> list[str]:
    """Registrations, the start on them, and what each takes."""
    with etcd(folder) as server:
        lines = [f"| registry in {server.program} | | bound |", "|---|---|---|"]
        empty, rows = _empty(folder, server)
        lines += rows
        lines += _writing(folder, server)
        lines += _reading(folder, server, empty)
    return lines


SECTIONS: dict[str, Section] = {"registry": registry}
