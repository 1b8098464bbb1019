"""The door over a real etcd, for the contract suite: real time, and a root for each store."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

from modelmesh.registry.etcd.config import EtcdConfig
from modelmesh.registry.store import Store
from tests.registry.doors import DOORS, HISTORY_EVENTS, AnyDoor
from tests.registry.etcd_server import PROGRAMS, EtcdServer, shared
from tests.registry.patient import PatientStore

_roots = itertools.count()


class TidyStore(PatientStore):
    """Takes its leases along, so that none ends while the next test counts revisions."""

    def __init__(self, config: EtcdConfig) -> None:
        super().__init__(config)
        self._granted: list[int] = []

    async def grant(self, ttl_s: float) -> int:
        lease = await super().grant(ttl_s)
        self._granted.append(lease)
        return lease

    async def close(self) -> None:
        while self._granted:
            await self.revoke(self._granted.pop())
        await super().close()


class EtcdDoor(AnyDoor[PatientStore]):
    ttl_s = 3.0  # etcd's own least is 2 s

    def __init__(self, folder: Path, version: str) -> None:
        super().__init__(folder)
        self._version = version
        self._own: EtcdServer | None = None

    async def open(self) -> PatientStore:
        if self.history_events != HISTORY_EVENTS:  # it will be compacted: not for others
            self._own = EtcdServer(PROGRAMS[self._version], self.folder)
            self._own.start()
        server = self._own or shared(self._version, "contract")
        return TidyStore(server.config(f"/{next(_roots)}/"))

    async def elapse(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # etcd's clock is not ours to move

    async def forget(self, store: Store) -> None:
        assert self._own is not None
        self._own.compact((await store.page("")).revision - self.history_events)

    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    def run(self, test: Any) -> None:
        try:
            super().run(test)
        finally:
            if self._own is not None:
                self._own.stop()


class _Of:
    """Makes doors of one version."""

    def __init__(self, version: str) -> None:
        self._version = version

    def __call__(self, folder: Path) -> EtcdDoor:
        return EtcdDoor(folder, self._version)


STORES: dict[str, Any] = {**DOORS, **{version: _Of(version) for version in PROGRAMS}}
