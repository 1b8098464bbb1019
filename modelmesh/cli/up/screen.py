"""What a person sees: lines that stay, and on a terminal a table below them that is drawn anew.

Where the output is no terminal, a pod has a line whenever it has news. A reader that goes away is
no reason to end a fleet.
"""

import shutil
from collections.abc import Sequence
from typing import Final, TextIO

from modelmesh.cli.up import rows
from modelmesh.cli.up.looks import Look

_UP: Final = "\x1b[{}F"  # to the start of the line so many lines above
_CLEAR_BELOW: Final = "\x1b[J"


class Screen:
    """Writes to one stream."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._live = out.isatty()
        self._table: list[str] = []
        self._plain: dict[str, str] = {}

    def say(self, line: str) -> None:
        """A line that stays."""
        table = self._table
        self._write(f"{self._erased()}{line}\n{_lines(table)}")
        self._table = table

    def close(self, line: str) -> None:
        """The last line; the table, which would be true no longer, goes."""
        self._write(f"{self._erased()}{line}\n")

    def show(self, looks: Sequence[Look]) -> None:
        """The pods as they are now."""
        if not self._live:
            self._tell(looks)
            return
        size = shutil.get_terminal_size()
        table = rows.live(looks, size.columns)[: max(size.lines - 1, 1)]
        self._write(self._erased() + _lines(table))
        self._table = table

    def _erased(self) -> str:
        shown, self._table = len(self._table), []
        return _UP.format(shown) + _CLEAR_BELOW if shown else ""

    def _tell(self, looks: Sequence[Look]) -> None:
        for look in looks:
            line = rows.plain(look)
            if self._plain.get(look.id) != line:
                self._plain[look.id] = line
                self._write(f"{line}\n")

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except OSError:  # whoever read has gone
            self._live = False


def _lines(table: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in table)
