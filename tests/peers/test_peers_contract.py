"""What the Peers door promises (modelmesh/peers/door.py), over gRPC and in memory."""

import asyncio
from functools import partial

import pytest

from modelmesh.domain.fleet import Hops, Intent
from modelmesh.domain.instances import InstanceRecord
from modelmesh.errors import Code, Failure, Fault, MeshError, Reason
from modelmesh.peers.door import Peers
from modelmesh.wire.kinds import BINARY_BODY, MODEL_INFER, V2_INFER
from modelmesh.wire.transport import Call
from tests.peers.worlds import HIT, Answer, Callee, Run, World, elapse, scenario, until, virtual


def keep(call: Call) -> None:
    """Never answer."""


def now() -> float:
    return asyncio.get_running_loop().time()


@scenario
async def test_a_call_arrives_as_it_was_with_what_it_has_behind_it(world: World) -> None:
    b = Callee("b")
    await world.meet(b)
    hops = Hops(Intent.LOAD, "a", ("c", "zürich 100%"))
    forged = (("mm-hop-intent", "any"), ("mm-hop-tried", "x"), ("x-own", "1"), ("y-bin", b"\0\xff"))
    answer = world.send(body=b"\0body", hops=hops, metadata=forged, deadline=now() + 5)
    assert await answer.body() == b"\0body"
    [(model_id, arrived, call)] = b.seen
    assert (model_id, arrived) == ("m", hops)
    assert (call.kind, call.body) == (MODEL_INFER, b"\0body")
    assert sorted(call.metadata) == [("x-own", "1"), ("y-bin", b"\0\xff")]
    assert now() < call.deadline <= now() + 5.1


@scenario
async def test_a_rest_call_keeps_its_kind_and_its_answers_type(world: World) -> None:
    b = Callee("b", then=lambda call: call.reply.answer(b"x", (("n", "3"), BINARY_BODY)))
    await world.meet(b)
    answer = world.send(kind=V2_INFER)
    assert await answer.body() == b"x"
    assert b.seen[0][2].kind == V2_INFER
    assert sorted(answer.metadata) == [BINARY_BODY, ("n", "3")]


@scenario
async def test_answers_report_queue_and_time(world: World) -> None:
    b = Callee("b", queue_depth=7, then=keep)
    [peer] = await world.meet(b)
    answer = world.send()
    await until(lambda: b.seen)
    assert (peer.in_flight, peer.latency_s) == (1, 0.0)
    began = now()
    await until(lambda: now() > began + 0.03)
    b.seen[0][2].reply.answer(b"")
    await answer.body()
    assert answer.metadata == ()
    assert (peer.in_flight, peer.queue_depth) == (0, 7)
    assert 0.02 < peer.latency_s < 5
    learned_s = peer.latency_s
    b.then = lambda call: call.reply.answer(b"")
    await world.send(hops=Hops(Intent.LOAD, "a")).body()
    assert peer.latency_s == learned_s  # what was loaded first is not warm
    began = now()
    await world.send().body()
    took_s = now() - began  # little, unless the machine stands still
    assert peer.latency_s != learned_s
    assert 0 < peer.latency_s < max(learned_s, took_s)


REFUSALS = [
    Failure(Code.UNAVAILABLE, "not here", Fault.PEER, Reason.NOT_HERE),
    Failure(Code.UNAVAILABLE, "no room", Fault.CAPACITY, Reason.NO_SPACE, 1.5),
    Failure(Code.UNAVAILABLE, "plain", Fault.PEER),
    Failure(Code.INTERNAL, "crashed", Fault.MODEL, Reason.WORKER_CRASHED, executed=True),
    Failure(Code.NOT_FOUND, "no such model"),
]


@pytest.mark.parametrize("failure", REFUSALS, ids=lambda failure: failure.message)
def test_a_peers_failure_comes_back_as_it_is_and_is_no_reason_to_avoid_it(
    run: Run, failure: Failure
) -> None:
    async def act(world: World) -> None:
        b = Callee("b", queue_depth=3, then=lambda call: call.reply.finish(failure))
        [peer] = await world.meet(b)
        assert await world.send().failure() == failure
        assert peer.answers
        assert peer.queue_depth == 3

    run(act)


@scenario
async def test_what_the_handler_raises_is_a_failure(world: World) -> None:
    def refuse(call: Call) -> None:
        raise MeshError(REFUSALS[0])

    def broken(call: Call) -> None:
        raise ZeroDivisionError

    b = Callee("b", then=refuse)
    await world.meet(b)
    assert await world.send().failure() == REFUSALS[0]
    b.then = broken
    assert (await world.send().failure()).code is Code.INTERNAL


@scenario
async def test_an_unknown_instance_is_not_here(world: World) -> None:
    failure = await world.send("nobody").failure()
    assert (failure.code, failure.reason) == (Code.UNAVAILABLE, Reason.NOT_HERE)
    assert not failure.executed
    assert not await world.peers.ask_health("nobody")
    assert world.peers.get("nobody") is None


@scenario
async def test_a_refused_connection_excludes_at_once_until_it_answers(world: World) -> None:
    b = Callee("b")
    [peer] = await world.meet(b)
    await world.crash("b")
    seen: list[tuple[Failure, bool]] = []

    class Noting(Answer):
        def finish(self, failure: Failure | None = None, metadata: object = ()) -> None:
            super().finish(failure)
            assert failure is not None
            seen.append((failure, peer.answers))

    while not seen or seen[-1][0].executed:  # the first may have been on the broken connection
        answer = Noting()
        world.peers.call("b", HIT, "m", Call(MODEL_INFER, b"", answer))
        await answer.failure()
    failure, answered = seen[-1]
    assert (failure.code, failure.reason, failure.executed) == (
        Code.UNAVAILABLE, Reason.NOT_HERE, False,
    )  # fmt: skip
    assert (answered, peer.reachable) == (False, False)
    assert not await world.peers.ask_health("b")
    await world.restart("b")
    await until(lambda: peer.answers)  # nobody calls it: it is asked
    assert await world.send(body=b"x").body() == b"x"


@scenario
async def test_a_peer_that_was_never_there_is_known_not_to_be(world: World) -> None:
    b = Callee("b")
    record = await world.add(b)
    await world.crash("b")
    world.peers.update({"b": record})
    peer = world.peers.get("b")
    assert peer is not None
    assert peer.reachable  # until it is known better
    await until(lambda: not peer.reachable)
    await world.restart("b")
    await until(lambda: peer.answers)


@scenario
async def test_a_connection_that_is_not_made_costs_a_call_little(world: World) -> None:
    b = Callee("b")
    record = await world.add(b)
    world.block("b", there=True, back=True)
    world.peers.update({"b": record})
    began = now()
    failure = await world.send().failure()
    assert now() - began < 5
    assert (failure.code, failure.reason) == (Code.UNAVAILABLE, Reason.NOT_HERE)
    assert not failure.executed
    assert b.seen == []


async def suspected(world: World, **ways: bool) -> None:
    b = Callee("b", then=keep)
    [peer] = await world.meet(b)
    told: list[int] = []
    answers = [world.send(on_suspect=partial(told.append, n)) for n in range(3)]
    await until(lambda: len(b.seen) == 3)
    world.block("b", **ways)
    asked = b.health
    began = now()
    await until(lambda: not peer.answers)
    assert now() - began > 0.2
    assert peer.suspect
    assert sorted(told) == [0, 1, 2]
    if ways.get("there"):
        assert b.health <= asked + 1  # two were missed, but one may have been on its way before
    late = world.send(on_suspect=partial(told.append, 3))
    await until(lambda: 3 in told or late.ends)  # never connected, or told at the next miss
    world.unblock("b")
    await until(lambda: peer.answers)
    for _, _, call in b.seen:
        call.reply.answer(b"late")
    for answer in answers:  # on the old connection, which healed as well
        assert await answer.body() == b"late"
    assert sorted(told)[:3] == [0, 1, 2]
    assert len(told) == len(set(told))


@scenario
async def test_a_peer_that_falls_silent_is_a_suspect_until_it_answers(world: World) -> None:
    await suspected(world, there=True, back=True)


@scenario
async def test_a_peer_that_cannot_hear_is_a_suspect(world: World) -> None:
    await suspected(world, there=True)


@scenario
async def test_a_peer_that_cannot_speak_is_a_suspect(world: World) -> None:
    await suspected(world, back=True)


@scenario
async def test_a_connection_that_is_dead_for_good_is_replaced(world: World) -> None:
    """As after a firewall that forgot it: only a new one gets through."""
    b = Callee("b")
    [peer] = await world.meet(b)
    assert world.freeze("b") >= 1
    told: list[int] = []
    swallowed = world.send(on_suspect=lambda: told.append(1))
    await until(lambda: told)
    await until(lambda: peer.answers)
    assert await world.send(body=b"x").body() == b"x"
    assert (swallowed.ends, len(b.seen), peer.in_flight) == ([], 1, 1)


@scenario
async def test_who_answers_calls_is_alive_though_deaf_to_questions(world: World) -> None:
    b = Callee("b", then=keep)
    [peer] = await world.meet(b)
    b.deaf = True
    answer = world.send()
    await until(lambda: peer.suspect)
    assert len(b.unheard) >= 2
    await until(lambda: b.unheard[0].reply.gone)  # nobody waits for an answer any more
    b.seen[0][2].reply.answer(b"")
    await answer.body()
    assert peer.answers


@virtual
async def test_only_who_still_waits_is_told(world: World) -> None:
    b = Callee("b", then=keep)
    await world.meet(b)
    told: list[int] = []
    other = Answer()

    def first() -> None:
        told.append(1)
        give_up()

    world.send(on_suspect=first)
    second = Call(MODEL_INFER, b"", other)
    give_up = world.peers.call("b", HIT, "m", second, lambda: told.append(2))
    await until(lambda: len(b.seen) == 2)
    world.block("b", there=True)
    await until(lambda: told)
    await elapse(60)
    assert told == [1]


@scenario
async def test_a_long_predict_is_no_reason_for_suspicion(world: World) -> None:
    b = Callee("b", then=keep)
    [peer] = await world.meet(b)
    asked, told = b.health, []
    answer = world.send(on_suspect=lambda: told.append(1))
    await until(lambda: b.health >= asked + 5)
    assert peer.answers
    b.seen[0][2].reply.answer(b"done")
    assert await answer.body() == b"done"
    assert told == []


@virtual
async def test_nobody_is_asked_while_nobody_waits(world: World) -> None:
    b = Callee("b")
    await world.meet(b)
    await world.send().body()
    asked = b.health
    await elapse(3600)
    assert b.health == asked


@scenario
async def test_a_broken_connection_may_have_delivered_the_call(world: World) -> None:
    b = Callee("b", then=keep)
    [peer] = await world.meet(b)
    answer = world.send()
    await until(lambda: b.seen)
    asked = b.health
    assert world.cut("b") >= 1
    failure = await answer.failure()
    assert (failure.code, failure.executed) == (Code.UNAVAILABLE, True)
    assert failure.reason is Reason.NONE
    assert peer.in_flight == 0
    await until(lambda: b.health > asked)  # asked at once, on a new connection
    await until(lambda: peer.answers)
    b.then = lambda call: call.reply.answer(b"again")
    assert await world.send().body() == b"again"


@scenario
async def test_a_caller_that_leaves_leaves_at_the_peer(world: World) -> None:
    b = Callee("b", then=keep)
    [peer] = await world.meet(b)
    answer, given_up = world.send(), Answer()
    give_up = world.peers.call("b", HIT, "m", Call(MODEL_INFER, b"", given_up))
    await until(lambda: len(b.seen) == 2)
    answer.leave()
    give_up()
    assert peer.in_flight == 0
    await until(lambda: all(call.reply.gone for _, _, call in b.seen))
    assert (answer.ends, given_up.ends) == ([], [])
    gone = Answer()
    gone.leave()
    world.peers.call("b", HIT, "m", Call(MODEL_INFER, b"", gone))
    assert await world.peers.ask_health("b")
    assert (peer.in_flight, len(b.seen)) == (0, 2)


@scenario
async def test_a_deadline_ends_the_call_at_both_ends(world: World) -> None:
    b = Callee("b", then=keep)
    [peer] = await world.meet(b)
    for wait_s in (0.2, 2.0, 10.0):
        failure = await world.send(deadline=now() + wait_s).failure()
        assert failure.code is Code.DEADLINE_EXCEEDED
        assert (peer.in_flight, peer.answers) == (0, True)
        if b.seen:
            break  # else the time was up before it had arrived
    await until(lambda: b.seen[0][2].reply.gone)


@scenario
async def test_peers_are_kept_in_place_while_they_exist(world: World) -> None:
    b, c = Callee("b", then=keep), Callee("c")
    [peer, other] = await world.meet(b, c)
    assert set(world.peers.all()) == {peer, other}
    answer = world.send()
    await until(lambda: b.seen)
    newer = InstanceRecord(start_ms=1, model_count=9, address=peer.record.address)
    world.peers.update({"a": newer, "b": newer, "c": other.record})
    assert world.peers.get("b") is peer
    assert peer.record is newer
    assert world.peers.get("a") is None  # this daemon is no peer of its own
    world.peers.update({"c": other.record})
    assert set(world.peers.all()) == {other}
    assert (await world.send("b").failure()).reason is Reason.NOT_HERE
    b.seen[0][2].reply.answer(b"after all")
    assert await answer.body() == b"after all"
    assert peer.in_flight == 0


@scenario
async def test_a_silent_peer_that_is_gone_is_suspected_all_the_same(world: World) -> None:
    b = Callee("b", then=keep)
    [peer] = await world.meet(b)
    told: list[int] = []
    world.send(on_suspect=lambda: told.append(1))
    await until(lambda: b.seen)
    world.peers.update({})
    world.block("b", there=True, back=True)
    await until(lambda: told)
    assert peer.suspect


@scenario
async def test_a_peer_that_moved_is_called_where_it_is(world: World) -> None:
    before, after = Callee("b", then=keep), Callee("b")
    [peer] = await world.meet(before)
    old = world.send()
    await until(lambda: before.seen)
    world.peers.update({"b": await world.add(after)})
    assert world.peers.get("b") is peer
    assert await world.send(body=b"x").body() == b"x"
    before.seen[0][2].reply.answer(b"y")
    assert await old.body() == b"y"
    assert (len(before.seen), len(after.seen)) == (1, 1)


@scenario
async def test_a_call_to_a_peer_that_moved_to_nowhere_is_told(world: World) -> None:
    before, after = Callee("b", then=keep), Callee("b")
    [peer] = await world.meet(before)
    told: list[int] = []
    world.send(on_suspect=lambda: told.append(1))
    await until(lambda: before.seen)
    nowhere = await world.add(after)
    await world.crash("b")
    world.peers.update({"b": nowhere})
    await until(lambda: told)
    assert not peer.reachable
    assert not peer.suspect


@scenario
async def test_links_are_closed_once_their_calls_have_ended(world: World) -> None:
    b, c = Callee("b", then=keep), Callee("c")
    await world.meet(b, c)
    answer = world.send()
    await until(lambda: b.seen)
    world.peers.update({})
    await until(lambda: world.connections("c") == 0)
    assert world.connections("b") == 1
    b.seen[0][2].reply.answer(b"")
    await answer.body()
    await until(lambda: world.connections("b") == 0)


@scenario
async def test_a_link_that_was_replaced_is_closed_once_its_calls_have_ended(world: World) -> None:
    b = Callee("b", then=keep)
    [peer] = await world.meet(b)
    answer = world.send()
    await until(lambda: b.seen)
    b.deaf = True
    await until(lambda: peer.suspect)
    b.deaf = False
    await until(lambda: peer.answers)
    assert world.connections("b") == 2
    b.seen[0][2].reply.answer(b"on the old one")
    assert await answer.body() == b"on the old one"
    await until(lambda: world.connections("b") == 1)


@scenario
async def test_somebody_else_at_its_address_is_not_the_peer(world: World) -> None:
    other = Callee("other")
    record = await world.add(other)
    world.peers.update({"b": record})
    assert not await world.peers.ask_health("b")
    peer = world.peers.get("b")
    assert peer is not None
    assert not peer.reachable
    found = [await world.peers.identify(record.address) for _ in range(5)]
    assert set(found) - {None} == {"other"}  # who stands still for a second is nobody
    await world.crash("other")
    assert await world.peers.identify(record.address) is None


@scenario
async def test_a_callback_that_fails_harms_nobody_else(world: World) -> None:
    b = Callee("b", then=keep)
    await world.meet(b)
    told: list[int] = []

    def fail() -> None:
        told.append(0)
        raise ZeroDivisionError

    world.send(on_suspect=fail)
    world.send(on_suspect=lambda: told.append(1))
    await until(lambda: len(b.seen) == 2)
    world.block("b", back=True)
    await until(lambda: len(told) == 2)
    assert told == [0, 1]


@scenario
async def test_it_is_a_peers_door(world: World) -> None:
    door: Peers = world.peers
    assert list(door.all()) == []
