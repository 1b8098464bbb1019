"""What hosts really weigh, looked up every few seconds, and what no model explains.

A model that leaks makes its host grow: in a process host the model grows, in a shared host nobody
can tell whose it is, so it is charged as overhead, and a host with too much of it is replaced.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import structlog

from modelmesh.observe.tasks import every, stop
from modelmesh.policy.tiering import Tier
from modelmesh.runtime import memory
from modelmesh.runtime.door import RuntimeListener
from modelmesh.runtime.host import Host
from modelmesh.runtime.pool import HostPool
from modelmesh.runtime.residents import Resident

log = structlog.get_logger("runtime")

MIB: Final = 1 << 20
WEIGH_S: Final = 5.0
LOOKUP_S: Final = 2.0  # a lookup takes milliseconds, but may wait for a thread or for the kernel
TOLD_BYTES: Final = MIB  # smaller changes are not worth telling
GROWN: Final = 1.1
WARM_UP_BYTES: Final = 16 * MIB  # what a host copies of the zygote's pages as it first works
WORN_BYTES: Final = 64 * MIB
WORN_PART: Final = 0.25


def is_worn(overhead_bytes: int, models_bytes: int) -> bool:
    """Whether a shared host has so much that no model explains that it is replaced."""
    return overhead_bytes > max(WORN_BYTES, WORN_PART * models_bytes)


async def private_bytes(pid: int) -> int:
    """Memory that only this process has; 0 where that cannot be told in time."""
    try:
        async with asyncio.timeout(LOOKUP_S):
            return await asyncio.to_thread(memory.private_bytes, pid)
    except TimeoutError:
        log.warning("a host cannot be weighed", pid=pid)
        return 0


async def proportional_bytes(pids: Sequence[int]) -> int:
    """Memory of all of these, what they share counted once; 0 where that cannot be told in time."""
    try:
        async with asyncio.timeout(LOOKUP_S):
            return await asyncio.to_thread(lambda: sum(map(memory.proportional_bytes, pids)))
    except TimeoutError:
        log.warning("the hosts cannot be weighed", hosts=len(pids))
        return 0


class Weights:
    """The loop. `renew` replaces a worn host."""

    def __init__(
        self,
        pool: HostPool,
        residents: Mapping[str, Resident],
        renew: Callable[[Host], None],
        weigh_s: float = WEIGH_S,
    ) -> None:
        self._pool = pool
        self._residents = residents
        self._renew = renew
        self._weigh_s = weigh_s
        self._base_bytes = 0
        self._seen: dict[int, int] = {}  # calls by host when it was last weighed
        self._overhead: dict[int, int] = {}
        self._told_bytes = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def overhead_bytes(self) -> int:
        """In all hosts."""
        return sum(self._overhead.values())

    async def start(self, listener: RuntimeListener) -> None:
        """Weigh an empty host, then begin."""
        self._listener = listener
        for host in self._pool.living.values():
            self._base_bytes = await private_bytes(host.pid)
            break
        self._task = every(self._weigh_s, self.weigh_all, "weigh hosts")

    async def close(self) -> None:
        """Weigh no more."""
        await stop(self._task)

    async def weigh_all(self) -> None:
        """Every host that has had calls since it was last weighed idle."""
        living = self._pool.living
        for gone in [number for number in self._overhead if number not in living]:
            del self._overhead[gone]
            self._seen.pop(gone, None)
        for host in list(living.values()):
            sent = host.link.sent_count
            if host.models and self._seen.get(host.number) != sent:
                idle = not host.link.unanswered_count
                private = await private_bytes(host.pid)
                if private and not host.dead:
                    if idle:  # what ran meanwhile may have grown after it was weighed
                        self._seen[host.number] = sent
                    self._take(host, private)
        if abs(self.overhead_bytes - self._told_bytes) >= TOLD_BYTES:
            self._told_bytes = self.overhead_bytes
            self._listener.overhead_changed(self._told_bytes)

    def _take(self, host: Host, private: int) -> None:
        if host.tier is not Tier.SHARED:
            self._grew(host, private)
            return
        models_bytes = sum(host.models.values())
        overhead = max(0, private - self._base_bytes - WARM_UP_BYTES - models_bytes)
        self._overhead[host.number] = overhead
        if is_worn(overhead, models_bytes) and not host.leaving:
            log.warning("host is worn", host=host.number, overhead_bytes=overhead)
            self._renew(host)

    def _grew(self, host: Host, private: int) -> None:
        resident = self._residents.get(host.sole)
        if resident is None or resident.home is not host:
            return
        self._overhead.pop(host.number, None)
        if private > GROWN * resident.loaded.size_bytes:
            host.models[host.sole] = private
            resident.loaded = replace(resident.loaded, size_bytes=private)
            self._listener.model_resized(host.sole, private)
