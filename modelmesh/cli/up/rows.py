"""Looks -> text for people. Pure."""

from collections.abc import Sequence
from typing import Final

from modelmesh.cli.tables import clean, columns, size, table
from modelmesh.cli.up.looks import Look

_HEAD: Final = ("POD", "PID", "READY", "MODELS", "MEMORY", "REQUESTS", "RESTARTS", "LOADED")
_RIGHT: Final = (1, 3, 5, 6)


def live(looks: Sequence[Look], width: int) -> list[str]:
    """The table's lines, none wider than the terminal: one that wraps would spoil the drawing."""
    lines = table(_HEAD, [_row(look) for look in looks], right=_RIGHT).split("\n")
    return [_cut(line, width) for line in lines]


def _cut(line: str, width: int) -> str:
    while columns(line) > width:
        line = line[:-1]
    return line


def _row(look: Look) -> tuple[str, ...]:
    figures = look.figures
    pid = "" if look.pid is None else str(look.pid)
    start = (look.id, pid, _ready(look))
    if figures is None:
        return (*start, "", "", "", str(look.restarts), "")
    memory = f"{size(figures.used_bytes)} of {size(figures.capacity_bytes)}"
    counts = (str(figures.loaded), memory, str(figures.requests), str(look.restarts))
    return (*start, *counts, _named(look, figures.loaded))


def _ready(look: Look) -> str:
    return "yes" if look.ready else "no"


def _named(look: Look, loaded: int) -> str:
    more = loaded - len(look.models)
    names = " ".join(clean(name) for name in look.models)
    return f"{names} +{more}".strip() if more > 0 else names


def plain(look: Look) -> str:
    """One pod in one line, for a log; only what seldom changes, so that a line is news."""
    start = f"{look.id}: pid {look.pid}, {'ready' if look.ready else 'not ready'}"
    return start if look.figures is None else f"{start}, {look.figures.loaded} models loaded"
