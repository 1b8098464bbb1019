"""More copies of what is busy, fewer of what is idle: one look's work, bounded, whatever fails."""

import asyncio
from dataclasses import replace

from structlog.testing import capture_logs

from modelmesh.errors import Code, Failure, MeshError
from modelmesh.policy.scaling import Copies, FleetUse, ScalingLimits, Use, Wishes
from modelmesh.serving.usage import Judged
from modelmesh.simulation.clock import run
from modelmesh.tasks.scaling import MOST_DROPPED, MOST_GROWING, Scaler
from tests.turns import turns_of

LIMITS = ScalingLimits()
BUSY = Judged(
    "busy", Use(rate_rpm=4500, calls=750), Copies(loaded=1), FleetUse(instances=8), Wishes(), False
)
IDLE = Judged(
    "idle",
    Use(used_age_s=1e6, heavy_age_s=1e6),
    Copies(loaded=2, newest_age_s=1e6, unload_age_s=1e6),
    FleetUse(instances=8, free_share=0.0, oldest_use_age_s=1000),
    Wishes(),
    True,
)


class Hands:
    """Does what scaling wants, in its time, unless the test says otherwise."""

    def __init__(self) -> None:
        self.copied: list[str] = []
        self.dropped: list[str] = []
        self.under_way = self.most = 0
        self.fails: MeshError | None = None
        self.somewhere = "there"
        self.drops = True

    async def another_copy(self, judged: Judged) -> str:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(30)
        finally:
            self.under_way -= 1
        self.copied.append(judged.model_id)
        if self.fails is not None:
            raise self.fails
        return self.somewhere

    async def drop(self, model_id: str) -> bool:
        self.dropped.append(model_id)
        if self.fails is not None:
            raise self.fails
        return self.drops


class Scaling:
    """A scaler whose looks the test gives."""

    def __init__(self, *judged: Judged) -> None:
        self.judged = list(judged)
        self.hands = Hands()
        self.draining = False
        self.scaler = Scaler(self.look, self.hands, lambda: LIMITS, lambda: self.draining)

    async def look(self) -> list[Judged]:
        return self.judged


def named(judged: Judged, count: int) -> list[Judged]:
    return [replace(judged, model_id=f"{judged.model_id}{n}") for n in range(count)]


def test_the_copies_of_a_busy_model_come_one_after_the_other() -> None:
    async def main() -> None:
        scaling = Scaling(BUSY)
        await scaling.scaler.tick()
        await scaling.scaler.tick()  # it is growing already
        await asyncio.sleep(100)
        assert scaling.hands.copied == ["busy", "busy"]
        assert scaling.hands.most == 1

    run(main())


def test_who_finds_no_place_or_fails_stops_until_the_next_look() -> None:
    async def main() -> None:
        for somewhere, fails in (("", None), ("there", MeshError(Failure(Code.UNAVAILABLE, "")))):
            scaling = Scaling(BUSY)
            scaling.hands.somewhere, scaling.hands.fails = somewhere, fails
            await scaling.scaler.tick()
            await asyncio.sleep(100)
            assert scaling.hands.copied == ["busy"]
            await scaling.scaler.tick()
            await asyncio.sleep(100)
            assert scaling.hands.copied == ["busy", "busy"]

    run(main())


def test_what_nobody_can_take_is_said_once_until_something_changes() -> None:
    async def main() -> None:
        scaling = Scaling(BUSY)

        async def look() -> list[str]:
            with capture_logs() as lines:
                await scaling.scaler.tick()
                await asyncio.sleep(100)
            return [line["event"] for line in lines]

        scaling.hands.somewhere = ""
        assert await look() == ["more copies", "no further copy"]
        assert await look() == []
        scaling.hands.fails = MeshError(Failure(Code.UNAVAILABLE, "no room"))
        assert await look() == ["no further copy"], "for another reason"
        assert await look() == []
        assert scaling.hands.copied == ["busy"] * 4, "it is tried all the same"
        scaling.judged = [replace(BUSY, use=Use())]
        assert await look() == []
        scaling.judged = [BUSY]
        assert await look() == ["more copies", "no further copy"], "it was well meanwhile"
        scaling.hands.somewhere, scaling.hands.fails = "there", None
        assert await look() == []
        assert await look() == ["more copies"], "there was one"

    run(main())


def test_only_so_many_models_grow_at_a_time() -> None:
    async def main() -> None:
        scaling = Scaling(*named(BUSY, 3 * MOST_GROWING))
        await scaling.scaler.tick()
        await asyncio.sleep(1)
        assert scaling.hands.most == MOST_GROWING
        await scaling.scaler.close()
        await asyncio.sleep(100)
        assert scaling.hands.under_way == 0
        assert scaling.hands.copied == []

    run(main())


def test_idle_copies_go_a_few_at_a_time() -> None:
    async def main() -> None:
        scaling = Scaling(*named(IDLE, 3 * MOST_DROPPED))
        await scaling.scaler.tick()
        assert len(scaling.hands.dropped) == MOST_DROPPED

    run(main())


def test_a_copy_that_could_not_go_leaves_the_turn_to_another() -> None:
    async def main() -> None:
        for fails in (None, MeshError(Failure(Code.UNAVAILABLE, ""))):
            scaling = Scaling(*named(IDLE, 3 * MOST_DROPPED))
            scaling.hands.drops, scaling.hands.fails = False, fails
            await scaling.scaler.tick()
            assert len(scaling.hands.dropped) == 3 * MOST_DROPPED

    run(main())


def test_who_leaves_makes_nothing_more_or_less() -> None:
    async def main() -> None:
        scaling = Scaling(BUSY, IDLE)
        scaling.draining = True
        await scaling.scaler.tick()
        await asyncio.sleep(100)
        assert scaling.hands.copied == []
        assert scaling.hands.dropped == []

    run(main())


def test_a_look_over_many_copies_lets_others_have_their_turns() -> None:
    async def main() -> None:
        scaling = Scaling(*named(IDLE, 1000))
        scaling.hands.drops = False
        assert await turns_of(scaling.scaler.tick()) >= 4
        assert len(scaling.hands.dropped) == 1000

    run(main())
