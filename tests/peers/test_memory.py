"""The network in memory: faults that only a simulation can time, and that they bite."""

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.domain.instances import InstanceRecord
from modelmesh.errors import Code
from modelmesh.peers.memory import MemoryLink, MemoryNetwork
from modelmesh.simulation import clock
from modelmesh.wire.transport import NO_DEADLINE, Call
from tests.peers.worlds import Answer, Callee, elapse, until


class Place:
    """A daemon at an address: remembers calls, and answers them unless told to keep them."""

    def __init__(self, network: MemoryNetwork, address: str, keeps: bool = False) -> None:
        self.seen: list[tuple[float, Call]] = []
        self.lists = 0
        self.keeps = keeps
        network.listen(address, self.handle)

    def handle(self, calls: list[Call]) -> None:
        self.lists += 1
        for call in calls:
            self.seen.append((asyncio.get_running_loop().time(), call))
            if not self.keeps:
                call.reply.answer(call.body)


def send(link: MemoryLink, body: bytes = b"", deadline: float = NO_DEADLINE) -> Answer:
    answer = Answer()
    link.start(Call("/k", body, answer, deadline=deadline))
    return answer


def run(act: Any) -> Any:
    async def main() -> Any:
        return await act(MemoryNetwork(random.Random(7), delay_s=0.001))

    return clock.run(main())


def simulated(act: Any) -> Any:
    def test() -> None:
        run(act)

    test.__name__, test.__doc__ = act.__name__, act.__doc__
    return test


def now() -> float:
    return asyncio.get_running_loop().time()


@simulated
async def test_calls_of_one_turn_arrive_together(network: MemoryNetwork) -> None:
    place, link = Place(network, "b"), network.link("a", "b")
    await send(link).body()
    answers = [send(link, b"%d" % n) for n in range(5)]
    assert [await answer.body() for answer in answers] == [b"%d" % n for n in range(5)]
    assert place.lists == 2


@simulated
async def test_an_answer_that_is_cut_was_executed(network: MemoryNetwork) -> None:
    place, link = Place(network, "b"), network.link("a", "b")
    network.cut_answers("b", "a")
    failure = await send(link).failure()
    assert (failure.code, failure.executed) == (Code.UNAVAILABLE, True)
    assert (len(place.seen), network.struck["cut_answers"]) == (1, 1)
    assert await send(link, b"x").body() == b"x"


@simulated
async def test_answers_are_cut_until_they_may_pass(network: MemoryNetwork) -> None:
    place, link = Place(network, "b"), network.link("a", "b")
    network.cut_answers("b", "a", inf)
    for _ in range(3):
        assert (await send(link).failure()).executed
    assert (len(place.seen), network.struck["cut_answers"]) == (3, 3)
    network.pass_answers("b", "a")
    assert await send(link, b"x").body() == b"x"


@simulated
async def test_a_slow_way_keeps_the_order(network: MemoryNetwork) -> None:
    place, link = Place(network, "b"), network.link("a", "b")
    await send(link).body()
    network.delay("a", "b", 0.1, jitter_s=1.0)
    began = now()
    answers = [send(link, b"%d" % n) for n in range(20)]
    for answer in answers:
        await answer.body()
    assert [call.body for _, call in place.seen[1:]] == [b"%d" % n for n in range(20)]
    assert all(0.1 <= at - began <= 1.2 for at, _ in place.seen[1:])


@simulated
async def test_a_paused_daemon_takes_and_says_nothing_until_it_wakes(
    network: MemoryNetwork,
) -> None:
    place, link = Place(network, "b", keeps=True), network.link("a", "b")
    before = send(link, b"before")
    await until(lambda: place.seen)
    network.pause("b")
    during = send(link, b"during")
    place.seen[0][1].reply.answer(b"said while paused")
    fresh = send(network.link("a", "b"))
    assert (await fresh.failure()).executed is False  # nobody shakes hands
    await elapse(1)
    assert (before.ends, len(place.seen)) == ([], 1)
    assert network.struck["held"] == 2
    network.resume("b")
    assert await before.body() == b"said while paused"
    await until(lambda: len(place.seen) == 2)
    assert during.ends == []


@simulated
async def test_a_connection_that_is_silent_too_long_is_given_up(network: MemoryNetwork) -> None:
    place, link = Place(network, "b", keeps=True), network.link("a", "b")
    answer = send(link)
    await until(lambda: place.seen)
    network.block("b", "a")
    place.seen[0][1].reply.answer(b"never arrives")
    waiting = send(link)
    began = now()
    failure = await answer_of(answer, 60)
    assert (failure.code, failure.executed) == (Code.UNAVAILABLE, True)
    assert 12 < now() - began < 30
    assert (await waiting.failure()).executed
    assert place.seen[1][1].reply.gone
    assert network.struck["silence"] == 1
    network.unblock("b", "a")
    place.keeps = False
    assert await send(link, b"x").body() == b"x"
    assert answer.bodies == []


async def answer_of(answer: Answer, bound_s: float) -> Any:
    await until(lambda: answer.ends, bound_s)
    return answer.ends[0]


@simulated
async def test_a_long_answer_is_no_silence(network: MemoryNetwork) -> None:
    place, link = Place(network, "b", keeps=True), network.link("a", "b")
    answer = send(link)
    await elapse(3600)
    place.seen[0][1].reply.answer(b"at last")
    assert await answer.body() == b"at last"


@simulated
async def test_the_dead_hear_nothing(network: MemoryNetwork) -> None:
    a, b = Place(network, "a", keeps=True), Place(network, "b", keeps=True)
    of_a, of_b = send(network.link("a", "b")), send(network.link("b", "a"))
    await until(lambda: a.seen and b.seen)
    network.crash("a")
    failure = await of_b.failure()
    assert (failure.code, failure.executed) == (Code.UNAVAILABLE, True)
    assert b.seen[0][1].reply.gone
    assert network.struck["crash"] == 2
    await elapse(1)
    assert (of_a.ends, a.seen[0][1].reply.gone) == ([], False)
    refused = await send(network.link("b", "a")).failure()
    assert (refused.executed, network.struck["refused"]) == (False, 1)


@simulated
async def test_a_deadline_that_passes_on_the_way_ends_the_call(network: MemoryNetwork) -> None:
    place, link = Place(network, "b"), network.link("a", "b")
    await send(link).body()
    network.delay("a", "b", 5)
    began = now()
    failure = await send(link, deadline=now() + 1).failure()
    assert failure.code is Code.DEADLINE_EXCEEDED
    assert now() - began == pytest.approx(1, abs=0.1)
    assert (await send(link, deadline=now()).failure()).code is Code.DEADLINE_EXCEEDED
    await elapse(10)
    assert all(call.reply.gone for _, call in place.seen)


@simulated
async def test_who_stopped_listening_keeps_its_connections(network: MemoryNetwork) -> None:
    Place(network, "b")
    link = network.link("a", "b")
    await send(link).body()
    network.unlisten("b")
    assert await send(link, b"x").body() == b"x"
    assert not (await send(network.link("c", "b")).failure()).executed


@simulated
async def test_who_drains_answers_what_it_has_and_takes_nothing_new(network: MemoryNetwork) -> None:
    place, link = Place(network, "b", keeps=True), network.link("a", "b")
    runs = send(link, b"runs")
    await until(lambda: place.seen)
    network.drain("b")
    crosses = send(link, b"crosses")
    await until(lambda: len(place.seen) == 2)
    failure = await send(link, b"late").failure()
    assert (failure.code, failure.executed) == (Code.UNAVAILABLE, False)
    assert not network.drained("b")
    for _, call in place.seen:
        call.reply.answer(call.body)
    assert (await runs.body(), await crosses.body()) == (b"runs", b"crosses")
    assert (network.drained("b"), len(place.seen)) == (True, 2)


@simulated
async def test_a_closed_link_ends_its_calls(network: MemoryNetwork) -> None:
    place, link = Place(network, "b", keeps=True), network.link("a", "b")
    answer = send(link)
    await until(lambda: place.seen)
    await link.close()
    assert (await answer.failure()).executed
    assert not (await send(link).failure()).executed
    assert place.seen[0][1].reply.gone


@simulated
async def test_a_paused_daemon_learns_of_a_cut_when_it_wakes(network: MemoryNetwork) -> None:
    place, link = Place(network, "b", keeps=True), network.link("a", "b")
    answer = send(link)
    await until(lambda: place.seen)
    network.pause("b")
    network.cut("a", "b")
    assert (await answer.failure()).executed
    assert not place.seen[0][1].reply.gone
    network.resume("b")
    assert place.seen[0][1].reply.gone


@simulated
async def test_news_of_a_peer_are_reason_to_ask_it_now(network: MemoryNetwork) -> None:
    """It started again: nobody waits for the next question of a long silence."""
    peers = network.peers("a", "a")
    record = InstanceRecord(start_ms=1, address="b")
    peers.update({"b": record})
    await elapse(60)
    network.listen("b", Callee("b").handler)
    peer = peers.get("b")
    assert peer is not None
    assert not peer.answers
    peers.update({"b": replace(record, start_ms=2)})
    await elapse(0.01)
    assert peer.answers
    await peers.close(0)


STEPS = st.lists(st.sampled_from(["send", "block", "unblock", "pause", "resume", "wait"]))


@given(STEPS)
def test_what_is_sent_arrives_once_and_in_order(steps: list[str]) -> None:
    async def act(network: MemoryNetwork) -> None:
        place, link = Place(network, "b"), network.link("a", "b")
        await send(link).body()
        network.delay("a", "b", 0.01, jitter_s=0.05)
        network.delay("b", "a", 0.01, jitter_s=0.05)
        answers: list[Answer] = []
        for step in steps:
            if step == "send":
                answers.append(send(link, b"%d" % len(answers)))
            elif step == "wait":
                await elapse(0.02)
            elif step in ("pause", "resume"):
                getattr(network, step)("b")
            else:
                getattr(network, step)("a", "b")
        network.unblock("a", "b")
        network.resume("b")
        bodies = [b"%d" % n for n in range(len(answers))]
        assert [await answer.body() for answer in answers] == bodies
        assert [call.body for _, call in place.seen[1:]] == bodies

    run(act)


def test_the_same_seed_gives_the_same_run() -> None:
    async def act(seed: int) -> list[tuple[float, bytes]]:
        network = MemoryNetwork(random.Random(seed))
        network.delay("a", "b", 0.01, jitter_s=0.5)
        place, link = Place(network, "b"), network.link("a", "b")
        for n in range(30):
            send(link, b"%d" % n)
            await elapse(0.05)
        await elapse(1)
        return [(at, bytes(call.body)) for at, call in place.seen]

    runs: list[partial[Coroutine[Any, Any, Any]]] = [partial(act, seed) for seed in (1, 1, 2)]
    first, again, other = (clock.run(run()) for run in runs)
    assert first == again
    assert first != other
