"""`make bench-fleet`: what a fleet costs and how fast it is whole again, as Markdown tables.

    python -m benchmarks.fleet [SECTION ...]

Sections are the `SECTIONS` of the modules `benchmarks/fleet_*.py`, each a function that takes an
empty folder and returns the lines of a table. What is compared is measured in the same run; figures
swing with the machine, so nothing here fails on speed.
"""

import importlib
import os
import pkgutil
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import benchmarks
from benchmarks.load import generator
from modelmesh.observe import logs

Section = Callable[[Path], list[str]]


def sections() -> dict[str, Section]:
    """Every section there is, by name."""
    found: dict[str, Section] = {}
    for module in sorted(each.name for each in pkgutil.iter_modules(benchmarks.__path__)):
        if module.startswith("fleet_"):
            found |= getattr(importlib.import_module(f"benchmarks.{module}"), "SECTIONS", {})
    return found


def main() -> None:
    known = sections()
    chosen = sys.argv[1:] or list(known)
    if unknown := [name for name in chosen if name not in known]:
        raise SystemExit(f"no such section: {', '.join(unknown)}; there are: {', '.join(known)}")
    logs.configure("error", "text")
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()},"
        f" Linux {platform.release()}; load by {generator()}",
        flush=True,
    )
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            print(f"\n### {name} (load average {os.getloadavg()[0]:.1f})\n", flush=True)
            print("\n".join(known[name](Path(folder))), flush=True)


if __name__ == "__main__":
    main()
