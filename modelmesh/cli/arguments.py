"""What the command line looks like: every command, every flag, its help. No behaviour.

A client command should answer before a person notices that it started, so nothing here imports
gRPC or the daemon, and the fifty flags of `serve` are built only for `serve`.
"""

import argparse
import os
from collections.abc import Sequence

from modelmesh import __version__
from modelmesh.cli.up.plan import BASE_PORT, PODS

GRPC_ADDRESS = "127.0.0.1:8033"
REST_ADDRESS = "127.0.0.1:8008"
TIMEOUT_S = 120.0  # longer than the daemon's own load timeout, so that its answer arrives
PAGE_SIZE = 100
FLEET_DIR = "data"  # as `make run`: their files do not meet

_EPILOG = """exit status:
  0    done
  1    refused or failed: one line on stderr says whose fault it is and whether a retry helps
  2    the command line, or a file that it names, makes no sense
  3    no daemon answers there
  130  interrupted (Ctrl-C)
"""

Commands = argparse._SubParsersAction  # the type has no public name


def parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for this command line."""
    top = argparse.ArgumentParser(
        prog="modelmesh",
        description="Serve thousands of models on a few machines.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _serve(commands, argv)
    _up(commands)
    _models(commands)
    _vmodels(commands)
    _fleet(commands)
    _infer(commands)
    _simulate(commands)
    version = commands.add_parser("version", help="the version of this program")
    version.add_argument("--json", action="store_true", help="for programs: stable keys")
    version.set_defaults(version=__version__)
    return top


def _serve(commands: "Commands[argparse.ArgumentParser]", argv: Sequence[str]) -> None:
    serve = commands.add_parser(
        "serve",
        help="run the daemon until SIGTERM or Ctrl-C",
        description="Run the daemon in the foreground. A flag wins over its variable.",
    )
    if argv[:1] == ["serve"]:
        from modelmesh.cli.options import add_flags

        add_flags(serve)


def _up(commands: "Commands[argparse.ArgumentParser]") -> None:
    up = commands.add_parser(
        "up",
        help="run a fleet on this machine until Ctrl-C: an etcd and some daemons",
        description="Start an etcd and some daemons, show what is loaded where, start again what"
        " ends. Each daemon's log is DIR/ID.log; DIR/fleet.json tells programs pids and ports.",
    )
    up.add_argument("--pods", type=int, default=PODS, metavar="N", help=f"daemons [{PODS}]")
    up.add_argument(
        "--data-dir", default=FLEET_DIR, metavar="DIR", help=f"kept from run to run [{FLEET_DIR}]"
    )
    up.add_argument(
        "--base-port",
        type=int,
        default=BASE_PORT,
        metavar="P",
        help=f"all ports are from P to P+99 [{BASE_PORT}]",
    )
    up.add_argument("--etcd", default="", metavar="URL", help="use this one; start none")
    up.add_argument(
        "--capacity",
        type=_size_bytes,
        default=0,
        metavar="BYTES",
        help="each daemon's memory for models; 0: its part of the machine [0]",
    )
    up.set_defaults(json=False)


def _models(commands: "Commands[argparse.ArgumentParser]") -> None:
    models = commands.add_parser("models", help="register, list, status, explain, load...")
    actions = models.add_subparsers(dest="action", required=True, metavar="ACTION")
    _register(actions)
    _listing(actions, "registered models and where they stand, by name")
    for name, text in (
        ("status", "where a model stands and why; asking is no use of it"),
        ("explain", "what a request would meet now, and what would be evicted for it"),
        ("load", "load it now, however often it failed; a loaded one stays as it is"),
        ("unload", "give its memory back; it stays registered"),
        ("unregister", "forget the model; no error if there is none"),
    ):
        _action(actions, name, text).add_argument("model_id", metavar="ID")
    _policy(actions)
    watch = _action(actions, "watch", "a line for every model that changes, until Ctrl-C")
    watch.add_argument("--prefix", default="", help="only ids that begin with this")
    watch.add_argument(
        "--events", type=_whole, default=0, metavar="N", help="end after so many of them"
    )


def _policy(actions: "Commands[argparse.ArgumentParser]") -> None:
    policy = _action(actions, "policy", "how many copies, and what they count in an eviction")
    policy.add_argument("model_id", metavar="ID")
    policy.add_argument(
        "--min-copies", type=int, metavar="N", help="never fewer; 0: the fleet decides"
    )
    policy.add_argument("--max-copies", type=int, metavar="N", help="never more; 0: no limit")
    pinned = policy.add_mutually_exclusive_group()
    pinned.add_argument(
        "--pin", action="store_true", default=None, dest="pinned", help="never evict its last copy"
    )
    pinned.add_argument(
        "--unpin", action="store_false", default=None, dest="pinned", help="it may go again"
    )
    policy.add_argument(
        "--priority",
        type=int,
        metavar="P",
        help="from -20 to 20: each step doubles or halves what its copies count",
    )


def _fleet(commands: "Commands[argparse.ArgumentParser]") -> None:
    _action(commands, "instances", "the daemons of the fleet, and how they look from one of them")
    _action(
        commands,
        "accept-restore",
        "after a restore of the registry's store: what it lacks is gone, and not offered back",
    )


def _vmodels(commands: "Commands[argparse.ArgumentParser]") -> None:
    vmodels = commands.add_parser(
        "vmodels", help="names that stand for one model now, and for another one soon"
    )
    actions = vmodels.add_subparsers(dest="action", required=True, metavar="ACTION")
    setting = _action(actions, "set", "let a name stand for a model, as soon as that is loaded")
    setting.add_argument("vmodel_id", metavar="NAME")
    setting.add_argument("model_id", metavar="ID", help="the model")
    setting.add_argument("--type", default="", help="register the model with this type")
    setting.add_argument("--path", default="", help="and this path")
    setting.add_argument("--key", default="", metavar="JSON", help="and this key")
    setting.add_argument("--owner", default="", help="refused if the name is another owner's")
    setting.add_argument("--expect", default="", metavar="ID", help="only if it goes there now")
    for flag, text in (
        ("--update-only", "only if the name exists"),
        ("--auto-delete", "the model goes when no name stands for it any more"),
        ("--load", "begin to load it"),
        ("--sync", "wait until it answers, or cannot (4 minutes at most)"),
        ("--force", "now, loaded or not"),
    ):
        setting.add_argument(flag, action="store_true", help=text)
    for name, text in (
        ("get", "what a name stands for, and how those models stand"),
        ("delete", "forget the name; no error if there is none, or it is another owner's"),
    ):
        action = _action(actions, name, text)
        action.add_argument("vmodel_id", metavar="NAME")
        action.add_argument("--owner", default="", help="only if it is this owner's")
    _listing(actions, "names and what they stand for, in order")


def _listing(actions: "Commands[argparse.ArgumentParser]", text: str) -> None:
    listing = _action(actions, "list", text)
    listing.add_argument("--prefix", default="", help="only ids that begin with this")
    listing.add_argument("--all", action="store_true", help="every page, not just one")
    listing.add_argument(
        "--page-size", type=_whole, default=PAGE_SIZE, metavar="N", help="rows a page [100]"
    )
    listing.add_argument("--page-token", default="", help="go on where another page ended")


def _register(actions: "Commands[argparse.ArgumentParser]") -> None:
    register = _action(actions, "register", "make a model known; the same again is a success")
    register.add_argument("model_id", metavar="ID", nargs="?", help="the model's name")
    register.add_argument("--type", help="its runtime or model type: sklearn, rt:..., mt:...")
    register.add_argument("--path", default="", help="absolute, or file://; the daemon reads it")
    register.add_argument("--key", default="", metavar="JSON", help="parameters for its runtime")
    register.add_argument("--load", action="store_true", help="begin to load it")
    register.add_argument("--sync", action="store_true", help="load it and wait for the outcome")
    register.add_argument(
        "--file",
        metavar="JSONL",
        help='many, one a line: {"model_id": "...", "type": "...", "path": "..."}; - = stdin',
    )


def _infer(commands: "Commands[argparse.ArgumentParser]") -> None:
    infer = commands.add_parser("infer", help="send a JSON request over REST, print the answer")
    infer.add_argument("model_id", metavar="ID")
    infer.add_argument("--file", required=True, metavar="JSON", help="the request; - = stdin")
    protocol = infer.add_mutually_exclusive_group()
    for name in ("v1", "v2"):
        asked = f"it is {name.upper()}; without either, guessed"
        protocol.add_argument(
            f"--{name}", action="store_const", const=name, dest="protocol", help=asked
        )
    infer.add_argument(
        "--rest",
        default=os.environ.get("MM_REST_ADDRESS") or REST_ADDRESS,
        metavar="HOST:PORT",
        help=f"the daemon's REST port [MM_REST_ADDRESS, {REST_ADDRESS}]",
    )
    _common(infer)


def _simulate(commands: "Commands[argparse.ArgumentParser]") -> None:
    simulate = commands.add_parser(
        "simulate",
        help="play whole fleets with faults in virtual time, and look whether all promises hold",
        description="Play seeds: each is a fleet of real daemons on doors in memory, with callers"
        " and faults. A seed that violates something is replayed exactly with --seed.",
    )
    for flag, default, text in (
        ("--seeds", 100, "how many seeds"),
        ("--first-seed", 0, "where to begin"),
        ("--pods", 0, "daemons; 0: the seed chooses"),
        ("--models", 0, "models registered at the start; 0: the seed chooses"),
        ("--jobs", os.cpu_count() or 1, "processes"),
    ):
        simulate.add_argument(
            flag, type=int, default=default, metavar="N", help=f"{text} [{default}]"
        )
    simulate.add_argument("--seed", type=int, metavar="S", help="replay this one, event by event")
    simulate.add_argument(
        "--plant", default="", metavar="NAME", help="put this bug into the daemons, and find it"
    )
    simulate.add_argument(
        "--minutes", type=float, default=0.0, metavar="M", help="of each; 0: the seed chooses [0]"
    )
    simulate.set_defaults(json=False)


def _action(
    actions: "Commands[argparse.ArgumentParser]", name: str, text: str
) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=text, description=f"{name}: {text}")
    action.add_argument(
        "--address",
        default=os.environ.get("MM_ADDRESS") or GRPC_ADDRESS,
        metavar="HOST:PORT",
        help=f"the daemon's gRPC port [MM_ADDRESS, {GRPC_ADDRESS}]",
    )
    _common(action)
    return action


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="for programs: stable keys")
    command.add_argument(
        "--timeout",
        type=_seconds,
        default=TIMEOUT_S,
        metavar="SECONDS",
        help=f"the longest wait for an answer [{TIMEOUT_S:g}]",
    )


def _whole(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 10_000:
        raise argparse.ArgumentTypeError("must be from 1 to 10000")
    return value


def _size_bytes(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 86_400:
        raise argparse.ArgumentTypeError("must be more than 0 and less than a day")
    return value
