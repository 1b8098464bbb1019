"""`modelmesh up`: arguments in, a fleet until Ctrl-C, a status out."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from modelmesh.cli import etcd_process, options
from modelmesh.cli.exits import BadUsage, Exit
from modelmesh.cli.up import children, folder
from modelmesh.cli.up.fleet import Fleet, Parts, Signals
from modelmesh.cli.up.fleet_file import FleetFile
from modelmesh.cli.up.plan import BadPlan, Plan, plan
from modelmesh.cli.up.screen import Screen
from modelmesh.observe import logs
from modelmesh.observe.machine import memory_bytes

DAEMON: Final = (sys.executable, "-m", "modelmesh", "serve")
# Beyond a daemon's own bound: hosts that must be killed, a busy machine.
SLACK_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person asked for. `etcd_url` "": one of our own."""

    pods: int
    data_dir: Path
    base_port: int
    etcd_url: str = ""
    capacity_bytes: int = 0
    daemon: Sequence[str] = DAEMON
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


def up(args: argparse.Namespace) -> int:
    """Run a fleet until a signal; its status."""
    data_dir = Path(args.data_dir).resolve()
    return run(Wanted(args.pods, data_dir, args.base_port, args.etcd, args.capacity))


def run(wanted: Wanted) -> int:
    """The same, for what is not the command line. Raises BadUsage or CommandFailed."""
    logs.configure("warning")
    try:
        ports = plan(wanted.pods, wanted.base_port)
        end_s = options.read({}, wanted.environment).shutdown_timeout_s + SLACK_S
    except (BadPlan, options.BadSettings) as error:
        raise BadUsage(str(error)) from None
    with folder.taken(wanted.data_dir):
        folder.check_free(ports.ports(own_etcd=not wanted.etcd_url))
        return asyncio.run(_main(_parts(wanted, ports, end_s), wanted.data_dir))


def _parts(wanted: Wanted, ports: Plan, end_s: float) -> Parts:
    etcd = None if wanted.etcd_url else _etcd(wanted, ports)
    url = wanted.etcd_url or f"http://{children.HOST}:{ports.etcd_client}"
    common = children.Common(
        wanted.daemon,
        wanted.environment,
        wanted.data_dir,
        url,
        wanted.capacity_bytes,
        memory_bytes(),
    )
    return Parts(ports, url, etcd, children.daemons(ports, common), end_s)


def _etcd(wanted: Wanted, ports: Plan) -> children.Child:
    programs = etcd_process.programs()
    if not programs:
        why = "there is no etcd on this machine"
        raise folder.refused(why, "install one, or modelmesh[fleet], or name one with --etcd")
    place = etcd_process.Place(wanted.data_dir / children.ETCD, ports.etcd_client, ports.etcd_peer)
    place.folder.mkdir(exist_ok=True)
    argv = etcd_process.command(programs[0], place)
    environment = etcd_process.environment(wanted.environment)
    return children.etcd_child(ports, argv, environment, wanted.data_dir)


async def _main(parts: Parts, data_dir: Path) -> int:
    signals = Signals()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: signals.interrupt(loop.time()))
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, signals.end)
    await Fleet(parts, FleetFile(data_dir), Screen(sys.stdout)).run(signals)
    return Exit.INTERRUPTED if signals.killing.is_set() else Exit.OK
