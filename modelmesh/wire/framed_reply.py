"""The reply to a call that came over a `framed` link, the same at both kinds of ends."""

from collections.abc import Callable
from typing import Protocol

from modelmesh.errors import Failure
from modelmesh.wire import frames
from modelmesh.wire.replies import OpenReply, too_large
from modelmesh.wire.transport import NO_METADATA, Body, Metadata


class LinkEnd(Protocol):
    """What a reply needs of the end of the link that it goes out by."""

    most_bytes: int

    @property
    def slow(self) -> bool:
        """Too much waits unsent."""

    def put(self, frame: tuple[Body, ...]) -> None:
        """Queue a frame."""

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Call back once when not slow."""

    def forget(self, call_id: int) -> None:
        """The call has ended."""


class FrameReply(OpenReply):
    """Turns an answer into frames. A body above the limit becomes RESOURCE_EXHAUSTED.

    Whoever answers may set `read_s` and `written_s` before: the answer's times.
    """

    __slots__ = ("_call_id", "_link", "read_s", "written_s")

    def __init__(self, link: LinkEnd, call_id: int) -> None:
        super().__init__()
        self._link = link
        self._call_id = call_id
        self.read_s = self.written_s = frames.NOT_TOLD

    @property
    def slow(self) -> bool:
        return not self.gone and self._link.slow

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        if self._fits(body) and not self.gone:
            self.end()
            times = self.read_s, self.written_s
            self._link.put(frames.answer(self._call_id, body, metadata, times))

    def send(self, message: Body) -> None:
        if self._fits(message) and not self.gone:
            self._link.put(frames.message(self._call_id, message))

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        if not self.gone:
            self.end()
            times = self.read_s, self.written_s
            self._link.put(frames.finish(self._call_id, failure, metadata, times))

    def when_writable(self, callback: Callable[[], None]) -> None:
        self._link.when_writable(callback)

    def end(self) -> None:
        super().end()
        self._link.forget(self._call_id)

    def leave(self) -> None:
        super().leave()
        self._link.forget(self._call_id)

    def _fits(self, body: Body) -> bool:
        if len(body) <= self._link.most_bytes:
            return True
        self.finish(too_large(len(body), self._link.most_bytes))
        return False
