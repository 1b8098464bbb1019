"""The tier `inline`: models in the process that calls, by the operator's choice only.

The same core as in a host, with the caller's event loop around it: no process is between a model
and whoever runs it, so there is no journal, no weighing, and no protection. Nothing imports this
module by name; the daemon asks for it as it asks for any adapter.

A host joins what has come while it ran. Here nothing comes while a model runs, since the loop is
busy with it, and grpc.aio then hands over one call a turn: sixteen callers would cost sixteen
predicts. So where several gRPC callers are at work, calls are gathered for as long as pauses of the
loop's shortest timer bring more; whether several are is found out by pausing once in a while, for
which a lone caller pays in one of `_PROBE_EVERY` requests.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from modelmesh.wire.transport import Call
from runtime_adapters import finding
from runtime_adapters.core import MOST_ANSWER_BYTES, HostCore, model_id_of
from runtime_adapters.sizing import NoScale, Scale

Told = Callable[[str, float], None]  # a model's id, and seconds

_PAUSE_S: Final = 0.001
_MOST_PAUSES: Final = 8
_PROBE_EVERY: Final = 256


class InlineHost:
    """A `Handler`. `call_later` and `now` are the loop's `call_later` and `time`.

    `was_read` and `was_written` are told, for each call of a model, what it took to decode it and
    to encode its answer.
    """

    def __init__(
        self,
        named: str,
        options: Mapping[str, str],
        call_later: Callable[..., Any],
        now: Callable[[], float],
        most_answer_bytes: int = MOST_ANSWER_BYTES,
        *,
        was_read: Told = lambda model_id, took_s: None,
        was_written: Told = lambda model_id, took_s: None,
    ) -> None:
        self.scale: Scale = NoScale()
        self.now = now
        self._call_later = call_later
        self._told_read = was_read
        self._told_written = was_written
        self._gathered = 0  # calls since the pause began; 0: no pause is on
        self._several = False  # callers, when last seen
        self._runs = 0
        runtimes, _ = finding.find(named, options)
        self._core = HostCore(runtimes, self, most_answer_bytes)

    def __call__(self, calls: list[Call]) -> None:
        self._core.take(calls)
        if self._gathered:
            self._gathered += len(calls)
        elif _is_grpc(calls[0]) and (self._several or self._runs % _PROBE_EVERY == 0):
            self._pause(len(calls), 1)
        else:
            self._run(len(calls))

    def _pause(self, gathered: int, pauses: int) -> None:
        self._gathered = gathered
        self._call_later(_PAUSE_S, partial(self._look, gathered, pauses))

    def _look(self, seen: int, pauses: int) -> None:
        if self._gathered > seen and pauses < _MOST_PAUSES:
            self._pause(self._gathered, pauses + 1)
            return
        gathered, self._gathered = self._gathered, 0
        self._run(gathered)

    def _run(self, calls: int) -> None:
        self._several = calls > 1
        self._runs += 1
        self._core([])

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._call_later(delay_s, partial(self._come, callback))

    def begin(self, calls: Sequence[Call]) -> None:
        """No journal: a crash here is the caller's crash."""

    def was_read(self, call: Call, took_s: float) -> None:
        self._told_read(model_id_of(call), took_s)

    def was_written(self, call: Call, took_s: float) -> None:
        self._told_written(model_id_of(call), took_s)

    def companions(self) -> Mapping[str, int]:
        return {}

    def private_bytes(self) -> int:
        return 0

    def _come(self, callback: Callable[[], None]) -> None:
        callback()
        self._core([])


def _is_grpc(call: Call) -> bool:
    """HTTP hands over together what came together, and needs no pause."""
    return call.kind.startswith("/")
