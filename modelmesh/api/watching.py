"""Watches over models: a stream of which have changed, each with its row as it is when it is sent.

What changes is noted by its name and sent in the next turn, so that a burst of changes of one model
is one event and a watcher costs what it reads. A watcher that reads too slowly to keep what waits
for it within the bound is told so and left: it lists again, and begins anew.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Final

from modelmesh.api.admin import row_of
from modelmesh.api.asking import parsed
from modelmesh.api.streams import Streams
from modelmesh.errors import Code, Failure, Reason, invalid
from modelmesh.pb import admin_pb2 as pb
from modelmesh.registry.models import ModelChange
from modelmesh.serving.changes import Listener
from modelmesh.serving.status import ModelView
from modelmesh.wire.transport import Body, Call

MOST_WATCHES: Final = 100
MOST_WAITING: Final = 10_000  # changes of one watch, by model: its id each
_CHUNK: Final = 250  # rows that are made in one turn of the loop

_TOO_SLOW: Final = Failure(
    Code.RESOURCE_EXHAUSTED,
    "the watch was read too slowly: list the models again and watch anew",
    reason=Reason.OVERLOADED,
    retry_after_s=0.0,
)
_CREATED, _CHANGED, _GONE = pb.ModelEvent.CREATED, pb.ModelEvent.CHANGED, pb.ModelEvent.GONE


class _Watch:
    """What one watcher asked for, and what waits for it: the kind of event by model."""

    __slots__ = ("begun", "prefix", "scheduled", "waiting")

    def __init__(self) -> None:
        self.begun = False
        self.prefix = ""
        self.scheduled = False
        self.waiting: dict[str, pb.ModelEvent.Kind] = {}

    def note(self, change: ModelChange) -> None:
        """What a watcher has not heard of is new to it, however often it has changed since."""
        if not change.model_id.startswith(self.prefix):
            return
        kind = _CHANGED
        if not change.exists:
            kind = _GONE
        elif change.created or self.waiting.get(change.model_id) == _CREATED:
            kind = _CREATED
        self.waiting[change.model_id] = kind


class Watching:
    """The streams of WatchModels."""

    def __init__(
        self,
        subscribe: Callable[[Listener], object],
        view: Callable[[str], ModelView | None],
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self._view = view
        self._most_waiting = most_waiting
        self._streams: Streams[_Watch] = Streams(MOST_WATCHES)
        subscribe(self._changed)

    def begin(self, call: Call) -> None:
        """One request, then events until the caller leaves."""
        watch = _Watch()

        def end() -> None:
            if not watch.begun:
                raise invalid("the stream ended without a request")

        self._streams.begin(call, watch, partial(self._asked, call, watch), end)

    def drain(self) -> None:
        """The daemon is leaving."""
        self._streams.drain()

    def _asked(self, call: Call, watch: _Watch, body: Body) -> None:
        if watch.begun:
            raise invalid("WatchModels takes one request")
        watch.prefix = parsed(pb.WatchModelsRequest, body).prefix
        watch.begun = True
        call.reply.send(pb.ModelEvent(kind=pb.ModelEvent.WATCHING).SerializeToString())

    def _changed(self, changes: list[ModelChange]) -> None:
        for call, watch in list(self._streams.open.items()):
            if not watch.begun:
                continue
            for change in changes:
                watch.note(change)
            if len(watch.waiting) > self._most_waiting:
                self._streams.finish(call, _TOO_SLOW)
            elif watch.waiting and not watch.scheduled:
                watch.scheduled = True
                asyncio.get_running_loop().call_soon(self._send, call, watch)

    def _send(self, call: Call, watch: _Watch) -> None:
        watch.scheduled = False
        if call not in self._streams.open:
            return
        for model_id in list(islice(watch.waiting, _CHUNK)):
            if call.reply.slow:
                break
            event = self._event(model_id, watch.waiting.pop(model_id))
            call.reply.send(event.SerializeToString())
        if watch.waiting:
            watch.scheduled = True
            call.reply.when_writable(partial(self._send, call, watch))

    def _event(self, model_id: str, kind: pb.ModelEvent.Kind) -> pb.ModelEvent:
        view = self._view(model_id) if kind != _GONE else None
        if view is None:
            return pb.ModelEvent(kind=_GONE, model=pb.Model(model_id=model_id))
        return pb.ModelEvent(kind=kind, model=row_of(view))
