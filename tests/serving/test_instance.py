"""The walk of a request through one daemon, on doors in memory."""

import asyncio

import pytest

from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Failure, MeshError, Reason
from modelmesh.serving.status import State
from modelmesh.simulation.clock import run
from modelmesh.wire.awaiting import FutureReply
from tests.serving.fleet_of_one import One, until

CRASHED = Failure(Code.INTERNAL, "crashed", reason=Reason.WORKER_CRASHED)


def code(reply: FutureReply) -> Code:
    error = reply.future.exception()
    assert isinstance(error, MeshError)
    return error.failure.code


async def test_a_cold_model_is_loaded_by_the_first_request_and_kept() -> None:
    one = One()
    await one.register("m")
    assert await one.answer("m") == b"m"
    assert await one.answer("m") == b"m"
    assert one.runtime.loads == ["m"]


async def test_a_warm_hit_is_answered_in_the_same_turn() -> None:
    one = One()
    await one.register("m")
    await one.answer("m")
    assert one.ask("m").future.done(), "no task and no future stands between"


async def test_an_unknown_model_is_not_found() -> None:
    one = One()
    assert code(one.ask("nobody")) is Code.NOT_FOUND


async def test_many_requests_on_a_cold_model_cause_one_load() -> None:
    one = One()
    await one.register("m")
    replies = [one.ask("m") for _ in range(500)]
    await asyncio.gather(*(reply.future for reply in replies))
    assert one.runtime.loads == ["m"]


async def test_a_model_is_evicted_when_room_is_needed_and_never_in_use() -> None:
    one = One(capacity_bytes=250)
    one.runtime.load_s = 0.0
    await one.register("a", "b", "c")
    await one.answer("a")
    one.runtime.answer_at_once = False
    busy = one.ask("b")
    await until(lambda: len(one.runtime.running) == 1)
    one.ask("c")
    await until(lambda: len(one.runtime.running) == 2)
    assert one.runtime.unloads == ["a"], "b is in use"
    assert one.copies.ledger.reserved_bytes <= 250
    one.runtime.running[0].reply.answer(b"done")
    assert await busy.future == [b"done"]


async def test_a_load_waits_for_the_unload_that_makes_room() -> None:
    one = One(capacity_bytes=100)
    one.runtime.load_s = 0.0
    await one.register("a", "b")
    await one.answer("a")
    one.runtime.unload_gate = asyncio.get_running_loop().create_future()
    reply = one.ask("b")
    await until(lambda: one.runtime.unloads == ["a"])
    assert one.runtime.loads == ["a"], "capacity is never over-committed"
    one.runtime.unload_gate.set_result(None)
    assert await reply.future == [b"b"]


async def test_waiting_bodies_are_bounded_by_bytes() -> None:
    one = One(waiting_bytes=100)
    one.runtime.at_once = False
    await one.register("m")
    fits = one.ask("m", b"x" * 80)
    refused = one.ask("m", b"x" * 30)
    assert code(refused) is Code.RESOURCE_EXHAUSTED
    await until(lambda: "m" in one.runtime.gates)
    one.runtime.gates["m"].set_result(None)
    assert await fits.future == [b"m"]
    assert not one.ask("m", b"x" * 100).future.cancelled(), "room again, and the model is warm"


async def test_waiting_models_are_bounded() -> None:
    one = One(most_flights=1)
    one.runtime.at_once = False
    await one.register("a", "b")
    one.ask("a")
    assert code(one.ask("b")) is Code.RESOURCE_EXHAUSTED
    await one.instance.drain(0)


def test_a_deadline_answers_the_caller_and_the_load_goes_on() -> None:
    async def main() -> None:
        one = One()
        one.runtime.at_once = False
        await one.register("m")
        reply = one.ask("m", deadline=asyncio.get_running_loop().time() + 0.05)
        await until(lambda: "m" in one.runtime.gates)
        with pytest.raises(MeshError) as failed:
            await reply.future
        assert failed.value.failure.code is Code.DEADLINE_EXCEEDED
        one.runtime.gates["m"].set_result(None)
        await until(lambda: one.copies.is_loaded("m"))

    run(main())


async def test_a_call_that_is_read_after_its_deadline_starts_nothing() -> None:
    """As after a pause of the daemon: its callers have left long ago."""
    one = One()
    await one.register("m")
    past = asyncio.get_running_loop().time()
    assert code(one.ask("m", deadline=past)) is Code.DEADLINE_EXCEEDED
    assert not one.runtime.loads
    await one.answer("m")
    error = one.ask("m", deadline=past).future.exception()
    assert isinstance(error, MeshError)
    failure = error.failure
    assert (failure.code, failure.reason) == (Code.DEADLINE_EXCEEDED, Reason.DEADLINE)


async def test_a_load_whose_last_waiter_leaves_before_it_began_is_dropped() -> None:
    one = One(capacity_bytes=100)
    await one.register("a", "b")
    one.runtime.load_s = 0.0
    await one.answer("a")
    one.runtime.answer_at_once = False
    one.ask("a")
    first, second = one.ask("b"), one.ask("b")
    await until(lambda: one.copies.waiting == 1)
    first.leave()
    assert one.copies.waiting == 1, "somebody still waits"
    second.leave()
    await until(lambda: one.copies.waiting == 0)
    one.runtime.running[0].reply.answer(b"")
    await until(lambda: not one.loader.is_coming("b"))
    assert one.runtime.loads == ["a"]


async def test_failed_loads_are_remembered_and_their_attempts_bounded() -> None:
    one = One()
    await one.register("m")
    one.runtime.failing.add("m")
    for _ in range(5):
        with pytest.raises(MeshError) as failed:
            await one.answer("m")
        assert failed.value.failure.reason is Reason.LOAD_FAILED
    assert len(one.runtime.loads) == 3
    assert not one.instance.ready("m").ready
    assert (await one.management.status("m")).state is State.LOADING_FAILED
    one.now = 901.0
    one.runtime.failing.clear()
    assert one.instance.ready("m").ready, "the failures have expired"
    assert await one.answer("m") == b"m"


async def test_a_file_that_vanished_is_a_failed_load() -> None:
    one = One()
    await one.register("m")
    one.storage.missing.add("/models/m")
    with pytest.raises(MeshError) as failed:
        await one.answer("m")
    assert failed.value.failure.reason is Reason.LOAD_FAILED
    assert one.runtime.loads == []
    assert (await one.management.status("m")).errors == ("not a model",)


async def test_unregistering_while_loading_ends_in_not_found_and_nothing_loaded() -> None:
    one = One()
    one.runtime.at_once = False
    await one.register("m")
    reply = one.ask("m")
    await until(lambda: "m" in one.runtime.gates)
    await one.management.unregister("m")
    with pytest.raises(MeshError) as failed:
        await reply.future
    assert failed.value.failure.code is Code.NOT_FOUND
    await until(lambda: len(one.copies) == 0)
    assert one.copies.ledger.reserved_bytes == 0


async def test_registering_anew_while_the_old_load_runs_loads_the_new_one() -> None:
    one = One()
    one.runtime.at_once = False
    await one.register("m")
    old = one.ask("m")
    await until(lambda: "m" in one.runtime.gates)
    await one.management.unregister("m")
    await one.management.register("m", ModelRecord("dummy", "/other"), False, False)
    one.runtime.at_once = True
    new = one.ask("m")
    assert await asyncio.wait_for(new.future, 30) == [b"m"]
    assert code(old) is Code.NOT_FOUND
    assert one.runtime.loads == ["m", "m"]
    assert one.copies.ledger.reserved_bytes == 100


async def test_unregistering_a_model_in_use_lets_its_calls_end_first() -> None:
    one = One()
    await one.register("m")
    await one.answer("m")
    one.runtime.answer_at_once = False
    reply = one.ask("m")
    await one.management.unregister("m")
    assert code(one.ask("m")) is Code.NOT_FOUND
    await until(lambda: True)
    assert one.runtime.unloads == []
    one.runtime.running[0].reply.answer(b"fine")
    assert await reply.future == [b"fine"]
    await until(lambda: one.runtime.unloads == ["m"])


async def test_a_lost_model_is_loaded_again_by_the_next_request() -> None:
    one = One()
    await one.register("m")
    await one.answer("m")
    one.runtime.held.discard("m")
    one.instance.model_lost("m", CRASHED)
    assert one.copies.ledger.reserved_bytes == 0
    assert await one.answer("m") == b"m"
    assert one.runtime.loads == ["m", "m"]


async def test_growth_beyond_capacity_evicts_the_others() -> None:
    one = One(capacity_bytes=300)
    one.runtime.load_s = 0.0
    await one.register("a", "b", "c")
    for name in "abc":
        await one.answer(name)
    one.instance.model_resized("c", 250)
    await until(lambda: sorted(one.runtime.unloads) == ["a", "b"])
    assert one.copies.ledger.debt_bytes == 0


async def test_a_model_larger_than_the_daemon_is_refused_for_good() -> None:
    one = One(capacity_bytes=50)
    await one.register("m")
    with pytest.raises(MeshError) as failed:
        await one.answer("m")
    assert failed.value.failure.code is Code.FAILED_PRECONDITION
    assert failed.value.failure.reason is Reason.TOO_LARGE


async def test_draining_serves_what_is_loaded_and_loads_nothing_new() -> None:
    one = One()
    await one.register("warm", "cold")
    await one.answer("warm")
    one.runtime.answer_at_once = False
    running = one.ask("warm")
    drained = asyncio.ensure_future(one.instance.drain(5))
    await until(lambda: one.instance.draining)
    assert code(one.ask("cold")) is Code.UNAVAILABLE
    one.runtime.running[0].reply.answer(b"last")
    await asyncio.wait_for(drained, 30)
    assert await running.future == [b"last"]


async def test_too_many_open_calls_are_refused() -> None:
    one = One()
    await one.register("m")
    await one.answer("m")
    one.runtime.answer_at_once = False
    for _ in range(1000):
        one.ask("m")
    assert code(one.ask("m")) is Code.RESOURCE_EXHAUSTED
    for call in one.runtime.running:
        call.reply.answer(b"")
    assert one.instance.open_calls == 0
