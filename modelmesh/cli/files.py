"""Files that a command line names: read whole, or refused in one sentence."""

import sys
from pathlib import Path

from modelmesh.cli.exits import BadUsage


def read_text(name: str) -> str:
    """The file's text, or standard input's for `-`."""
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return content.decode()
    except OSError as error:
        raise BadUsage(f"cannot read {name}: {error.strerror}") from None
    except ValueError as error:  # no UTF-8; or NUL in the name
        raise BadUsage(f"cannot read {name}: {error}") from None
