"""Loaded copies in the order of eviction: filing one takes constant time, walking costs per step.

Copies are kept in buckets of equal rank (priority in steps that are worth telling apart), so that
50,000 of them are a few hundred buckets, and using a copy moves it from one dictionary to another
instead of re-sorting. Within a bucket the one filed longest ago comes first.
"""

from collections.abc import Iterator

from sortedcontainers import SortedDict

from modelmesh.cache.copy import NOT_FILED, Copy


class Order:
    """Copies by rank. A copy's rank is written here and nowhere else."""

    def __init__(self) -> None:
        self._buckets: SortedDict[int, dict[Copy, None]] = SortedDict()

    def file(self, copy: Copy, rank: int) -> None:
        """Put the copy at the end of its rank, wherever it was before."""
        if copy.rank == rank:
            bucket = self._buckets[rank]
            del bucket[copy]
        else:
            self.remove(copy)
            bucket = self._buckets.get(rank)
            if bucket is None:
                bucket = self._buckets[rank] = {}
            copy.rank = rank
        bucket[copy] = None

    def remove(self, copy: Copy) -> None:
        """Take the copy out, if it is in."""
        if copy.rank == NOT_FILED:
            return
        bucket = self._buckets[copy.rank]
        del bucket[copy]
        if not bucket:
            del self._buckets[copy.rank]
        copy.rank = NOT_FILED

    def __iter__(self) -> Iterator[Copy]:
        """Copies, first to go first. The order must not change meanwhile."""
        for bucket in self._buckets.values():
            yield from bucket
