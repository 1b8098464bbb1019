"""etcd's store for tests that are about something else: etcd may stand still for seconds, and a
change is not given up for that, as a daemon must not know how it ended."""

from typing import Any, Final

from modelmesh.registry.etcd.client import LONG_CALL_S, TRY_S, EtcdClient
from modelmesh.registry.etcd.config import EtcdConfig
from modelmesh.registry.etcd.links import Reread
from modelmesh.registry.etcd.store import EtcdStore
from modelmesh.registry.etcd.watch import SILENCE_S

_PATIENCE_S: Final = LONG_CALL_S  # there is no longer try


class PatientClient(EtcdClient):
    async def call(self, path: str, request: Any, *, repeatable: bool, try_s: float = TRY_S) -> Any:
        patience_s = try_s if repeatable else _PATIENCE_S
        return await super().call(path, request, repeatable=repeatable, try_s=patience_s)


class PatientStore(EtcdStore):
    def __init__(
        self, config: EtcdConfig, *, silence_s: float = SILENCE_S, reread: Reread | None = None
    ) -> None:
        super().__init__(config, silence_s=silence_s, reread=reread)
        self._client = PatientClient(config, reread)
