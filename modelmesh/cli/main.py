"""The `modelmesh` command: parse, run one command, end with a status that means something.

Each command is a function of its arguments that prints and returns a status. Commands are imported
when they are chosen: `serve` brings the whole daemon, `models` brings gRPC, `version` brings
nothing. What goes wrong arrives here as BadUsage or CommandFailed and becomes one line on stderr;
a traceback on a terminal is a bug.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from modelmesh.cli import arguments
from modelmesh.cli.exits import BadUsage, CommandFailed, Exit, document_of, line_of
from modelmesh.cli.tables import clean

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its status."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core writes to stderr what we say better
    argv = sys.argv[1:] if argv is None else list(argv)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    args = arguments.parser(argv).parse_args(argv)
    try:
        status = _command(args)(args)
        sys.stdout.flush()
    except BadUsage as error:
        return _fail(clean(str(error)), Exit.USAGE)
    except CommandFailed as error:
        return _fail(document_of(error) if args.json else clean(line_of(error)), error.status)
    except BrokenPipeError:  # `modelmesh models list | head`: whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return status


def _fail(line: str, status: Exit) -> Exit:
    print(line if line.startswith("{") else f"modelmesh: {line}", file=sys.stderr)
    return status


def _command(args: argparse.Namespace) -> Command:
    match args.command:
        case "serve":
            from modelmesh.cli.serve import serve

            return serve
        case "up":
            from modelmesh.cli.up.command import up

            return up
        case "simulate":
            from modelmesh.cli.simulate import simulate

            return simulate
        case "models":
            from modelmesh.cli.models import COMMANDS

            return COMMANDS[args.action]
        case "vmodels":
            from modelmesh.cli.vmodels import COMMANDS as VMODELS

            return VMODELS[args.action]
        case "instances":
            from modelmesh.cli.fleet import instances

            return instances
        case "accept-restore":
            from modelmesh.cli.fleet import accept_restore

            return accept_restore
        case "infer":
            from modelmesh.cli.infer import infer

            return infer
        case _:
            return _version


def _version(args: argparse.Namespace) -> int:
    print(f'{{"version": "{args.version}"}}' if args.json else f"modelmesh {args.version}")
    return Exit.OK
