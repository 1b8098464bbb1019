"""A daemon killed with -9 while 2,000 registrations run: every acknowledged one is there."""

import asyncio
import itertools
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from modelmesh.domain.records import ModelRecord
from modelmesh.registry.models import Models
from modelmesh.registry.sqlite import SqliteStore

REGISTRATIONS = 2000

# Registrations start a random number of turns late, so that they fall into many transactions; each
# is a commit of its own, as those of several callers need not be (`register` gathers them).
CHILD = f"""
import asyncio, os, random, signal, sys
from modelmesh.domain.records import ModelRecord
from modelmesh.registry.models import Models
from modelmesh.registry.sqlite import SqliteStore

async def main(path, seed, die_after):
    turns = random.Random(seed)
    store = await SqliteStore.open(path)
    models = Models(store)

    acknowledged = 0

    async def register(number, late):
        nonlocal acknowledged
        for _ in range(late):
            await asyncio.sleep(0)
        name = f"model-{{number}}"
        await models.register_many([(name, ModelRecord("dummy", path=name * 3, key=name))])
        os.write(1, b"ack " + name.encode() + b"\\n")
        acknowledged += 1
        if acknowledged == die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    works = (register(number, turns.randrange(400)) for number in range({REGISTRATIONS}))
    await asyncio.gather(*works)
    await asyncio.sleep(60)

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


@pytest.mark.parametrize("killer", ["parent", "itself"])
@pytest.mark.parametrize("seed", range(5))
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, seed: int, killer: str) -> None:
    """By the parent at any instant, or by the child itself in the instant of an acknowledgement."""
    path = str(tmp_path / "registry.db")
    kill_after = random.Random(seed).randrange(REGISTRATIONS * 3 // 4)
    die_after = kill_after + 1 if killer == "itself" else 0
    command = [sys.executable, "-c", CHILD, path, str(seed), str(die_after)]
    # The pipe holds some 250 lines: a child cannot finish unread, however slow this process is.
    with subprocess.Popen(command, stdout=subprocess.PIPE, pipesize=4096) as child:
        assert child.stdout is not None
        acknowledged = [*itertools.islice(_acknowledged(child.stdout), kill_after)]
        if killer == "parent":
            child.kill()
        acknowledged += _acknowledged(child.stdout)
        assert child.wait() == -signal.SIGKILL
    print(f"seed {seed}: killed after {kill_after}, {len(acknowledged)} acknowledged")
    assert kill_after <= len(acknowledged) < REGISTRATIONS  # the kill came in between
    asyncio.run(_check(path, set(acknowledged)))


def _acknowledged(output: IO[bytes]) -> Iterator[str]:
    """Names that the child has printed in full (its log goes the same way)."""
    for line in output:
        if line.startswith(b"ack ") and line.endswith(b"\n"):
            yield line.split()[1].decode()


async def _check(path: str, acknowledged: set[str]) -> None:
    async with await SqliteStore.open(path) as store:
        models = Models(store)
        names = set(models.names())
        assert acknowledged <= names
        assert store.table("").revision == len(names)
        for name in names:
            assert models.get(name) == ModelRecord("dummy", path=name * 3, key=name)
        assert (await models.register("another", ModelRecord("dummy"))) == "created"
