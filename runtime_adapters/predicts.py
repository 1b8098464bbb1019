"""The requests of a host: which run together, in which order, and who answers for what fails.

One model's waiting requests are decoded together, joined where they agree, and run a batch at a
time; each batch is one journal entry. A batch that raises is run again one by one, so that one
caller's bad input is never another's failure, and a crash is blamed on the request that caused it
as soon as it repeats.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from modelmesh.wire import journal, kinds
from modelmesh.wire.transport import Call, failed
from runtime_adapters import joining, protocols, tensors, verdicts
from runtime_adapters.base import Later, Model, named
from runtime_adapters.protocols import Ask, Encoded
from runtime_adapters.surroundings import Held, Surroundings, still_wanted

Work = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class _Batch:
    held: Held
    asks: Sequence[Ask]


class Predicts:
    """Waiting requests, the model longest waited for first."""

    def __init__(
        self, models: Mapping[str, Held], surroundings: Surroundings, most_answer_bytes: int
    ) -> None:
        self._models = models
        self._surroundings = surroundings
        self._most_answer_bytes = most_answer_bytes
        self._hits: dict[str, list[Call]] = {}
        self._batches: deque[_Batch] = deque()
        self._due: deque[Work] = deque()

    def add(self, model_id: str, call: Call) -> None:
        """One more request."""
        self._hits.setdefault(model_id, []).append(call)

    @property
    def waiting(self) -> bool:
        """Whether there is something to run now."""
        return bool(self._due or self._batches or self._hits)

    def step(self) -> None:
        """Run one entry."""
        if self._due:
            self._due.popleft()()
        elif self._batches:
            self._run(self._batches.popleft())
        elif self._hits:
            self._open()

    def _open(self) -> None:
        """Decode what waits for one model, and run the first batch of it."""
        model_id = next(iter(self._hits))
        calls = self._hits.pop(model_id)
        if len(calls) > journal.MOST_IDS:
            self._hits[model_id] = calls[journal.MOST_IDS :]
            calls = calls[: journal.MOST_IDS]
        now = self._surroundings.now()
        calls = [call for call in calls if still_wanted(call, now)]
        held = self._models.get(model_id)
        if held is None:
            failed(calls, verdicts.not_held(model_id))
        elif calls:
            self._surroundings.begin(calls)
            asks = [ask for call in calls if (ask := self._read(call, model_id))]
            self._batches.extend(_Batch(held, batch) for batch in _joined(held, asks))
            if self._batches:
                self._run(self._batches.popleft())

    def _read(self, call: Call, model_id: str) -> Ask | None:
        started = self._surroundings.now()
        try:
            ask = protocols.read(call, model_id)
        except Exception as error:  # MeshError, BadInput; else a hole in a decoder, answered so
            call.reply.finish(verdicts.of_predict(error))
            return None
        self._surroundings.was_read(call, self._surroundings.now() - started)
        return ask

    def _run(self, batch: _Batch) -> None:
        now = self._surroundings.now()
        asks = [ask for ask in batch.asks if still_wanted(ask.call, now)]
        if asks:
            self._surroundings.begin([ask.call for ask in asks])
            self._attempt(_Batch(batch.held, asks), partial(_ask, batch.held.model, asks))

    def _attempt(self, batch: _Batch, work: Work) -> None:
        """Model code runs here, and nothing that it raises gets further."""
        try:
            answers = work()
            if isinstance(answers, Later):
                resume = partial(self._resume, batch, answers.finish)
                self._surroundings.later(answers.wait_s, partial(self._due.append, resume))
                return
            if len(answers) != len(batch.asks):
                raise joining.Unsplittable(f"{len(answers)} answers to {len(batch.asks)} requests")
            replies = list(zip(batch.asks, answers, strict=True))
        except BaseException as raised:  # a SystemExit in a model must not end its host
            self._raised(batch, raised)
        else:
            for ask, answer in replies:
                self._answer(ask, answer)

    def _resume(self, batch: _Batch, finish: Work) -> None:
        if not all(ask.call.reply.gone for ask in batch.asks):
            self._surroundings.begin([ask.call for ask in batch.asks])
            self._attempt(batch, finish)

    def _raised(self, batch: _Batch, raised: BaseException) -> None:
        if isinstance(raised, joining.Unsplittable):
            batch.held.joins = False  # declared otherwise, but each batch would run twice
        if len(batch.asks) == 1:
            batch.asks[0].call.reply.finish(verdicts.of_predict(raised))
        else:
            self._batches.extendleft(_Batch(batch.held, [ask]) for ask in reversed(batch.asks))

    def _answer(self, ask: Ask, answer: Any) -> None:
        started = self._surroundings.now()
        try:
            body, metadata = _encode(ask, answer)
        except BaseException as raised:  # an answer's methods are model code too
            ask.call.reply.finish(verdicts.of_predict(raised))
            return
        self._surroundings.was_written(ask.call, self._surroundings.now() - started)
        if len(body) > self._most_answer_bytes:
            message = f"the answer of {len(body)} bytes is larger than {self._most_answer_bytes}"
            ask.call.reply.finish(verdicts.model_error(message))
        else:
            ask.call.reply.answer(body, metadata)


def _joined(held: Held, asks: Sequence[Ask]) -> list[Sequence[Ask]]:
    """The requests that run together."""
    if len(asks) == 1 or not held.joins:
        return [[ask] for ask in asks]
    batches = joining.batches([_shape(ask) for ask in asks])
    return [[asks[index] for index in indexes] for indexes in batches]


def _shape(ask: Ask) -> joining.Shape:
    if ask.call.kind == kinds.V1_EXPLAIN:
        return joining.ALONE
    inputs = ask.inputs
    return joining.shape_of(inputs.arrays, inputs.parameters, inputs.requested)


def _ask(model: Model, asks: Sequence[Ask]) -> Any:
    """One answer for each; or all of them later."""
    if len(asks) > 1:
        return model.predict_batch([ask.inputs for ask in asks])
    run = model.explain if asks[0].call.kind == kinds.V1_EXPLAIN else model.predict
    answer = run(asks[0].inputs)
    return _listed(answer) if isinstance(answer, Later) else [answer]


def _listed(later: Later[Any]) -> Later[list[Any]]:
    return Later(later.wait_s, lambda: [later.finish()])


def _encode(ask: Ask, answer: Any) -> Encoded:
    if ask.call.kind == kinds.V1_EXPLAIN:
        return protocols.write_explanation(answer), ()
    outputs = named(answer)
    return ask.encode({name: tensors.settle(name, array) for name, array in outputs.items()})
