"""Callers of a fleet: they ask, check every answer, and count what became of each request.

They behave as gRPC clients do: a connection that is refused or told to go away is made anew, and
the request goes to the next address. An answer, good or bad, ends its request: what a daemon
refuses is a failure of the fleet. A request lost with a connection that broke under it is sent
again, as a caller of an idempotent request does, and counted: tests say where that may be.
"""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from types import TracebackType
from typing import Any, Final, Self

import grpc

from modelmesh.pb import inference_pb2
from modelmesh.wire.kinds import MODEL_INFER
from tests.app.client import request_of

DEADLINE_S: Final = 60.0
_JOIN_S: Final = 120.0
# How long an address that refused is not asked, and how long all may be silent together.
_BACKOFF_S: Final = 0.05
_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.enable_http_proxy", 0),
)


@dataclass
class Report:
    """What became of the requests so far."""

    right: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)  # never begun, by address
    broken: Counter[str] = field(default_factory=Counter)  # lost on the way, by address
    took: list[tuple[float, float]] = field(default_factory=list)  # (monotonic end, seconds)

    def assert_all_right(self, least: int = 1) -> None:
        assert not self.failed, dict(self.failed)
        assert not self.wrong, self.wrong[:5]
        assert self.right >= least, f"{self.right} answers"


class Traffic:
    """Requests for some models at some addresses, in a thread of their own, until `end`.

    `in_flight` at once; `rate`: so many a second (0: as fast as they are answered); `most`: so many
    in all (0: until `end`). `skew`: the exponent of Zipf's law over the models' order; 0: even.
    """

    def __init__(
        self,
        targets: Sequence[str],
        models: Sequence[str],
        *,
        in_flight: int = 8,
        rate: float = 0.0,
        most: int = 0,
        skew: float = 1.0,
        seed: int = 1,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.report = Report()
        self._targets = list(targets)
        self._models = list(models)
        self._weights = list(accumulate((n + 1) ** -skew for n in range(len(models))))
        self._in_flight = in_flight
        self._pause_s = 1 / rate if rate else 0.0
        self._turn = 0.0  # when the next request may begin: evenly, not in bursts of `in_flight`
        self._most = most
        self._deadline_s = deadline_s
        self._rng = random.Random(seed)
        self._begun = 0
        self._asked: set[object] = set()  # requests under way
        self._next = 0
        self._ending = False
        self._shut: dict[str, float] = {}  # address -> when it last refused
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._live, name="traffic")

    # --- for the test's thread

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> Report:
        """Begin no more, and wait for those that are under way."""
        self._ending = True
        self._thread.join(_JOIN_S)
        assert not self._thread.is_alive(), "a request never ended"
        if self._error is not None:
            raise self._error
        return self.report

    def finish(self, within_s: float) -> Report:
        """Wait until `most` requests have ended, each within that time of the one before it."""
        while self._goes_on(within_s):
            pass
        return self.end()

    def more(self, count: int, within_s: float = 60.0) -> None:
        """Wait for so many further right answers, each within that time of the one before it: a
        machine may be slow."""
        wanted = self.report.right + count
        while self.report.right < wanted:
            on = self._goes_on(within_s) or self.report.right >= wanted
            assert on, f"ended early: {self._error!r} {self.report}"[:500]

    def turn_over(self, within_s: float = DEADLINE_S) -> None:
        """Wait until all requests have ended that are under way now."""
        asked, end = set(self._asked), time.monotonic() + within_s
        while asked & self._asked:
            assert time.monotonic() < end, "a request does not end"
            self._thread.join(0.02)

    def _goes_on(self, within_s: float) -> bool:
        """Wait for one more right answer; whether requests are still made."""
        before, end = self.report.right, time.monotonic() + within_s
        while self._thread.is_alive() and self.report.right == before:
            assert time.monotonic() < end, f"the fleet has stopped: {self.report}"[:500]
            self._thread.join(0.02)
        return self._thread.is_alive()

    # --- in its thread

    def _live(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._run())
        except BaseException as error:
            self._error = error

    async def _run(self) -> None:
        channels = {
            target: grpc.aio.insecure_channel(target, options=_OPTIONS) for target in self._targets
        }
        self._calls = {
            target: channel.unary_unary(MODEL_INFER) for target, channel in channels.items()
        }
        try:
            await asyncio.gather(*(self._worker() for _ in range(self._in_flight)))
        finally:
            for channel in channels.values():
                await channel.close()

    async def _worker(self) -> None:
        while not self._ending and not (self._most and self._begun >= self._most):
            self._begun += 1
            if self._pause_s:
                now = time.monotonic()
                self._turn = max(self._turn + self._pause_s, now)
                await asyncio.sleep(self._turn - now)
            (model_id,) = self._rng.choices(self._models, cum_weights=self._weights)
            asked = object()
            self._asked.add(asked)
            await self._ask(model_id)
            self._asked.discard(asked)

    async def _ask(self, model_id: str) -> None:
        request, report = request_of(model_id), self.report
        begun = time.monotonic()
        end = begun + self._deadline_s
        while (left_s := end - time.monotonic()) > 0:
            target = self._target()
            if time.monotonic() - self._shut.get(target, 0.0) < _BACKOFF_S:
                await asyncio.sleep(_BACKOFF_S)  # all have refused
            try:
                answer = await self._calls[target](request, timeout=left_s)
            except grpc.aio.AioRpcError as error:
                how = _lost(error)
                if not how:
                    report.failed[f"{error.code().name} {error.details()}"[:200]] += 1
                    return
                (report.refused if how == "refused" else report.broken)[target] += 1
                self._shut[target] = time.monotonic()
                continue
            if _model_of(answer) == model_id:
                report.right += 1
                report.took.append((time.monotonic(), time.monotonic() - begun))
            else:
                report.wrong.append(f"{model_id}: {answer!r}"[:200])
            return
        report.failed["no daemon could be reached"] += 1

    def _target(self) -> str:
        """In turn; one that has just refused is left out, unless all have."""
        now = time.monotonic()
        for _ in self._targets:
            self._next = (self._next + 1) % len(self._targets)
            target = self._targets[self._next]
            if now - self._shut.get(target, 0.0) >= _BACKOFF_S:
                break
        return target


def _lost(error: Any) -> str:
    """How the connection failed, if it was not a daemon that answered so."""
    if error.code() is not grpc.StatusCode.UNAVAILABLE or error.trailing_metadata():
        return ""
    said = (error.details() or "").lower()
    if "connect" in said and "reset" not in said:
        return "refused"
    return "refused" if "goaway" in said else "broken"


def _model_of(answer: bytes) -> str:
    outputs = inference_pb2.ModelInferResponse.FromString(answer).outputs
    return outputs[0].contents.bytes_contents[0].decode() if outputs else ""
