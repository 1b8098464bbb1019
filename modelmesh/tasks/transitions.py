"""Vmodels on their way are brought there: by the leader of a fleet, or by a daemon that is alone.

Every daemon follows which vmodels are in transition; the one that leads pushes each of them as soon
as something has happened to it or to its target, a bounded number at a time. A push that came to
nothing is tried again after a pause that grows; a transition that failed waits a minute, or until
its target's record changes (its failures are over, somebody has registered it anew).

Whoever takes over the lead finds the same records and goes on; two leaders at once do no harm,
since every step is a transaction. What a step is decides `policy.transition`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import structlog

from modelmesh.errors import MeshError
from modelmesh.observe.tasks import rest, spawn, stop
from modelmesh.policy.reaping import LIMITS, ReapingLimits, due_transitions
from modelmesh.registry.models import ModelChange, Models
from modelmesh.registry.vmodels import VModels

log = structlog.get_logger("tasks")

# Without any event: targets that wait for further copies, a lead that was taken over.
TICK_S: Final = 5.0
# A push waits for a load; after this long it looks anew.
PUSH_S: Final = 600.0
# Between events that come in a swarm and the look at what they mean.
_SWARM_S: Final = 0.005
_FIRST_PAUSE_S: Final = 1.0
_LAST_PAUSE_S: Final = 60.0
_CHUNK: Final = 100  # records looked at between two rests: some 0.5 ms


class Transitions:
    """`push(vmodel_id)` does what is next, and says whether anything came of it. `leads`: whether
    it is this daemon's business."""

    def __init__(
        self,
        vmodels: VModels,
        models: Models,
        push: Callable[[str], Awaitable[bool]],
        leads: Callable[[], bool],
        clock: Callable[[], float],
        limits: ReapingLimits = LIMITS,
    ) -> None:
        self._vmodels = vmodels
        self._models = models
        self._push = push
        self._leads = leads
        self._clock = clock
        self._limits = limits
        self._moving: dict[str, str] = {}  # vmodel: its target
        self._waiting_for: dict[str, set[str]] = {}  # target: vmodels
        self._tried: dict[str, float] = {}  # vmodel: when it was pushed last, unless woken since
        self._pauses: dict[str, tuple[float, float]] = {}  # vmodel: (until, how long)
        self._running: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._woken = asyncio.Event()
        self._unsubscribe: list[Callable[[], None]] = []
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._unsubscribe = [
            self._vmodels.subscribe(self._vmodels_changed),
            self._models.subscribe(self._models_changed),
        ]
        self._loop = spawn(self._run(), "transitions", eternal=True)

    async def close(self) -> None:
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        await stop(self._loop, *(task for _, task in self._running.values()))

    def wake(self, _events: object = None) -> None:
        """Something may have changed: who leads, for one."""
        self._woken.set()

    # --- what is on its way

    @property
    def moving(self) -> int:
        """Vmodels in transition."""
        return len(self._moving)

    def _vmodels_changed(self, vmodel_ids: list[str]) -> None:
        for vmodel_id in vmodel_ids:
            self._note(vmodel_id)

    def _note(self, vmodel_id: str) -> None:
        try:
            record = self._vmodels.get(vmodel_id)
        except MeshError:
            record = None
        target_id = record.target_id if record is not None and record.transitioning else ""
        before = self._moving.get(vmodel_id, "")
        if target_id != before:
            self._forget(vmodel_id, before)
            if target_id:
                self._moving[vmodel_id] = target_id
                self._waiting_for.setdefault(target_id, set()).add(vmodel_id)
        if target_id and record is not None and not record.failed:
            self._pauses.pop(vmodel_id, None)
            self._wake_one(vmodel_id)

    def _forget(self, vmodel_id: str, target_id: str) -> None:
        """Nobody waits for that target any more; a push that waits for its load neither."""
        self._moving.pop(vmodel_id, None)
        self._tried.pop(vmodel_id, None)
        self._pauses.pop(vmodel_id, None)
        waiting = self._waiting_for.get(target_id)
        if waiting is not None:
            waiting.discard(vmodel_id)
            if not waiting:
                del self._waiting_for[target_id]
        running = self._running.get(vmodel_id)
        if running is not None and running[1] is not asyncio.current_task():
            running[1].cancel()

    def _models_changed(self, changes: list[ModelChange]) -> None:
        if not self._waiting_for:
            return
        for change in changes:
            for vmodel_id in self._waiting_for.get(change.model_id, ()):
                self._wake_one(vmodel_id)

    def _wake_one(self, vmodel_id: str) -> None:
        self._tried.pop(vmodel_id, None)
        self._woken.set()

    # --- the loop

    async def _run(self) -> None:
        await self._scan()
        while True:
            try:
                async with asyncio.timeout(self._until_next()):
                    await self._woken.wait()
                    await asyncio.sleep(_SWARM_S)
            except TimeoutError:
                pass
            self._woken.clear()
            if self._moving and self._leads():
                self._begin(self._clock())

    async def _scan(self) -> None:
        """Those that were on their way before we began to listen."""
        for count, vmodel_id in enumerate(self._vmodels.names()):
            if count % _CHUNK == _CHUNK - 1:
                await rest()
            self._note(vmodel_id)

    def _until_next(self) -> float:
        if not self._pauses:
            return TICK_S
        first = min(until for until, _ in self._pauses.values())
        return min(max(first - self._clock(), 0.05), TICK_S)

    def _begin(self, now: float) -> None:
        """Start the pushes that are due, as many as there is room for."""
        room = self._limits.most_transitions - len(self._running)
        if room <= 0:
            return
        ready = (
            (vmodel_id, record)
            for vmodel_id in self._moving  # those whose records can be read
            if self._is_ready(vmodel_id, now)
            and (record := self._vmodels.get(vmodel_id)) is not None
        )
        for vmodel_id in due_transitions(ready, self._tried, now, self._limits)[:room]:
            self._tried[vmodel_id] = now
            task = spawn(self._push_one(vmodel_id), f"push vmodel {vmodel_id}")
            self._running[vmodel_id] = self._moving[vmodel_id], task
            task.add_done_callback(partial(self._ended, vmodel_id))

    def _is_ready(self, vmodel_id: str, now: float) -> bool:
        if vmodel_id in self._running or now < self._pauses.get(vmodel_id, (now, 0.0))[0]:
            return False
        return vmodel_id not in self._tried or now - self._tried[vmodel_id] >= TICK_S

    async def _push_one(self, vmodel_id: str) -> None:
        well = False
        try:
            async with asyncio.timeout(PUSH_S):
                well = await self._push(vmodel_id)
        except TimeoutError:
            well = True  # it is loading still: look anew
        except MeshError as error:
            log.warning("a vmodel waits", vmodel=vmodel_id, failure=error.failure.message)
        if well:
            self._pauses.pop(vmodel_id, None)
        elif vmodel_id in self._moving:
            _, before_s = self._pauses.get(vmodel_id, (0.0, 0.0))
            pause_s = min(max(2 * before_s, _FIRST_PAUSE_S), _LAST_PAUSE_S)
            self._pauses[vmodel_id] = self._clock() + pause_s, pause_s
            if not self._has_failed(vmodel_id):
                self._tried.pop(vmodel_id, None)  # the pause alone counts

    def _has_failed(self, vmodel_id: str) -> bool:
        try:
            record = self._vmodels.get(vmodel_id)
        except MeshError:
            return True
        return record is None or record.failed

    def _ended(self, vmodel_id: str, task: asyncio.Task[None]) -> None:
        running = self._running.get(vmodel_id)
        if running is not None and running[1] is task:
            del self._running[vmodel_id]
        self._woken.set()
