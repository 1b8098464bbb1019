"""What is seen of copies between two looks: the facts for scaling."""

import asyncio
from dataclasses import replace

from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Failure
from modelmesh.policy.constraints import parse
from modelmesh.policy.scaling import ScalingLimits, Wishes
from modelmesh.serving.usage import Judged, Usage
from modelmesh.simulation.clock import run
from tests.serving.fleet_of_many import ME, ROOM, OfMany, answered
from tests.turns import turns_of

LIMITS = ScalingLimits()
ENOUGH = Failure(Code.UNKNOWN, "enough")


def usage(one: OfMany) -> Usage:
    return Usage(one.parts, one.view, lambda: LIMITS)


async def use(one: OfMany, times: int) -> None:
    for _ in range(times):
        assert await answered(one.ask("m")) == b"m"


def only(looked: list[Judged]) -> Judged:
    (judged,) = looked
    return judged


def test_calls_are_those_since_the_last_look() -> None:
    async def main() -> None:
        one = OfMany()
        await one.register("m")
        seen = usage(one)
        for calls in (20, 5, 0):
            await use(one, calls)
            await asyncio.sleep(10)
            judged = only(await seen.look())
            assert judged.use.calls == calls
            assert abs(judged.use.rate_rpm - calls * 6) < 0.1
        assert 9.9 < judged.use.used_age_s < 20.1
        await one.close()

    run(main())


def test_a_copy_that_came_again_begins_anew() -> None:
    async def main() -> None:
        one = OfMany()
        await one.register("m")
        seen = usage(one)
        await use(one, 20)
        await seen.look()
        assert await one.management.unload_here("m")
        assert await seen.look() == []
        await use(one, 3)
        await asyncio.sleep(10)
        assert only(await seen.look()).use.calls == 3
        await one.close()

    run(main())


def test_a_look_at_many_copies_lets_others_have_their_turns() -> None:
    async def main() -> None:
        one = OfMany(capacity_bytes=100_000)
        names = [f"m{n:03}" for n in range(200)]
        for name in names:
            await one.register(name)
            await answered(one.ask(name))
        looked = asyncio.ensure_future(usage(one).look())
        assert await turns_of(looked) >= 4
        assert [judged.model_id for judged in looked.result()] == names
        await one.close()

    run(main())


def test_calls_at_once_are_their_time_over_the_time_that_passed() -> None:
    async def main() -> None:
        one = OfMany()
        await one.register("m")
        await use(one, 1)
        seen = usage(one)
        await seen.look()
        one.runtime.answer_at_once = False
        replies = [one.ask("m") for _ in range(6)]
        await asyncio.sleep(5)
        for call in one.runtime.running[:4]:
            call.reply.finish(ENOUGH)
        await asyncio.sleep(5)
        judged = only(await seen.look())
        assert abs(judged.use.parallel - 4 * 5 / 10) < 0.01
        assert judged.use.queued == 1, "two are in it, and it runs one"
        for call in one.runtime.running[4:]:
            call.reply.finish(ENOUGH)
        assert all(reply.future.exception() for reply in replies)
        await one.close()

    run(main())


def test_heavy_use_is_remembered() -> None:
    async def main() -> None:
        one = OfMany()
        await one.register("m")
        seen = usage(one)
        await use(one, 300)
        await asyncio.sleep(10)
        assert only(await seen.look()).use.heavy_age_s == 0.0
        await asyncio.sleep(100)
        assert abs(only(await seen.look()).use.heavy_age_s - 100) < 0.1
        await one.close()

    run(main())


def test_copies_count_on_those_that_live_answer_and_stay() -> None:
    async def main() -> None:
        one = OfMany("a", "silent", "leaves")
        await one.register("m", loaded=["a", "silent", "leaves", "dead"])
        one.peers.known["silent"].suspect = True
        one.peers.known["leaves"].record = replace(ROOM, draining=True)
        await one.claims.claim("m", further=True)
        record = one.known("m").loaded(ME, one.wall_ms())
        seen = usage(one)
        assert seen.may_drop(record)
        one.peers.known["a"].reachable = False
        assert not seen.may_drop(record), "it would be the last one"
        one.peers.known["a"].reachable = True
        assert not seen.may_drop(replace(record, min_copies=2))
        one.view.draining = True
        assert not seen.may_drop(record), "ours does not count any more"
        await one.close()

    run(main())


def test_the_fleet_is_those_that_may_hold_the_model() -> None:
    async def main() -> None:
        one = OfMany("a")
        one.view.fits = parse('{"dummy": {"required": ["gpu"]}}')
        one.record = replace(ROOM, labels=("gpu",), used_units=900, lru_ms=one.wall_ms() - 60_000)
        one.peers.add("fits", record=replace(ROOM, labels=("gpu",), used_units=500))
        await one.models.register("m", ModelRecord("dummy", min_copies=2, priority=1))
        others, one.peers.known = one.peers.known, {}
        await use(one, 1)  # so it is loaded here
        one.peers.known = others
        judged = only(await usage(one).look())
        assert judged.fleet.instances == 2
        assert judged.fleet.free_share == 600 / 2000
        assert abs(judged.fleet.oldest_use_age_s - 60) < 0.1
        assert judged.wishes == Wishes(min_copies=2, priority=1)
        assert judged.goes_first, "it is the only one that holds it"
        await one.close()

    run(main())
