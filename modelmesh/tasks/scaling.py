"""More copies of what is busy, fewer of what is idle: judged every ten seconds, here for here.

Each daemon judges the copies that it holds. A copy that is wanted is made by another instance, one
after the other; a copy that goes is first taken out of the record, so that two holders cannot both
go and leave none.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

import structlog

from modelmesh.errors import MeshError
from modelmesh.observe.tasks import logged, rest, spawn, stop
from modelmesh.policy.scaling import ScalingLimits, scale_down, scale_up
from modelmesh.serving.usage import Judged

log = structlog.get_logger("tasks")

# In one look: models that are given further copies at a time, and copies that go.
MOST_GROWING: Final = 16
MOST_DROPPED: Final = 8
_CHUNK: Final = 100  # copies judged between two rests: some 0.3 ms


class Hands(Protocol):
    """What scaling does."""

    async def another_copy(self, judged: Judged) -> str:
        """One more, somewhere else; where ("": nowhere). MeshError: why not."""

    async def drop(self, model_id: str) -> bool:
        """The copy here goes, if enough stay; whether it does."""


class Scaler:
    """`look` gives the copies here with their use since the last look."""

    def __init__(
        self,
        look: Callable[[], Awaitable[Iterable[Judged]]],
        hands: Hands,
        limits: Callable[[], ScalingLimits],
        draining: Callable[[], bool],
    ) -> None:
        self._look = look
        self._hands = hands
        self._limits = limits
        self._draining = draining
        self._growing: dict[str, asyncio.Task[None]] = {}
        self._in_vain: dict[str, tuple[str, str]] = {}  # by model: what was wanted, why not had

    async def tick(self) -> None:
        """One look."""
        dropped, wanting = 0, set[str]()
        limits = self._limits()
        for count, judged in enumerate(await self._look(), 1):
            if count % _CHUNK == 0:
                await rest()
            if self._draining():
                return
            more = scale_up(judged.use, judged.copies, judged.fleet, judged.wishes, limits)
            if more.copies:
                wanting.add(judged.model_id)
                self._grow(judged, more.copies, more.reason)
                continue
            fewer = scale_down(
                judged.use, judged.copies, judged.fleet,
                goes_first=judged.goes_first, wishes=judged.wishes, limits=limits,
            )  # fmt: skip
            if fewer.drop and dropped < MOST_DROPPED:
                dropped += await self._drop(judged.model_id, fewer.reason)
        self._in_vain = {each: why for each, why in self._in_vain.items() if each in wanting}

    async def close(self) -> None:
        await stop(*self._growing.values())

    def _grow(self, judged: Judged, copies: int, reason: str) -> None:
        if judged.model_id in self._growing or len(self._growing) >= MOST_GROWING:
            return
        if self._in_vain.get(judged.model_id, ("",))[0] != reason:  # else it has been said
            log.info("more copies", model=judged.model_id, copies=copies, reason=reason)
        name = f"more copies of {judged.model_id}"
        task = spawn(logged(self._more(judged, copies, reason), name), name)
        self._growing[judged.model_id] = task
        task.add_done_callback(lambda _: self._growing.pop(judged.model_id, None))

    async def _more(self, judged: Judged, copies: int, reason: str) -> None:
        for _ in range(copies):
            try:
                if not await self._hands.another_copy(judged):
                    self._note_vain(judged.model_id, reason, "no other instance may have one")
                    return
            except MeshError as error:
                self._note_vain(judged.model_id, reason, error.failure.message)
                return
            self._in_vain.pop(judged.model_id, None)

    def _note_vain(self, model_id: str, reason: str, why: str) -> None:
        """It will be tried at the next look, and the next, with the same end: said once."""
        if self._in_vain.get(model_id) != (reason, why):
            log.info("no further copy", model=model_id, failure=why)
        self._in_vain[model_id] = (reason, why)

    async def _drop(self, model_id: str, reason: str) -> int:
        try:
            dropped = await self._hands.drop(model_id)
        except MeshError as error:
            log.info("no copy dropped", model=model_id, failure=error.failure.message)
            return 0
        if dropped:
            log.info("fewer copies", model=model_id, reason=reason)
        return int(dropped)
