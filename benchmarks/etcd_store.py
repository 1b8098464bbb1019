"""What the registry costs in etcd, for every etcd found here:

    python -m benchmarks.etcd_store [PATH_OF_ANOTHER_ETCD ...]

Commits are compare-and-set of one 300-byte record, as a registration is; a bulk has 100 of them.
Disks are waited for (a daemon's etcd does so too).
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from modelmesh.cli.etcd_process import Program, program_at, programs
from modelmesh.registry.etcd.store import EtcdStore
from modelmesh.registry.store import Compare, Put
from tests.registry.etcd_server import EtcdServer

RECORD = b"x" * 300
COMMITS = 4000
MODELS = 100_000
BULK = 100


async def commits(store: EtcdStore, callers: int) -> str:
    """Commits a second, and CPU of this process for each."""
    numbers = iter(range(COMMITS if callers > 1 else COMMITS // 4))
    done = 0

    async def caller() -> None:
        nonlocal done
        for n in numbers:
            key = f"c{callers}/{n}"
            assert (await store.commit([Compare(key, 0)], [Put(key, RECORD)])).succeeded
            done += 1

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    return f"{done / wall_s:,.0f}/s ({cpu_s / done * 1e6:.0f} us)"


async def bulk(store: EtcdStore) -> str:
    starts = iter(range(0, MODELS, BULK))

    async def caller() -> None:
        for start in starts:
            keys = [f"m/{n:06}" for n in range(start, start + BULK)]
            changes = [Put(key, RECORD) for key in keys]
            assert (await store.commit([Compare(key, 0) for key in keys], changes)).succeeded

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(8)))
    return f"{MODELS / (time.perf_counter() - began):,.0f}/s"


async def listing(store: EtcdStore, page: int) -> str:
    began, cpu = time.perf_counter(), time.process_time()
    after, count, more, revision = "", 0, True, 0
    while more:
        part = await store.page("m/", after, page, revision)
        count, more, revision = count + len(part.entries), part.more, part.revision
        after = part.entries[-1][0]
    assert count == MODELS
    return f"{time.perf_counter() - began:.2f} s ({time.process_time() - cpu:.2f} s)"


async def delay(store: EtcdStore) -> str:
    """From the beginning of a commit until a watch has it, in the middle of 200."""
    watch = store.watch("w/", (await store.page("w/")).revision)
    delays = []
    for n in range(200):
        began = time.perf_counter()
        seen = asyncio.ensure_future(anext(watch))
        await store.commit([], [Put(f"w/{n}", RECORD)])
        await seen
        delays.append(time.perf_counter() - began)
    return f"{statistics.median(delays) * 1000:.1f} ms"


def measured(program: Program, work: Callable[[EtcdStore], Awaitable[list[str]]]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        server = EtcdServer(program, Path(folder), unsafe_no_fsync=False)
        server.start()

        async def run() -> list[str]:
            async with EtcdStore(server.config()) as store:
                return await work(store)

        try:
            return uvloop.run(run())
        finally:
            server.stop()


async def everything(store: EtcdStore) -> list[str]:
    return [
        *[await commits(store, callers) for callers in (1, 16, 64)],
        await bulk(store),
        await listing(store, 1000),
        await listing(store, 5000),
        await delay(store),
    ]


def main() -> None:
    further = [program for path in sys.argv[1:] if (program := program_at(path)) is not None]
    print(
        f"| etcd | 1 caller | 16 callers | 64 callers | bulk | {MODELS:,} listed by 1,000 (CPU)"
        " | by 5,000 | commit to watch |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for program in (*programs(), *further):
        print(f"| {program} | {' | '.join(measured(program, everything))} |", flush=True)


if __name__ == "__main__":
    main()
