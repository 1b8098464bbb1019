"""`modelmesh serve`: environment and flags into settings, then the daemon until it ends."""

import argparse
import os

from modelmesh.cli import options
from modelmesh.cli.exits import BadUsage


def serve(args: argparse.Namespace) -> int:
    """Run the daemon; its status. Settings that make no sense are a usage error."""
    try:
        settings = options.read(vars(args), os.environ)
    except options.BadSettings as error:
        raise BadUsage(str(error)) from None
    from modelmesh import app

    return app.run(settings, options.without_effect(os.environ))
