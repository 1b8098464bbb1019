"""A store that lives and dies with its process: tests, simulations, and `KV_STORE=memory`.

Every commit is visible before it returns. Must never hand a commit over to anything that waits.
"""

from collections.abc import Callable

from modelmesh.registry.keyspace import HISTORY_EVENTS, Draft, Keyspace
from modelmesh.registry.local import LocalStore, T


class MemoryStore(LocalStore):
    """Made on a running loop."""

    def __init__(self, history_events: int = HISTORY_EVENTS) -> None:
        super().__init__(Keyspace(history_events=history_events))

    async def _change(self, work: Callable[[Draft], T], size_bytes: int) -> T:
        self._check_open()
        draft = Draft(self.space)
        came_of_it = work(draft)
        if draft.changed:
            self._publish(draft)
        return came_of_it
