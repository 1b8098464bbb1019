"""One call to several models: each is asked as if alone, and their answers are one.

ModelMesh's rules: so many at a time, answers joined as bytes in the order of the headers (which
is how protobuf merges: repeated fields append, of others the last one counts), models that do not
exist left out unless all are required. Any other failure is the call's, and ends what is under way.

What the models' servers say in headers is dropped: there is no order in which it could be merged.
Must never ask a model twice, and never start one after the call has ended.
"""

from collections.abc import Callable

from modelmesh.errors import Code, Failure, not_found
from modelmesh.wire.replies import OpenReply
from modelmesh.wire.transport import NO_METADATA, Body, Call, Metadata

_NONE_FOUND = not_found("none of the requested models were found").failure


class FanOut:
    """A call on its way to several models; `start` once."""

    def __init__(
        self,
        ask: Callable[[str, Call], None],
        model_ids: tuple[str, ...],
        call: Call,
        parallelism: int,
        *,
        all_required: bool,
    ) -> None:
        """`ask` has one model answer one call, and never raises."""
        self._ask_model = ask
        self._model_ids = model_ids
        self._call = call
        self._parallelism = max(parallelism, 1)
        self._all_required = all_required
        self._answers: list[Body | None] = [None] * len(model_ids)
        self._running: dict[int, _Part] = {}
        self._asked = 0
        self._asking = False
        self._ended = False

    def start(self) -> None:
        self._call.reply.when_gone(self._end)
        self._ask_more()

    def part_ended(self, index: int, answer: Body | None, failure: Failure | None) -> None:
        """One model has answered (from `_Part`)."""
        self._running.pop(index, None)
        if self._ended:
            return
        if failure is not None and (self._all_required or not _is_unknown(failure)):
            self._end()
            self._call.reply.finish(failure)
            return
        self._answers[index] = answer
        self._ask_more()

    def _ask_more(self) -> None:
        """Keep so many under way. Answers that come at once come back here: they are counted by
        the loop that is running, so that a long list is no deep recursion."""
        if self._asking:
            return
        self._asking = True
        while not self._ended and self._asked < len(self._model_ids):
            if len(self._running) >= self._parallelism:
                break
            self._ask(self._asked)
        self._asking = False
        if not self._ended and not self._running and self._asked == len(self._model_ids):
            self._answer()

    def _ask(self, index: int) -> None:
        call = self._call
        self._asked += 1
        part = self._running[index] = _Part(self, index)
        self._ask_model(
            self._model_ids[index],
            Call(call.kind, call.body, part, call.metadata, call.deadline),
        )

    def _answer(self) -> None:
        self._ended = True
        found = [answer for answer in self._answers if answer is not None]
        if found:
            self._call.reply.answer(b"".join(found))
        else:
            self._call.reply.finish(_NONE_FOUND)

    def _end(self) -> None:
        """Nobody waits for the others: who works on them is told."""
        self._ended = True
        running, self._running = self._running, {}
        for part in running.values():
            part.leave()


class _Part(OpenReply):
    """Where the answer of one model goes."""

    __slots__ = ("_fan_out", "_index", "_messages")

    slow = False

    def __init__(self, fan_out: FanOut, index: int) -> None:
        super().__init__()
        self._fan_out = fan_out
        self._index = index
        self._messages: list[Body] = []

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        if not self.gone:
            self.end()
            self._fan_out.part_ended(self._index, body, None)

    def send(self, message: Body) -> None:
        if not self.gone:
            self._messages.append(message)

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        if not self.gone:
            self.end()
            answer = b"".join(self._messages) if failure is None else None
            self._fan_out.part_ended(self._index, answer, failure)

    def when_writable(self, callback: Callable[[], None]) -> None:
        callback()


def _is_unknown(failure: Failure) -> bool:
    """Whether there is no such model; what a model says of something else is its own."""
    return failure.code is Code.NOT_FOUND and not failure.executed
