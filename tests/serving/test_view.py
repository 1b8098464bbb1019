"""What routing sees: what this daemon sent lately, who refused, and copies that bind."""

import asyncio
from dataclasses import replace

from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Failure
from modelmesh.policy.placement import Sent
from modelmesh.registry.store import MODELS, Put
from modelmesh.serving.view import PLACING_S, REFUSED_S, Placing
from modelmesh.simulation.clock import run
from tests.serving.fleet_of_many import ME, ROOM, OfMany, answered


def test_loads_that_were_sent_count_until_their_records_can_show_them() -> None:
    now = 100.0
    placing = Placing(lambda: now)
    placing.note("a", 10)
    placing.note("a", 5)
    placing.note("b", 7)
    assert placing.totals() == {"a": Sent(2, 15), "b": Sent(1, 7)}
    placing.published("a")
    assert placing.totals() == {"b": Sent(1, 7)}
    now += PLACING_S / 2
    placing.note("b", 1)
    assert placing.totals() == {"b": Sent(2, 8)}
    now += PLACING_S / 2
    assert placing.totals() == {"b": Sent(1, 1)}
    now += PLACING_S / 2
    assert placing.totals() == {}
    placing.note("b", 3)
    now += PLACING_S - 0.1
    assert placing.totals() == {"b": Sent(1, 3)}
    now += 0.1
    assert placing.totals() == {}


def test_who_said_that_he_holds_nothing_binds_nobody_for_a_while() -> None:
    async def main() -> None:
        one = OfMany("a")
        assert one.view.counts("m", "a")
        one.view.note_refused("m", "a")
        assert not one.view.counts("m", "a")
        assert one.view.counts("other", "a")
        await asyncio.sleep(REFUSED_S)
        assert one.view.counts("m", "a")
        await one.close()

    run(main())


def test_only_who_exists_and_answers_binds() -> None:
    async def main() -> None:
        one = OfMany("a")
        assert not one.view.counts("m", "nobody")
        one.peers.known["a"].reachable = False
        assert not one.view.counts("m", "a")
        one.peers.known["a"].reachable = True
        one.peers.known["a"].suspect = True
        assert not one.view.counts("m", "a")
        await one.close()

    run(main())


def test_a_load_begun_here_counts_before_it_is_published() -> None:
    async def main() -> None:
        one = OfMany("a")
        await one.register("m")
        one.view.note_begun("m")
        one.view.note_begun("unknown")
        assert one.view.placing == {ME: Sent(1, 100)}
        one.view.published(ME)
        assert one.view.placing == {}
        await one.close()

    run(main())


def test_who_is_leaving_says_so_before_it_is_published() -> None:
    async def main() -> None:
        one = OfMany()
        assert one.view.my_record is ROOM
        one.view.draining = True
        assert one.view.my_record == replace(ROOM, draining=True)
        await one.close()

    run(main())


def test_times_of_records_and_of_the_clock_are_told_apart() -> None:
    async def main() -> None:
        one = OfMany()
        await asyncio.sleep(5)
        assert one.view.record_ms(one.clock() - 2) == one.wall_ms() - 2000
        await one.close()

    run(main())


def test_a_record_that_cannot_be_read_is_none() -> None:
    async def main() -> None:
        one = OfMany("a")
        await one.store.commit([], [Put(MODELS + "m", b"no json")])
        assert one.view.record("m") is None
        await one.close()

    run(main())


def test_a_call_here_costs_more_the_more_are_open() -> None:
    async def main() -> None:
        one = OfMany()
        await one.register("m")
        await answered(one.ask("m"))
        for _ in range(100):
            one.view.answered(0.5)
        idle_s = one.view.my_load_s("m")
        assert 0.4 < idle_s < 0.6
        one.runtime.answer_at_once = False
        replies = [one.ask("m") for _ in range(3)]
        assert one.view.my_load_s("m") == 4 * idle_s
        for call in one.runtime.running:
            call.reply.finish(Failure(Code.UNKNOWN, "enough"))
        assert all(reply.future.exception() for reply in replies)
        await one.close()

    run(main())


def test_what_is_known_of_a_model_says_how_much_it_weighs() -> None:
    async def main() -> None:
        one = OfMany()
        await one.register("m")
        assert one.view.weigh("m", ModelRecord("dummy")).size_bytes == 100
        one.runtime.size_bytes = 321
        await answered(one.ask("m"))
        assert one.view.weigh("m", ModelRecord("dummy")).size_bytes == 321
        await one.close()

    run(main())
