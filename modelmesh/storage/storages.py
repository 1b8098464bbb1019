"""All storages as one: each path goes to the storage of its scheme.

What serving holds is this; a further scheme is a further storage in the list, and is named at once
in the message that refuses an unknown one. Must never look at a path beyond its scheme.
"""

from collections.abc import Sequence

from modelmesh.storage.door import LocalModel, Storage
from modelmesh.storage.paths import scheme_of, unsupported


class Storages:
    """A `Storage` over several. Paths without a scheme belong to the one that has `file`."""

    def __init__(self, storages: Sequence[Storage]) -> None:
        self._by_scheme = {scheme: each for each in storages for scheme in each.schemes}
        self._fetched: dict[str, Storage] = {}

    @property
    def schemes(self) -> tuple[str, ...]:
        return tuple(self._by_scheme)

    def check(self, path: str) -> None:
        self._storage(path).check(path)

    async def fetch(self, model_id: str, path: str, key: str) -> LocalModel:
        storage = self._storage(path)
        self._fetched[model_id] = storage  # before the fetch: half of it may have to be released
        return await storage.fetch(model_id, path, key)

    async def release(self, model_id: str) -> None:
        storage = self._fetched.pop(model_id, None)
        if storage is not None:
            await storage.release(model_id)

    def _storage(self, path: str) -> Storage:
        storage = self._by_scheme.get(scheme_of(path))
        if storage is None:
            raise unsupported(path, self.schemes)
        return storage
