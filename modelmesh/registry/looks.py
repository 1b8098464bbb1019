"""Reads of keys that the tables lack, so that what somebody just wrote elsewhere is found here.

All who look for one key at one time share a read. A miss is remembered for a second at most, so
that callers of a model that does not exist cost the store one read a second, and it is forgotten
when the key appears. While the store does not answer, the table's word stands and nobody waits.

Must never answer from memory that a key exists: that is the table's business.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from cachetools import TTLCache

from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.observe.tasks import spawn
from modelmesh.registry.store import Entry, Event

MISS_S: Final = 1.0

# Keys remembered as missing (a few MB at the longest ids), and different keys read at one time:
# beyond it a caller is refused, since "not found" would be a guess.
MISSES: Final = 10_000
READS: Final = 1024


class Looks:
    """Made on a running loop. `read` asks the store and lets the table see the answer."""

    def __init__(
        self,
        known: Callable[[str], Entry | None],
        read: Callable[[str], Awaitable[Entry | None]],
        answers: Callable[[], bool],
    ) -> None:
        self.reads = 0
        self._known = known
        self._read = read
        self._answers = answers
        self._misses: TTLCache[str, bool] = TTLCache(
            MISSES, MISS_S, timer=asyncio.get_running_loop().time
        )
        self._running: dict[str, asyncio.Task[None]] = {}

    async def look(self, key: str) -> Entry | None:
        """The entry, from the table or else from the store. RESOURCE_EXHAUSTED: too many look."""
        known = self._known(key)
        if known is not None or key in self._misses or not self._answers():
            return known
        task = self._running.get(key)
        if task is None:
            task = self._begin(key)
        await asyncio.wait([task])  # bounded by the store's patience; the read is not ours alone
        return self._known(key)

    def forget(self, events: list[Event]) -> None:
        """Something happened to these keys (a table's listener)."""
        if not self._misses:
            return
        for event in events:
            self._misses.pop(event.key, None)

    def clear(self) -> None:
        self._misses.clear()

    def _begin(self, key: str) -> asyncio.Task[None]:
        if len(self._running) >= READS:
            message = "too many unknown models are being looked up"
            raise MeshError(
                Failure(Code.RESOURCE_EXHAUSTED, message, fault=Fault.STORE, retry_after_s=1.0)
            )
        task = self._running[key] = spawn(self._share(key), "look into the registry")
        task.add_done_callback(lambda _: self._running.pop(key, None))
        return task

    async def _share(self, key: str) -> None:
        self.reads += 1
        try:
            found = await self._read(key)
        except MeshError:
            return  # then the table's word stands
        if found is None and self._known(key) is None:
            self._misses[key] = True
