"""What a model weighs, measured in the host that loads it.

A model's file says little about its memory: a kilobyte of pickle can build gigabytes. A shared
host, which runs one thing at a time, reads the C allocator's own count before and after a load:
with `PYTHONMALLOC=malloc` all of Python's and numpy's memory is in it, to the byte. A host that
holds one model is weighed by its anonymous pages, which also see what no allocator counts.

Loads must stay quick with thousands of models in one heap, so the garbage collector walks what is
young, and the models that are there only when an unload has not given back what the load took (a
model that refers to itself in a cycle). It never walks what came from the zygote: that would copy
all of it into this host.
"""

import ctypes
import gc
import sys
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

T = TypeVar("T")

_GIVEN_BACK: Final = 0.9  # an unload that frees less than this part of the weight leaves a cycle
_TRIM_BYTES: Final = 4 << 20  # freed since the last trim before the allocator's heap is trimmed
_NEVER: Final = 1 << 30  # collections of the middle generation before an automatic full one
_MMAP_BYTES: Final = 256 << 10  # blocks from here on are mapped, and go back when they are freed
_SMALLEST_BYTES: Final = 16
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


class Scale(Protocol):
    """How a host weighs. `put_on` runs a load; `take_off` runs an unload of that weight."""

    def put_on(self, load: Callable[[], T]) -> tuple[T, int]:
        """The load's result and its weight in bytes (0: this scale cannot tell)."""

    def take_off(self, unload: Callable[[], object], size_bytes: int) -> None:
        """Unload, and see to it that the memory goes back."""


class NoScale:
    """For a process that does more than to run models: weighs nothing, touches no collector."""

    def put_on(self, load: Callable[[], T]) -> tuple[T, int]:
        return load(), 0

    def take_off(self, unload: Callable[[], object], size_bytes: int) -> None:
        unload()


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd",
            "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    )  # fmt: skip


class Allocator:
    """glibc's malloc, as far as weighing needs it."""

    def __init__(self) -> None:
        self._libc: Any = ctypes.CDLL(None)
        self._libc.mallinfo2.restype = _Mallinfo2

    def in_use_bytes(self) -> int:
        """Bytes in blocks that are not free, mapped ones included."""
        info = self._libc.mallinfo2()
        return int(info.uordblks + info.hblkhd)

    def fix_thresholds(self) -> None:
        """Stop glibc from raising its limits as large blocks come and go: it would keep them."""
        self._libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        self._libc.mallopt(_M_TRIM_THRESHOLD, _MMAP_BYTES)

    def fill_holes(self) -> None:
        """In a zygote: use up the free blocks between those in use, for good.

        glibc hands the small ones out in turn, so each host would write a little into thousands of
        pages that it shares, and copy them: 4 MB a host, against 0.3 MB here, once.
        """
        malloc, free = self._libc.malloc, self._libc.free
        malloc.restype, malloc.argtypes, free.argtypes = (
            ctypes.c_void_p,
            [ctypes.c_size_t],
            [ctypes.c_void_p],
        )
        end = malloc(_MMAP_BYTES - 4096)  # no hole is this large: it comes from the heap's end
        size_bytes = _MMAP_BYTES // 2
        while size_bytes >= _SMALLEST_BYTES:
            block = malloc(size_bytes)
            if block >= end:  # no hole of this size is left
                free(block)
                size_bytes = size_bytes // 2 if size_bytes > 1024 else size_bytes - 16
        free(end)

    def trim(self) -> None:
        """Give whole free pages back to the kernel."""
        self._libc.malloc_trim(0)


class AllocatorScale:
    """The scale of a shared host: needs `PYTHONMALLOC=malloc`, one thread, one load at a time."""

    def __init__(self) -> None:
        self._allocator = Allocator()
        self._allocator.fix_thresholds()
        self._freed_bytes = 0
        gc.freeze()
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, _NEVER)

    def put_on(self, load: Callable[[], T]) -> tuple[T, int]:
        before = self._allocator.in_use_bytes()
        gc.disable()  # a load makes much and drops little
        try:
            loaded = load()
        finally:
            gc.enable()
            gc.collect(1)  # what remains becomes old, and is not looked at again
        size_bytes = self._allocator.in_use_bytes() - before
        return loaded, max(1, size_bytes)

    def take_off(self, unload: Callable[[], object], size_bytes: int) -> None:
        before = self._allocator.in_use_bytes()
        unload()
        freed = before - self._allocator.in_use_bytes()
        if freed < _GIVEN_BACK * size_bytes:
            gc.collect()
            freed = before - self._allocator.in_use_bytes()
        self._freed_bytes += max(0, freed)
        if self._freed_bytes >= _TRIM_BYTES:
            self._allocator.trim()
            self._freed_bytes = 0


class PrivateScale:
    """The scale of a host that holds one model: what the process has grown by."""

    def __init__(self) -> None:
        gc.freeze()  # or the collector touches, and so copies, what is shared with the zygote

    def put_on(self, load: Callable[[], T]) -> tuple[T, int]:
        before = anonymous_bytes()
        loaded = load()
        gc.collect()
        return loaded, max(1, anonymous_bytes() - before)

    def take_off(self, unload: Callable[[], object], size_bytes: int) -> None:
        unload()
        gc.collect()
        Allocator().trim()


def forget_lookups() -> None:
    """In a zygote: empty the interpreter's cache of attribute look-ups.

    Each of its 4,096 entries holds a name. A host that replaces them one by one would write to as
    many objects that it shares, and copy their pages: 2 MB a host, over its first thousand loads.
    """
    clear = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache
    clear()


def anonymous_bytes() -> int:
    """This process's resident memory without a file behind it, shared with a parent or not.

    Copying a page that was shared does not change it, and reading it takes microseconds.
    """
    with open("/proc/self/status", "rb") as status:
        (line,) = (line for line in status if line.startswith(b"RssAnon:"))
    return int(line.split()[1]) * 1024


def private_bytes() -> int:
    """This process's memory that no other shares (a few milliseconds: the kernel walks it)."""
    with open("/proc/self/smaps_rollup", "rb") as rollup:
        kib = sum(int(line.split()[1]) for line in rollup if line.startswith(b"Private_"))
    return kib * 1024
