"""When Python's garbage collector has to keep still.

What it judges to stay it looks through again and again, all of it, while every request waits: some
15 ms for 20,000 records. Much of what a daemon makes at once either stays for ever or is dropped
at once, and the collector takes the one for the other.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_still = 0  # blocks under way: they may overlap
_was_on = True  # before the first of them


@contextmanager
def still() -> Iterator[None]:
    """What is made meanwhile is dropped at the end, by the thousand, and is in no cycle."""
    global _still, _was_on
    if not _still:
        _was_on = gc.isenabled()
        gc.disable()
    _still += 1
    try:
        yield
    finally:
        _still -= 1
        if not _still and _was_on:
            gc.enable()


@contextmanager
def uncollected() -> Iterator[None]:
    """What is made meanwhile stays, in hundreds of thousands: it is never looked at."""
    with still():
        try:
            yield
        finally:
            gc.freeze()
