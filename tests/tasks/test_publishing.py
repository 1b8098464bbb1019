"""What a daemon says of itself, when it matters, and not more often than that."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from modelmesh.domain.instances import InstanceRecord
from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.simulation.clock import run
from modelmesh.tasks.publishing import (
    LEAST_PERIOD_S,
    LONGEST_PERIOD_S,
    LOOK_S,
    Publisher,
    significant,
)

BEFORE = InstanceRecord(
    start_ms=1, epoch=7, capacity_units=1000, used_units=500, model_count=5, load_slots=4,
    rate_rpm=1000, victim_worth=1.0, lru_ms=100,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "matters"),
    [
        ({}, False),
        ({"lru_ms": 999}, False),
        ({"model_count": 6}, False),
        ({"model_count": 0}, True),
        ({"used_units": 549}, False),
        ({"used_units": 550}, True),
        ({"used_units": 450}, True),
        ({"loading": 1}, True),
        ({"rate_rpm": 1100}, False),
        ({"rate_rpm": 1101}, True),
        ({"rate_rpm": 899}, True),
        ({"victim_worth": 0.0}, True),
        ({"victim_worth": 2.0}, False),
        ({"victim_worth": 2.1}, True),
        ({"victim_worth": 0.49}, True),
        ({"draining": True}, True),
        ({"address": "elsewhere:1"}, True),
        ({"capacity_units": 999}, True),
        ({"labels": ("gpu",)}, True),
    ],
)
def test_what_would_change_a_decision_matters(change: dict[str, Any], matters: bool) -> None:
    assert significant(BEFORE, replace(BEFORE, **change)) is matters


class Daemon:
    """Describes itself as the test says; keeps what was published, and when."""

    def __init__(self) -> None:
        self.now = self.last = BEFORE
        self.times: list[float] = []
        self.silent = False
        self.began = asyncio.get_running_loop().time()
        # Whoever describes does not know the epoch, which the registry gives.
        self.publisher = Publisher(
            lambda: replace(self.now, epoch=0, start_ms=99), lambda: self.last, self.publish
        )

    async def publish(self, record: InstanceRecord) -> None:
        self.times.append(asyncio.get_running_loop().time() - self.began)
        if self.silent:
            raise MeshError(Failure(Code.UNAVAILABLE, "no answer", Fault.STORE))
        self.last = replace(record, epoch=7, start_ms=1)


def test_a_change_that_matters_is_written_soon_and_at_most_once_a_second() -> None:
    async def main() -> None:
        daemon = Daemon()
        daemon.publisher.start()
        for n in range(100):  # for ten seconds, something new all the time
            daemon.now = replace(daemon.now, loading=n + 1)
            await asyncio.sleep(0.1)
        await daemon.publisher.stop()
        gaps = [b - a for a, b in zip(daemon.times, daemon.times[1:], strict=False)]
        assert 8 <= len(daemon.times) <= 10
        assert min(gaps) >= LEAST_PERIOD_S
        assert max(gaps) <= LEAST_PERIOD_S + LOOK_S

    run(main())


def test_a_fleet_that_rests_writes_nothing() -> None:
    async def main() -> None:
        daemon = Daemon()
        daemon.publisher.start()
        await asyncio.sleep(1000)
        await daemon.publisher.stop()
        assert daemon.times == []

    run(main())


def test_small_changes_are_written_now_and_then() -> None:
    async def main() -> None:
        daemon = Daemon()
        daemon.publisher.start()
        for n in range(200):
            daemon.now = replace(daemon.now, lru_ms=n)
            await asyncio.sleep(1)
        await daemon.publisher.stop()
        assert len(daemon.times) == 200 // (LONGEST_PERIOD_S + LOOK_S)

    run(main())


def test_what_the_store_did_not_take_is_written_when_it_does() -> None:
    async def main() -> None:
        daemon = Daemon()
        daemon.publisher.start()
        daemon.silent = True
        daemon.now = replace(daemon.now, draining=True)
        await asyncio.sleep(5)
        assert len(daemon.times) >= 3, "the fault did not strike"
        assert not daemon.last.draining
        daemon.silent = False
        await asyncio.sleep(2)
        assert daemon.last.draining
        await daemon.publisher.stop()

    run(main())


def test_what_must_be_said_now_is_said_now_and_never_raises() -> None:
    async def main() -> None:
        daemon = Daemon()
        await daemon.publisher.now()
        daemon.silent = True
        await daemon.publisher.now()
        assert daemon.times == [0.0, 0.0]

    run(main())
