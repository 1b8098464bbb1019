"""The tier `inline`: models in the process that calls, by the operator's choice only.

The same core as in a host, with the caller's event loop around it: no process is between a model
and whoever runs it, so there is no journal, no weighing, and no protection. Nothing imports this
module by name; the daemon asks for it as it asks for any adapter.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from modelmesh.wire.transport import Call
from runtime_adapters import finding
from runtime_adapters.core import MOST_ANSWER_BYTES, HostCore
from runtime_adapters.sizing import NoScale, Scale


class InlineHost:
    """A `Handler`. `call_later` and `now` are the loop's `call_later` and `time`."""

    def __init__(
        self,
        named: str,
        options: Mapping[str, str],
        call_later: Callable[..., Any],
        now: Callable[[], float],
        most_answer_bytes: int = MOST_ANSWER_BYTES,
    ) -> None:
        self.scale: Scale = NoScale()
        self.now = now
        self._call_later = call_later
        runtimes, _ = finding.find(named, options)
        self._core = HostCore(runtimes, self, most_answer_bytes)

    def __call__(self, calls: list[Call]) -> None:
        self._core(calls)

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._call_later(delay_s, partial(self._come, callback))

    def begin(self, calls: Sequence[Call]) -> None:
        """No journal: a crash here is the caller's crash."""

    def companions(self) -> Mapping[str, int]:
        return {}

    def private_bytes(self) -> int:
        return 0

    def _come(self, callback: Callable[[], None]) -> None:
        callback()
        self._core([])
