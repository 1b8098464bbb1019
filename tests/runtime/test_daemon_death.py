"""A daemon that is killed with -9 leaves neither zygote nor keeper nor host behind."""

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.runtime.waiting import is_dead, until

DAEMON = """
import asyncio, json, sys
from modelmesh.runtime.hosts import HostedRuntime
from tests.runtime.support import QUICK_S, Listener, begin, config
from modelmesh.runtime.door import LoadRequest

async def main():
    runtime = HostedRuntime(config(set_aside_s=QUICK_S))
    await runtime.start(Listener())
    busy = json.dumps({"on": "predict", "do": sys.argv[1]})
    await runtime.load(LoadRequest("busy", "hostile", "", busy))
    begin(runtime, "busy")
    alone = LoadRequest("alone", "hostile", "", json.dumps({"on": "load", "do": "leave_children"}))
    await runtime.load(alone)
    print(json.dumps([runtime.zygote_pid, *runtime.pids().values()]), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def _below(pid: int) -> set[int]:
    """All living descendants."""
    found: set[int] = set()
    with suppress(OSError):  # it has ended meanwhile
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found |= {int(child)} | _below(int(child))
    return found


@pytest.mark.parametrize("deed", ["hang", "spin"])
async def test_nothing_survives_a_killed_daemon(deed: str) -> None:
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DAEMON, deed,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert daemon.stdout is not None
    told: set[int] = set()
    async with asyncio.timeout(60):
        while not told:
            line = await daemon.stdout.readline()
            if line.startswith(b"["):
                told = set(json.loads(line))
    everyone = _below(daemon.pid)
    assert told <= everyone
    assert len(everyone) >= 6  # zygote, and a keeper for each host, and what a model has left
    daemon.send_signal(signal.SIGKILL)
    await daemon.wait()
    await until(lambda: all(map(is_dead, everyone)))


STARTING = """
import asyncio
from modelmesh.runtime.zygote import ZygoteClient, ZygoteConfig

async def main():
    print("starting", flush=True)
    await ZygoteClient(ZygoteConfig(runtimes="tests.runtime.hanging_import:Never")).start()

asyncio.run(main())
"""


async def test_a_zygote_whose_import_never_ends_dies_with_its_daemon() -> None:
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STARTING,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    await until(lambda: bool(_below(daemon.pid)))
    (zygote,) = _below(daemon.pid)
    await until(lambda: Path(f"/proc/{zygote}/comm").read_text() == "hanging\n")
    daemon.send_signal(signal.SIGKILL)
    await daemon.wait()
    await until(lambda: is_dead(zygote))
