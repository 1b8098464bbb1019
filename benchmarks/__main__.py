"""`make bench`: measure this daemon on this machine and print Markdown tables.

    python -m benchmarks [cpu cold density registry scaling]

Figures swing with the machine; compare ratios within one run. Nothing here fails on speed.
"""

import os
import platform
import sys
import tempfile
from pathlib import Path

from benchmarks.load import generator
from benchmarks.sections import SECTIONS


def main() -> None:
    chosen = sys.argv[1:] or list(SECTIONS)
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()},"
        f" Linux {platform.release()}; load by {generator()}\n",
        flush=True,
    )
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            print("\n".join(SECTIONS[name](Path(folder))), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
