"""When a child that ended is started again. Pure.

One that had been ready is started at once, every time: it cannot spin, since getting ready takes
a while, and whoever kills daemons to see what happens should not wait for a pause. One that never
got ready is given a second chance at once, then ever more slowly.
"""

from typing import Final

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 10.0
# So many starts in a row that led nowhere, before the fleet was ever ready: it is set up wrongly,
# and to say so helps more than to go on.
GIVE_UP_AFTER: Final = 3

_SENTENCE: Final = "modelmesh: "


def pause_s(failed_starts: int) -> float:
    """The pause before the next start, after so many in a row that never got ready."""
    if failed_starts <= 1:
        return 0.0
    doublings = min(failed_starts - 2, 10)
    return float(min(FIRST_PAUSE_S * 2**doublings, LONGEST_PAUSE_S))


def end_of(log: str, lines: int) -> str:
    """What a daemon said of its own end (one sentence behind the program's name), or the last lines
    where it said nothing."""
    last = log.splitlines()[-lines:]
    if last and last[-1].startswith(_SENTENCE):
        return last[-1].removeprefix(_SENTENCE)
    return "\n".join(last)


def how(status: int) -> str:
    """An exit status in words; negative is a signal."""
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
