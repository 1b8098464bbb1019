"""Leaves without taking models along: copies are made elsewhere before this one goes.

The most worthy copies come first, a few at a time, and everything is served here until the end;
what the bound cuts off is loaded elsewhere by its next request.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from modelmesh.errors import MeshError

log = structlog.get_logger("tasks")

AT_ONCE: Final = 8


@dataclass(slots=True)
class Drained:
    """What became of the copies."""

    held: int = 0  # another instance had one already
    moved: int = 0
    refused: int = 0
    left: int = 0  # not done within the bound


class Drain:
    """`by_worth`: the loaded models, the most worthy first. `another_copy(model_id, bound_s)` has
    one more made and returns where ("": nowhere)."""

    def __init__(
        self,
        by_worth: Callable[[], Sequence[str]],
        held_elsewhere: Callable[[str], bool],
        another_copy: Callable[[str, float], Awaitable[str]],
    ) -> None:
        self._by_worth = by_worth
        self._held_elsewhere = held_elsewhere
        self._another_copy = another_copy

    async def run(self, bound_s: float) -> Drained:
        """Hand over what can be handed over within the bound."""
        end = asyncio.get_running_loop().time() + bound_s
        waiting = list(reversed(self._by_worth()))
        there_were, drained = len(waiting), Drained()

        async def work() -> None:
            while waiting:
                await self._hand_over(waiting.pop(), end, drained)

        try:
            async with asyncio.timeout_at(end):
                await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        except TimeoutError:
            pass
        drained.left = there_were - drained.held - drained.moved - drained.refused
        log.info(
            "copies handed over", held=drained.held, moved=drained.moved,
            refused=drained.refused, left=drained.left,
        )  # fmt: skip
        return drained

    async def _hand_over(self, model_id: str, end: float, drained: Drained) -> None:
        if self._held_elsewhere(model_id):
            drained.held += 1
            return
        bound_s = max(end - asyncio.get_running_loop().time(), 0.0)
        try:
            there = await self._another_copy(model_id, bound_s)
        except MeshError as error:
            log.info("nobody takes a copy", model=model_id, failure=error.failure.message)
            there = ""
        except Exception:  # whatever it is, this daemon goes, and the others have to be handed over
            log.exception("a copy could not be handed over", model=model_id)
            there = ""
        if there:
            drained.moved += 1
        else:
            drained.refused += 1
