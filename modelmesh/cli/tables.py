"""Rows -> text for people. Pure: what a table looks like can be tested without a daemon.

Names and messages come from strangers, so whatever could move a cursor or forge a line is written
out (`\\x1b`) before it reaches a terminal. Programs never read this: they ask for --json.
"""

import unicodedata
from collections.abc import Sequence

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_GAP = "  "


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Aligned columns under their heads; the columns in `right` are numbers."""
    lines = [head, *([clean(cell) for cell in row] for row in rows)]
    widths = [max(columns(line[n]) for line in lines) for n in range(len(head))]
    return "\n".join(_line(line, widths, right) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> str:
    padded = []
    for n, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        space = " " * (width - columns(cell))
        padded.append(space + cell if n in right else cell + space)
    return _GAP.join(padded).rstrip()


def columns(text: str) -> int:
    """How many columns of a terminal the text takes: wide letters two, combining marks none."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.combining(letter) != 0 for letter in text)


def clean(text: str) -> str:
    """The text on one line, with everything that a terminal would obey written out."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def size(size_bytes: int) -> str:
    """`0 B`, `1.5 KiB`, `16.0 MiB`."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    value, unit = float(size_bytes), 0
    while value >= 1023.95 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_UNITS[unit]}"


def age(then_ms: int, now_ms: int) -> str:
    """How long ago, in the largest unit that fits; `never` for 0."""
    if then_ms == 0:
        return "never"
    seconds = max(0, now_ms - then_ms) // 1000
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"
