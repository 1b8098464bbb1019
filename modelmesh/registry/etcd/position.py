"""How far a watch has come: which revision it wants next, whatever etcd sends. Pure.

The next revision follows the last *event*, never the header of an answer that carries events:
etcd puts the store's newest revision there, also into the first of many parts of a catching-up
watch, and whoever resumes behind it has lost the rest. Only a progress notification says that
nothing was missed up to its header, and only one that etcd sends for this watch: an answer to our
own question (`watch_id` -1) may overtake events in servers before 3.4.25 and 3.5.8.
"""

from collections.abc import Sequence
from typing import Any, Final

from modelmesh.registry.store import Compacted

_ANSWER_TO_ALL: Final = -1


class Canceled(Exception):
    """etcd has ended the watch, and says why."""


class Position:
    def __init__(self, after_revision: int) -> None:
        self.next_revision = after_revision + 1
        self._part: list[Any] = []

    def reopened(self) -> None:
        """A new stream begins at `next_revision`; half of an answer is none."""
        self._part = []

    def take(self, answer: Any) -> Sequence[Any]:
        """etcd's events that are complete with this answer; raises Compacted, Canceled."""
        if answer.compact_revision:
            raise Compacted
        if answer.canceled:
            raise Canceled(answer.cancel_reason)
        if answer.events:
            self._part.extend(answer.events)
            if answer.fragment:
                return ()
            events, self._part = self._part, []
            fresh = [event for event in events if event.kv.mod_revision >= self.next_revision]
            self.next_revision = max(self.next_revision, events[-1].kv.mod_revision + 1)
            return fresh
        if not answer.created and answer.watch_id != _ANSWER_TO_ALL:
            self.next_revision = max(self.next_revision, answer.header.revision + 1)
        return ()
