"""The hosts of one daemon: shared ones, process hosts, and one spare that is born ahead of need.

A fork of a process that has scikit-learn in it takes tens of milliseconds, so it is done before it
is waited for: the spare becomes whatever is needed next, and another is born in the background.
The pool knows processes, not models: which models are where, and who is to blame, is for `hosts`.
"""

import asyncio
import itertools
from collections.abc import Callable
from typing import Final

import structlog

from modelmesh.errors import MeshError
from modelmesh.observe.tasks import spawn as spawn_task
from modelmesh.observe.tasks import stop
from modelmesh.policy.tiering import Tier
from modelmesh.runtime import host as hosts
from modelmesh.runtime.host import Host, Remains, Took
from modelmesh.runtime.zygote import RuntimeFacts, ZygoteClient, no_host

log = structlog.get_logger("runtime")

RETRY_S: Final = 0.5  # between attempts to replace a host where none can be had


class HostPool:
    """Births and lives of hosts.

    `on_end` is called once for each host that dies, `took` with what hosts say of the calls that
    they have decoded.
    """

    def __init__(
        self,
        zygote: ZygoteClient,
        shared_hosts: int,
        data_limit_bytes: int,
        on_end: Callable[[Host, Remains], None],
        took: Took,
    ) -> None:
        self._zygote = zygote
        self._shared_wanted = shared_hosts
        self._data_limit_bytes = data_limit_bytes
        self._told_end = on_end
        self._told_times = took
        self._numbers = itertools.count(1)
        self.living: dict[int, Host] = {}
        self._spares: list[Host] = []
        self._shared: list[Host] = []
        self._refilling: asyncio.Task[None] | None = None
        self._step: asyncio.Future[MeshError | None] | None = None  # the refill's next, awaited
        self._changed = asyncio.Event()
        self._closed = False

    async def start(self) -> RuntimeFacts:
        """The zygote, the shared hosts and the spare."""
        facts = await self._zygote.start()
        for _ in range(self._shared_wanted):
            self._shared.append(await self._born())
        self._refill()
        return facts

    @property
    def shared(self) -> list[Host]:
        """The shared hosts that take models now."""
        return [host for host in self._shared if host.usable and not host.leaving]

    async def shared_host(self) -> Host:
        """The shared host with the least work and bytes; UNAVAILABLE where none can be had.

        All that find none wait for the same birth: each of them with its own would leave a host
        behind for nobody.
        """
        while not self.shared:
            await self._filled()
        return min(self.shared, key=_load_of)

    async def process_host(self, data_limit_bytes: int = 0) -> Host:
        """A host for one model, which may allocate this much (0: what any may)."""
        host = await self._take()
        host.tier = Tier.PROCESS
        host.shut()  # its model is alone already: it need not wait to be set aside
        if data_limit_bytes:
            host.limit_data(data_limit_bytes)
        return host

    async def another_shared(self) -> Host:
        """One shared host more, which replaces one that is leaving."""
        host = await self._take()
        self._shared.append(host)
        return host

    def set_aside(self, host: Host) -> None:
        """The host is no shared one any more; another takes its place."""
        host.tier = Tier.PROCESS
        self._shared.remove(host)
        self._refill()

    async def close(self, grace_s: float) -> None:
        """End every process: first by hanging up, then by force."""
        self._closed = True
        await stop(self._refilling)
        for host in list(self.living.values()):
            await host.retire()
        try:
            async with asyncio.timeout(grace_s):
                while self.living:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            log.warning("hosts are ended by force", hosts=len(self.living))
            for host in self.living.values():
                host.kill()
        await self._zygote.close()

    async def _take(self) -> Host:
        """The spare, or a new host if it is not there yet."""
        while self._spares:
            host = self._spares.pop()
            if host.usable:
                self._refill()
                return host
        return await self._born()

    async def _take_shared(self) -> None:
        host = await self._take()
        if len(self.shared) < self._shared_wanted:
            self._shared.append(host)
        else:
            self._spares.append(host)

    async def _born(self) -> Host:
        host = await hosts.spawn(
            self._zygote,
            next(self._numbers),
            self._data_limit_bytes,
            self._ended,
            self._told_times,
        )
        self.living[host.number] = host
        return host

    def _ended(self, host: Host, remains: Remains) -> None:
        del self.living[host.number]
        for group in (self._shared, self._spares):
            if host in group:
                group.remove(host)
        self._changed.set()
        self._refill()
        self._told_end(host, remains)

    def _refill(self) -> None:
        """See to it that the shared hosts and the spare are there again soon."""
        if not self._closed and (self._refilling is None or self._refilling.done()):
            self._refilling = spawn_task(self._fill(), "refill hosts")

    async def _fill(self) -> None:
        while len(self.shared) < self._shared_wanted or not self._spares:
            try:
                if len(self.shared) < self._shared_wanted:
                    await self._take_shared()
                else:
                    self._spares.append(await self._born())
                self._tell(None)
            except MeshError as error:
                log.error("no host", why=error.failure.message)
                self._tell(error)
                await asyncio.sleep(RETRY_S)

    def _tell(self, why: MeshError | None) -> None:
        """Those that wait for the refill: it has brought a host, or why it has not."""
        step, self._step = self._step, None
        if step is not None:
            step.set_result(why)

    async def _filled(self) -> None:
        """Wait for the next step of the refill (the zygote bounds it), or raise."""
        self._refill()
        refilling = self._refilling
        if self._closed or refilling is None:
            raise no_host("the runtime is closed")
        if self._step is None:
            self._step = asyncio.get_running_loop().create_future()
        step = self._step
        await asyncio.wait((step, refilling), return_when=asyncio.FIRST_COMPLETED)
        why = step.result() if step.done() else None
        if why is not None:
            raise MeshError(why.failure)
        if refilling.done() and (refilling.cancelled() or refilling.exception()):
            raise no_host("hosts are not replaced any more")


def _load_of(host: Host) -> tuple[int, int]:
    """How busy a host is: calls first, then bytes."""
    return host.link.unanswered_count, sum(host.models.values())
