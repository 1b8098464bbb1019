"""One more copy, somewhere else: asked for, refused, asked of the next one, and no further."""

import asyncio
import json

import pytest

from modelmesh.domain.fleet import Hops, Intent
from modelmesh.errors import Code, Failure, Fault, MeshError, Reason
from modelmesh.serving.remote import LOAD
from modelmesh.serving.spreading import ATTEMPTS
from modelmesh.simulation.clock import run
from tests.serving.doors import LOAD_FAILED
from tests.serving.fleet_of_many import ME, ROOM, OfMany, Sent, answered

NO_SPACE = Failure(Code.UNAVAILABLE, "no room", Fault.CAPACITY, Reason.NO_SPACE)
BROKEN = Failure(Code.INTERNAL, "internal error", Fault.PEER, executed=True)


async def holding(*others: str) -> OfMany:
    """A member that holds m."""
    one = OfMany(*others)
    await one.register("m")
    peers, one.peers.known = one.peers.known, {}
    assert await answered(one.ask("m")) == b"m"
    one.peers.known = peers
    return one


def loaded(sent: Sent) -> None:
    sent.answer(b'{"loaded":true}')


def test_somebody_else_is_asked_to_load_it_though_it_is_loaded_here() -> None:
    async def main() -> None:
        one = await holding("a")
        one.peers.answers = loaded
        assert await one.spreading.another_copy("m", 30) == "a"
        (sent,) = one.peers.sent
        assert (sent.call.kind, sent.model_id, sent.hops) == (LOAD, "m", Hops(Intent.LOAD, ME))
        assert json.loads(bytes(sent.call.body)) == {"further": True, "sync": True}
        assert sent.call.deadline == one.clock() + 30
        assert one.known("m").loaded_in.keys() == {ME}, "ours was said before"
        await one.close()

    run(main())


def test_a_copy_that_was_just_made_is_waited_for_before_the_next_one_is_asked_for() -> None:
    """Else its claim would still forbid any other."""

    async def main() -> None:
        one = await holding("a", "b")
        one.peers.answers = loaded
        await one.models.update("m", lambda r: r.claimed("a", one.wall_ms()))
        asking = asyncio.create_task(one.spreading.another_copy("m", 30), name="ask")
        await asyncio.sleep(0.2)
        assert one.peers.sent == []
        await one.models.update("m", lambda r: r.loaded("a", one.wall_ms()))
        assert await asking == "b"
        await one.close()

    run(main())


def test_a_copy_that_does_not_arrive_is_not_waited_for_long() -> None:
    async def main() -> None:
        one = await holding("a", "b")
        one.peers.answers = loaded
        await one.models.update("m", lambda r: r.claimed("a", one.wall_ms()))
        began = one.clock()
        assert await one.spreading.another_copy("m", 30) == "b"
        assert one.clock() - began < 5
        await one.close()

    run(main())


def test_who_refuses_is_followed_by_the_next_one_a_few_times() -> None:
    async def main() -> None:
        one = await holding("a", "b", "c", "d", "e")
        one.peers.answers = lambda sent: sent.fail(NO_SPACE)
        with pytest.raises(MeshError) as caught:
            await one.spreading.another_copy("m", 30)
        assert caught.value.failure == NO_SPACE
        assert len({sent.instance_id for sent in one.peers.sent}) == ATTEMPTS
        await one.close()

    run(main())


def test_who_is_broken_ends_it() -> None:
    async def main() -> None:
        one = await holding("a", "b")
        one.peers.answers = lambda sent: sent.fail(BROKEN)
        with pytest.raises(MeshError):
            await one.spreading.another_copy("m", 30)
        assert len(one.peers.sent) == 1
        await one.close()

    run(main())


def test_who_does_not_answer_in_time_is_left() -> None:
    async def main() -> None:
        one = await holding("a")
        began = one.clock()
        with pytest.raises(MeshError) as caught:
            await one.spreading.another_copy("m", 30)
        assert caught.value.failure.code is Code.UNAVAILABLE
        assert 30 <= one.clock() - began < 31
        assert one.peers.sent[0].given_up
        await one.close()

    run(main())


def test_who_holds_it_failed_it_leaves_or_is_to_be_avoided_is_not_asked() -> None:
    async def main() -> None:
        one = await holding("holds", "failed", "avoided")
        one.peers.add("leaves", record=ROOM.__class__(1, capacity_units=1000, draining=True))
        await one.models.update("m", lambda r: r.claimed("holds", one.wall_ms()))
        await one.models.update("m", lambda r: r.failed("failed", one.wall_ms(), "no file"))
        assert await one.spreading.another_copy("m", 30, avoid=["avoided"]) == ""
        assert one.peers.sent == []
        await one.close()

    run(main())


def test_of_what_is_registered_no_more_there_is_no_copy() -> None:
    async def main() -> None:
        one = OfMany("a")
        assert await one.spreading.another_copy("m", 30) == ""
        assert one.spreading.held_elsewhere("m"), "nobody needs it"
        await one.close()

    run(main())


def test_a_load_that_failed_there_is_tried_elsewhere() -> None:
    async def main() -> None:
        one = await holding("a", "b")
        first = True

        def answers(sent: Sent) -> None:
            nonlocal first
            failing, first = first, False
            sent.fail(LOAD_FAILED) if failing else loaded(sent)

        one.peers.answers = answers
        assert await one.spreading.another_copy("m", 30) in "ab"
        assert len(one.peers.sent) == 2
        await one.close()

    run(main())


@pytest.mark.parametrize(
    ("how", "held"),
    [("loaded", True), ("coming", False), ("silent", False), ("leaving", False), ("gone", False)],
)
def test_what_is_held_elsewhere_is_loaded_on_one_that_stays_and_answers(
    how: str, held: bool
) -> None:
    async def main() -> None:
        one = OfMany("a")
        if how == "coming":
            await one.register("m", coming=["a"])
        else:
            await one.register("m", loaded=["a", ME])
        if how == "silent":
            one.peers.known["a"].suspect = True
        elif how == "leaving":
            one.peers.add("a", record=ROOM.__class__(1, draining=True))
        elif how == "gone":
            one.peers.known.clear()
        assert one.spreading.held_elsewhere("m") is held
        await one.close()

    run(main())
