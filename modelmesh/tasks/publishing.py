"""What this daemon says of itself to the others, and when.

A record is written when something in it matters to somebody who places or routes: at most once a
second, and at least every forty seconds, so that stale figures do not live long and a fleet that
rests writes next to nothing. `significant` is pure; `Publisher` is the loop around it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from operator import attrgetter
from typing import Final

import structlog

from modelmesh.domain.instances import InstanceRecord
from modelmesh.errors import MeshError
from modelmesh.observe.spells import Spell
from modelmesh.observe.tasks import spawn, stop

log = structlog.get_logger("tasks")

LOOK_S: Final = 0.25
LEAST_PERIOD_S: Final = 1.0
LONGEST_PERIOD_S: Final = 40.0

# A change of memory, counts or rate below a twentieth tells nobody anything.
_SHARE: Final = 20
_LEAST_RPM: Final = 100


# What counts whenever it changes; epoch and start are the publication's own.
_facts = attrgetter(
    "address", "capacity_units", "draining", "labels", "load_slots", "location", "protocol",
    "unknown", "version", "zone",
)  # fmt: skip


def significant(before: InstanceRecord, now: InstanceRecord) -> bool:
    """Whether the difference would change anybody's decision."""
    return (
        _facts(before) != _facts(now)
        or abs(now.used_units - before.used_units) * _SHARE >= now.capacity_units
        or (now.model_count == 0) != (before.model_count == 0)
        or now.loading != before.loading
        or abs(now.rate_rpm - before.rate_rpm) > max(_LEAST_RPM, before.rate_rpm // 10)
        or (now.victim_worth == 0) != (before.victim_worth == 0)
        or now.victim_worth > 2 * before.victim_worth
        or 2 * now.victim_worth < before.victim_worth
    )


def _differs(before: InstanceRecord, now: InstanceRecord) -> bool:
    """In anything at all."""
    return replace(now, epoch=before.epoch, start_ms=before.start_ms) != before


class Publisher:
    """Writes what `describe` says, when it matters."""

    def __init__(
        self,
        describe: Callable[[], InstanceRecord],
        published: Callable[[], InstanceRecord],
        publish: Callable[[InstanceRecord], Awaitable[None]],
    ) -> None:
        self._describe = describe
        self._published = published
        self._publish = publish
        self._task: asyncio.Task[None] | None = None
        self._unpublished = Spell(log, "this instance could not be published")

    def start(self) -> None:
        self._task = spawn(self._run(), "publish this instance", eternal=True)

    async def stop(self) -> None:
        await stop(self._task)

    async def now(self) -> None:
        """Write it at once (a drain begins); a store that does not answer is logged."""
        try:
            await self._publish(self._describe())
            self._unpublished.over()
        except MeshError as error:
            self._unpublished.goes_on(failure=error.failure.message)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(LOOK_S)
            since_s = loop.time() - last
            if since_s < LEAST_PERIOD_S:
                continue
            record, published = self._describe(), self._published()
            if significant(published, record) or (
                since_s >= LONGEST_PERIOD_S and _differs(published, record)
            ):
                last = loop.time()
                await self.now()
