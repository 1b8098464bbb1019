"""Calls that are not answered where they came in: handed on, refused, repeated, and ended once."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from modelmesh.domain.fleet import Hops, Intent
from modelmesh.errors import Code, Failure, Fault, MeshError, Reason, not_found
from modelmesh.simulation.clock import run
from modelmesh.wire.awaiting import FutureReply
from modelmesh.wire.kinds import V1_PREDICT
from modelmesh.wire.transport import Call
from tests.serving.doors import LOAD_FAILED
from tests.serving.fleet_of_many import ME, ROOM, OfMany, Sent, answered
from tests.serving.fleet_of_one import until

NOT_HERE = Failure(Code.UNAVAILABLE, "no copy here", Fault.PEER, Reason.NOT_HERE)
VANISHED = Failure(Code.UNAVAILABLE, "connection lost", Fault.PEER, executed=True)
MODEL_ERROR = Failure(
    Code.INVALID_ARGUMENT, "bad rows", Fault.MODEL, Reason.MODEL_ERROR, executed=True
)

Scenario = Callable[[OfMany], Coroutine[Any, Any, None]]


def member(*others: str) -> Callable[[Scenario], Callable[[], None]]:
    """Run the scenario for one member beside these, in virtual time."""

    def decorate(scenario: Scenario) -> Callable[[], None]:
        async def main() -> None:
            one = OfMany(*others)
            try:
                await scenario(one)
            finally:
                await one.close()

        def test() -> None:
            run(main())

        return test

    return decorate


def failure_of(reply: FutureReply) -> Failure:
    error = reply.future.exception()
    assert isinstance(error, MeshError)
    return error.failure


def asked(one: OfMany) -> list[tuple[str, Intent]]:
    return [(sent.instance_id, sent.hops.intent) for sent in one.peers.sent]


@member("a")
async def test_a_copy_elsewhere_answers(one: OfMany) -> None:
    await one.register("m", loaded=["a"])
    reply = one.ask("m", deadline=one.clock() + 9)
    (sent,) = one.peers.sent
    assert (sent.instance_id, sent.hops) == ("a", Hops(Intent.HIT, ME))
    assert (sent.call.kind, sent.call.deadline) == (V1_PREDICT, one.clock() + 9)
    sent.answer(b"from a")
    assert await answered(reply) == b"from a"
    assert one.instance.open_calls == 0


@member("a", "b")
async def test_who_refuses_is_not_asked_again_for_this_call(one: OfMany) -> None:
    await one.register("m", loaded=["a", "b"])
    one.peers.answers = lambda sent: sent.fail(NOT_HERE)
    assert await answered(one.ask("m")) == b"m", "it was loaded here, as nobody has it"
    assert sorted(name for name, _ in asked(one)) == ["a", "b"]
    assert one.peers.sent[1].hops.tried == (one.peers.sent[0].instance_id,)
    assert not one.view.counts("m", "a")


@member("a")
async def test_a_caller_that_leaves_leaves_the_peer_too(one: OfMany) -> None:
    await one.register("m", loaded=["a"])
    reply = one.ask("m")
    (sent,) = one.peers.sent
    reply.leave()
    assert sent.given_up
    assert one.instance.open_calls == 0


@member("a")
async def test_between_daemons_is_never_said_to_a_caller(one: OfMany) -> None:
    one.record = one.peers.known["a"].record
    await one.register("m", loaded=["a"])
    one.view.draining = True
    one.peers.answers = lambda sent: sent.fail(NOT_HERE)
    with pytest.raises(MeshError) as caught:
        await answered(one.ask("m"))
    assert caught.value.failure.reason is not Reason.NOT_HERE
    assert caught.value.failure.code is Code.UNAVAILABLE


@member("a")
async def test_a_sender_hears_that_it_is_not_here(one: OfMany) -> None:
    await one.register("m", loaded=["a"])
    reply = one.ask("m", Hops(Intent.HIT, "a"))
    assert failure_of(reply).reason is Reason.NOT_HERE
    assert one.peers.sent == [], "it was handed on twice"


@member("a")
async def test_what_a_model_answered_is_the_answer(one: OfMany) -> None:
    await one.register("m", loaded=["a"])
    reply = one.ask("m")
    one.peers.sent[0].fail(MODEL_ERROR)
    assert failure_of(reply) == MODEL_ERROR


@member("a", "b")
async def test_who_vanished_with_a_call_has_it_repeated_once(one: OfMany) -> None:
    await one.register("m", loaded=["a", "b"])
    reply = one.ask("m")
    first = one.peers.sent[0]
    first.fail(VANISHED)
    await until(lambda: len(one.peers.sent) == 2)
    assert one.peers.sent[1].instance_id != first.instance_id, "it was sent to the dead again"
    one.peers.sent[1].fail(VANISHED)
    assert failure_of(reply) == VANISHED


@member("a")
async def test_where_only_a_connection_broke_the_same_daemon_is_asked_again(one: OfMany) -> None:
    await one.register("m", loaded=["a"])
    one.peers.healthy = {"a"}
    reply = one.ask("m")
    one.peers.sent[0].fail(VANISHED)
    await until(lambda: len(one.peers.sent) == 2)
    assert one.peers.sent[1].instance_id == "a"
    one.peers.sent[1].answer(b"done")
    assert await answered(reply) == b"done"


@member("a", "b")
async def test_who_refused_before_another_one_vanished_may_have_it_now(one: OfMany) -> None:
    """Simulation, seed 2111: it lost a claim to the daemon that died, and has the next one."""
    await one.register("m")
    one.view.draining = True
    reply = one.ask("m")
    loser = one.peers.sent[0].instance_id
    winner = "b" if loser == "a" else "a"
    await one.models.update("m", lambda record: record.claimed(winner, one.wall_ms()))
    one.peers.sent[0].fail(NOT_HERE)
    await until(lambda: len(one.peers.sent) == 2)
    await one.models.update("m", lambda record: record.claimed(loser, one.wall_ms()))
    one.peers.sent[1].fail(VANISHED)
    await until(lambda: len(one.peers.sent) == 3)
    assert asked(one)[1:] == [(winner, Intent.HIT), (loser, Intent.HIT)]
    one.peers.sent[2].answer(b"loaded there")
    assert await answered(reply) == b"loaded there"


@member("a", "b")
async def test_what_may_not_be_repeated_is_not(one: OfMany) -> None:
    await one.register("m", loaded=["a", "b"])
    reply = one.ask("m", metadata=(("mm-idempotent", "false"),))
    one.peers.suspect(one.peers.sent[0].instance_id)
    assert len(one.peers.sent) == 1
    one.peers.sent[0].fail(VANISHED)
    assert failure_of(reply) == VANISHED


@member("a", "b")
async def test_of_a_repeated_call_the_first_answer_counts_and_the_other_is_given_up(
    one: OfMany,
) -> None:
    await one.register("m", loaded=["a", "b"])
    for first in (0, 1):
        for peer in one.peers.known.values():
            peer.suspect = False
        one.peers.sent.clear()
        reply = one.ask("m")
        one.peers.suspect(one.peers.sent[0].instance_id)
        assert len({sent.instance_id for sent in one.peers.sent}) == 2
        one.peers.sent[first].answer(b"done")
        assert await answered(reply) == b"done"
        assert one.peers.sent[1 - first].given_up, "it would work for nobody"


@member("a")
async def test_who_fell_silent_is_given_up_when_the_call_is_answered_here(one: OfMany) -> None:
    await one.register("m", loaded=["a"])
    reply = one.ask("m")
    one.peers.suspect("a")
    assert await answered(reply) == b"m"
    assert one.peers.sent[0].given_up


@member("a")
async def test_who_fell_silent_may_still_answer_where_nobody_else_can(one: OfMany) -> None:
    await one.register("m", loaded=["a"])
    one.view.draining = True
    reply = one.ask("m")
    one.peers.suspect("a")
    assert not reply.future.done(), "there is nobody else, and it may only be slow"
    one.peers.sent[0].answer(b"late")
    assert await answered(reply) == b"late"


@member("a")
async def test_who_fell_silent_may_still_fail_where_nobody_else_can(one: OfMany) -> None:
    await one.register("m", loaded=["a"])
    one.view.draining = True
    reply = one.ask("m")
    one.peers.suspect("a")
    one.peers.sent[0].fail(VANISHED)
    assert failure_of(reply).code is Code.UNAVAILABLE
    assert one.instance.open_calls == 0


@member("a", "b")
async def test_who_fell_silent_may_still_answer_when_the_other_one_fails(one: OfMany) -> None:
    await one.register("m", loaded=["a", "b"])
    reply = one.ask("m")
    one.peers.suspect(one.peers.sent[0].instance_id)
    one.peers.sent[1].fail(VANISHED)
    assert not reply.future.done()
    one.peers.sent[0].answer(b"late")
    assert await answered(reply) == b"late"


@member("a", "b")
async def test_who_fell_silent_is_asked_again_once_it_answers_and_nobody_else_will(
    one: OfMany,
) -> None:
    one.record = replace(ROOM, loading=50)
    await one.register("m", loaded=["a"])
    reply = one.ask("m")
    one.peers.suspect("a")
    assert asked(one)[1:] == [("b", Intent.LOAD)]
    one.peers.known["a"].suspect = False
    one.peers.sent[1].fail(NOT_HERE)  # b has seen no silence: a has it
    await until(lambda: len(one.peers.sent) == 3 or reply.future.done())
    assert asked(one)[2:] == [("a", Intent.HIT)]
    one.peers.sent[2].answer(b"done")
    assert await answered(reply) == b"done"
    assert one.peers.sent[0].given_up


@member("a", "b")
async def test_for_a_model_that_is_gone_nobody_waits_who_fell_silent_with_it(one: OfMany) -> None:
    """Seed 3164: whoever called it by a vmodel's name is to be told at once, and asks anew."""
    await one.register("m", loaded=["a"])
    one.record = replace(ROOM, loading=50)
    reply = one.ask("m")
    one.peers.suspect("a")
    one.peers.sent[1].fail(not_found().failure)
    assert failure_of(reply).code is Code.NOT_FOUND
    assert one.peers.sent[0].given_up


@member("a")
async def test_a_call_of_which_something_was_answered_is_not_repeated(one: OfMany) -> None:
    await one.register("m", loaded=["a"])
    reply = one.ask("m")
    (sent,) = one.peers.sent
    sent.call.reply.send(b"first of many")
    one.peers.suspect("a")
    assert len(one.peers.sent) == 1
    sent.fail(VANISHED)
    assert failure_of(reply) == VANISHED


@member("a", "b")
async def test_a_load_that_failed_there_is_tried_elsewhere_and_the_model_blamed(
    one: OfMany,
) -> None:
    await one.register("m")
    one.view.draining = True
    one.peers.answers = lambda sent: sent.fail(LOAD_FAILED)
    reply = one.ask("m")
    assert {name for name, _ in asked(one)} == {"a", "b"}
    assert failure_of(reply) == LOAD_FAILED


@member("a")
async def test_the_number_of_attempts_is_bounded(one: OfMany) -> None:
    await one.register("m", loaded=["a"])
    one.view.draining = True

    def refuse(sent: Sent) -> None:
        sent.fail(NOT_HERE)

    one.peers.add(*(f"p{n}" for n in range(50)))
    one.peers.answers = refuse
    reply = one.ask("m")
    await until(reply.future.done)
    assert failure_of(reply).code is Code.UNAVAILABLE
    assert failure_of(reply).reason is Reason.NONE
    assert len(one.peers.sent) == 8


@member(*(f"p{n}" for n in range(12)))
async def test_where_all_others_see_a_copy_that_is_out_of_reach_from_here_it_is_loaded_here(
    one: OfMany,
) -> None:
    one.record = replace(ROOM, loading=50)  # anybody else would be the better place
    await one.register("m", loaded=["p0"])
    one.peers.known["p0"].suspect = True
    one.peers.answers = lambda sent: sent.fail(NOT_HERE)
    assert await answered(one.ask("m")) == b"m"
    assert [intent for _, intent in asked(one)] == [Intent.LOAD] * 7


# --- the store is asked


@member("a")
async def test_what_the_table_lacks_is_asked_of_the_store_once(one: OfMany) -> None:
    reply = one.ask("m")
    await until(reply.future.done)
    assert failure_of(reply).code is Code.NOT_FOUND
    assert one.looked == ["m"]


@member("a")
async def test_who_could_not_be_looked_for_is_not_called_unknown(one: OfMany) -> None:
    busy = Failure(Code.RESOURCE_EXHAUSTED, "too many are being looked up", Fault.STORE)
    one.look_fails = MeshError(busy)
    reply = one.ask("m")
    await until(reply.future.done)
    assert failure_of(reply) == busy


@member("a")
async def test_a_look_that_breaks_lets_the_tables_decide(one: OfMany) -> None:
    one.look_fails = ValueError("broken")
    reply = one.ask("m")
    await until(reply.future.done)
    assert failure_of(reply).code is Code.NOT_FOUND


@member("a")
async def test_a_caller_that_leaves_while_the_store_is_asked_costs_nothing(one: OfMany) -> None:
    reply = one.ask("m")
    reply.leave()
    assert one.instance.open_calls == 0
    await asyncio.sleep(1)
    assert one.peers.sent == []


# --- loads here


@member("a")
async def test_who_waits_in_vain_for_a_claim_goes_to_the_winner(one: OfMany) -> None:
    await one.register("m")
    reply = one.ask("m")
    await one.models.update("m", lambda record: record.claimed("a", one.wall_ms()))
    await until(lambda: len(one.peers.sent) == 1)
    assert asked(one) == [("a", Intent.HIT)]
    one.peers.sent[0].answer(b"from a")
    assert await answered(reply) == b"from a"


@member("a")
async def test_the_winner_of_a_claim_is_asked_though_he_refused_before(one: OfMany) -> None:
    """Seed 7256: when he refused he still saw the copy of one who is silent to us."""
    await one.register("m")
    one.record = replace(ROOM, loading=50)
    reply = one.ask("m")
    one.peers.sent[0].fail(NOT_HERE)
    await one.models.update("m", lambda record: record.claimed("a", one.wall_ms()))
    await until(lambda: len(one.peers.sent) == 2 or reply.future.done())
    assert asked(one) == [("a", Intent.LOAD), ("a", Intent.HIT)]
    one.peers.sent[1].answer(b"from a")
    assert await answered(reply) == b"from a"


@member("a")
async def test_who_failed_to_load_it_is_not_taken_for_the_winner(one: OfMany) -> None:
    """Seed 815: the record shows his claim until he has said that he failed."""
    await one.register("m")
    one.record = replace(ROOM, loading=50)
    reply = one.ask("m")
    await one.models.update("m", lambda record: record.claimed("a", one.wall_ms()))
    one.peers.sent[0].fail(LOAD_FAILED)
    await until(lambda: len(one.peers.sent) == 2 or reply.future.done())
    assert asked(one) == [("a", Intent.LOAD)]


@member("a")
async def test_who_waits_in_vain_here_is_helped_elsewhere(one: OfMany) -> None:
    await one.register("m")
    one.runtime.failing.add("m")
    reply = one.ask("m")
    await until(lambda: len(one.peers.sent) == 1)
    assert asked(one) == [("a", Intent.LOAD)]
    assert one.peers.sent[0].hops.tried == (ME,)
    one.peers.sent[0].answer(b"from a")
    assert await answered(reply) == b"from a"


def test_a_call_counts_once_however_often_it_is_tried() -> None:
    async def main() -> None:
        one = OfMany("a", "b")
        await one.register("m", loaded=["a", "b"])
        reply = one.ask("m")
        one.peers.sent[0].fail(VANISHED)
        await until(lambda: len(one.peers.sent) == 2)
        assert one.instance.open_calls == 1
        one.peers.sent[1].answer(b"done")
        assert await answered(reply) == b"done"
        assert one.instance.calls_ended == 1
        reply = FutureReply()
        one.instance.infer("m", Call(V1_PREDICT, b"x", reply))
        reply.leave()
        assert one.instance.calls_ended == 2
        assert one.instance.open_calls == 0
        await one.close()

    run(main())
