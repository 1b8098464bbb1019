"""The models of a whole fleet from one of its daemons: where they are, loading them, letting go."""

import asyncio
import json
from math import inf

import pytest

from modelmesh.domain.fleet import Hops, Intent
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Failure, Fault, MeshError, Reason
from modelmesh.registry.store import MODELS, Put
from modelmesh.serving.remote import LOAD, UNLOAD, read
from modelmesh.serving.status import State
from modelmesh.simulation.clock import run
from tests.serving.doors import LOAD_FAILED
from tests.serving.fleet_of_many import ME, OfMany, Sent, answered

NOT_HERE = Failure(Code.UNAVAILABLE, "not here", Fault.PEER, Reason.NOT_HERE)
NO_SPACE = Failure(Code.UNAVAILABLE, "no room", Fault.CAPACITY, Reason.NO_SPACE)
LOST = Failure(Code.UNAVAILABLE, "connection lost", Fault.PEER, executed=True)


def asked(one: OfMany) -> list[tuple[str, str, Intent]]:
    return [(sent.instance_id, sent.call.kind, sent.hops.intent) for sent in one.peers.sent]


# --- states


def test_a_model_stands_where_its_record_says_as_far_as_those_exist() -> None:
    async def main() -> None:
        one = OfMany("a")
        await one.register("m", loaded=["dead"], coming=["a"])
        assert one.management.state("m") is State.LOADING
        await one.models.update("m", lambda record: record.loaded("a", 5))
        status = await one.management.status("m")
        assert status.state is State.LOADED
        assert [(copy.location, copy.state) for copy in status.copies] == [("a", State.LOADED)]
        row = one.management.view("m")
        assert row is not None
        assert row.instances == ("a",)
        await one.close()

    run(main())


def test_a_copy_here_is_told_with_the_time_that_the_others_tell() -> None:
    async def main() -> None:
        one = OfMany()
        await one.register("m")
        await one.management.ensure_loaded("m", 0, sync=True)
        await one.records.flush(5)
        await asyncio.sleep(60)
        await answered(one.ask("m"))
        (copy,) = (await one.management.status("m")).copies
        assert copy.time_ms == one.known("m").loaded_in[ME]
        await one.close()

    run(main())


def test_where_and_why_it_failed_is_told_from_anywhere() -> None:
    async def main() -> None:
        one = OfMany("a")
        await one.register("m")
        await one.models.update("m", lambda record: record.failed("a", 5, "no such file"))
        status = await one.management.status("m")
        assert status.state is State.LOADING_FAILED
        assert status.errors == ("no such file",)
        assert [(copy.location, copy.time_ms) for copy in status.copies] == [("a", 5)]
        await one.close()

    run(main())


def test_what_is_unknown_is_looked_for_and_not_found() -> None:
    async def main() -> None:
        one = OfMany("a")
        assert (await one.management.status("m")).state is State.NOT_FOUND
        for work in (
            one.management.load("m"),
            one.management.unload("m"),
            one.management.ensure_loaded("m", 0, sync=True),
            one.management.load_here("m", further=False, sync=True),
        ):
            with pytest.raises(MeshError) as caught:
                await work
            assert caught.value.failure.code is Code.NOT_FOUND
        assert one.looked == ["m"] * 5
        await one.close()

    run(main())


def test_what_is_unknown_while_the_store_does_not_answer_may_be_registered() -> None:
    async def main() -> None:
        one = OfMany("a")
        one.answers = False
        failures = [await one.management.try_load("m")]
        for work in (
            answered(one.ask("m")),
            one.management.status("m"),
            one.management.load("m"),
            one.management.unload("m"),
            one.management.explain("m"),
            one.management.ensure_loaded("m", 0, sync=True),
        ):
            with pytest.raises(MeshError) as caught:
                await work
            failures.append(caught.value.failure)
        for failure in failures:
            assert failure is not None
            assert (failure.code, failure.fault) == (Code.UNAVAILABLE, Fault.STORE)
            assert failure.retry_after_s
        assert not one.instance.ready("m").known
        await one.close()

    run(main())


def test_a_record_that_cannot_be_read_is_said_to_be_so() -> None:
    async def main() -> None:
        one = OfMany("a")
        await one.store.commit([], [Put(MODELS + "m", b"no json")])
        rows, _ = one.management.page("", "", 10)
        assert [row.state for row in rows] == [State.UNKNOWN]
        status = await one.management.status("m")
        assert status.state is State.UNKNOWN
        assert "cannot be read" in status.errors[0]
        failures = [await one.management.try_load("m")]
        for work in (
            answered(one.ask("m")),
            answered(one.ask("m", Hops(Intent.LOAD, "a"))),
            one.management.load("m"),
            one.management.unload("m"),
            one.management.explain("m"),
            one.management.ensure_loaded("m", 0, sync=True),
            one.management.load_here("m", further=False, sync=True),
        ):
            with pytest.raises(MeshError) as caught:
                await work
            failures.append(caught.value.failure)
        for failure in failures:
            assert failure is not None
            assert failure.code is Code.DATA_LOSS
            assert "cannot be read" in failure.message
        assert one.looked == []
        await one.close()

    run(main())


# --- loading


def test_what_is_loaded_elsewhere_is_left_alone() -> None:
    async def main() -> None:
        one = OfMany("a")
        await one.register("m", loaded=["a"])
        assert (await one.management.ensure_loaded("m", 0, sync=True)).state is State.LOADED
        assert one.peers.sent == []
        assert one.runtime.loads == []
        await one.close()

    run(main())


def test_what_is_coming_elsewhere_is_waited_for_there() -> None:
    async def main() -> None:
        one = OfMany("a")
        await one.register("m", coming=["a"])
        assert (await one.management.ensure_loaded("m", 0, sync=False)).state is State.LOADING
        assert one.peers.sent == []
        one.peers.answers = lambda sent: sent.answer(b'{"loaded":true}')
        await one.management.ensure_loaded("m", 0, sync=True)
        assert asked(one) == [("a", LOAD, Intent.LOAD)]
        await one.close()

    run(main())


def test_who_cannot_load_it_is_followed_by_others_and_the_last_word_is_told() -> None:
    async def main() -> None:
        one = OfMany("a", "b")
        await one.register("m")
        one.view.draining = True
        one.peers.answers = lambda sent: sent.fail(LOAD_FAILED)
        status = await one.management.ensure_loaded("m", 0, sync=True)
        assert {name for name, _, _ in asked(one)} == {"a", "b"}
        assert status.state is State.LOADING_FAILED
        assert status.errors == ("not a model",)
        await one.close()

    run(main())


@pytest.mark.parametrize(
    ("failure", "state"), [(LOAD_FAILED, State.LOADING_FAILED), (NO_SPACE, State.LOADING)]
)
def test_a_load_that_has_failed_is_not_told_to_be_coming(failure: Failure, state: State) -> None:
    """The record shows the claim of who has failed until he has said so."""

    async def main() -> None:
        one = OfMany("a")
        await one.register("m", coming=["a"])
        one.peers.answers = lambda sent: sent.fail(failure)
        one.view.draining = True
        assert one.management.state("m") is State.LOADING
        assert (await one.management.ensure_loaded("m", 0, sync=True)).state is state
        await one.close()

    run(main())


def test_between_daemons_is_never_said_to_an_operator() -> None:
    async def main() -> None:
        one = OfMany("a")
        await one.register("m")
        one.view.draining = True
        one.peers.answers = lambda sent: sent.fail(NOT_HERE)
        with pytest.raises(MeshError) as caught:
            await one.management.load("m")
        assert caught.value.failure.reason is not Reason.NOT_HERE
        await one.close()

    run(main())


def test_an_operator_who_loads_wants_another_try_where_it_failed() -> None:
    async def main() -> None:
        one = OfMany()
        await one.register("m")
        one.runtime.failing.add("m")
        for _ in range(3):
            with pytest.raises(MeshError):
                await answered(one.ask("m"))
        one.runtime.failing.clear()
        with pytest.raises(MeshError):
            await answered(one.ask("m"))
        await one.management.load("m")
        assert await answered(one.ask("m")) == b"m"
        assert await one.records.flush(1)
        assert one.known("m").failed_in == {}
        await one.close()

    run(main())


def test_who_leaves_loads_nothing_for_others() -> None:
    async def main() -> None:
        one = OfMany("a")
        await one.register("m")
        one.view.draining = True
        with pytest.raises(MeshError) as caught:
            await one.management.load_here("m", further=True, sync=True)
        assert caught.value.failure.reason is Reason.NOT_HERE
        await one.management.register("n", ModelRecord("dummy", "/n"), True, True)
        assert one.runtime.loads == []
        assert one.peers.sent == []
        await one.close()

    run(main())


def test_a_copy_more_is_loaded_here_only_if_that_was_asked() -> None:
    async def main() -> None:
        one = OfMany("a")
        await one.register("m", loaded=["a"])
        with pytest.raises(MeshError) as caught:
            await one.management.load_here("m", further=False, sync=True)
        assert caught.value.failure.reason is Reason.NOT_HERE
        assert await one.management.load_here("m", further=True, sync=True)
        assert await one.management.load_here("m", further=True, sync=True), "it is there"
        assert one.runtime.loads == ["m"]
        await one.close()

    run(main())


# --- unloading


def test_every_copy_is_unloaded() -> None:
    async def main() -> None:
        one = OfMany("a", "b")
        await one.register("m", loaded=["a", "dead"], coming=["b"])
        answers = {"a": b'{"unloaded":true}', "b": b'{"unloaded":false}'}
        one.peers.answers = lambda sent: sent.answer(answers[sent.instance_id])
        assert await one.management.unload("m")
        assert asked(one) == [("a", UNLOAD, Intent.HIT), ("b", UNLOAD, Intent.HIT)]
        await one.close()

    run(main())


def test_who_cannot_be_reached_may_hold_it_still_and_that_is_said() -> None:
    async def main() -> None:
        one = OfMany("a", "b")
        await one.register("m", loaded=["a", "b"])

        def answers(sent: Sent) -> None:
            if sent.instance_id == "a":
                sent.fail(LOST)
            else:
                sent.answer(b'{"unloaded":true}')

        one.peers.answers = answers
        with pytest.raises(MeshError) as caught:
            await one.management.unload("m")
        assert caught.value.failure == LOST
        assert len(one.peers.sent) == 2, "the others unload all the same"
        await one.close()

    run(main())


# --- what daemons say to each other


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b"1", b"\xff"])
def test_what_daemons_do_not_say_is_refused(body: bytes) -> None:
    with pytest.raises(MeshError) as caught:
        read(body)
    assert caught.value.failure.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("bound_s", [5.0, inf])
def test_an_empty_answer_is_no_answer(bound_s: float) -> None:
    async def main() -> None:
        one = OfMany("a")
        one.peers.answers = lambda sent: sent.call.reply.finish()
        with pytest.raises(MeshError) as caught:
            await one.remote.unload("a", "m", bound_s)
        assert caught.value.failure.code is Code.UNAVAILABLE, "its caller did nothing wrong"
        assert json.loads(bytes(one.peers.sent[0].call.body)) == {}
        await one.close()

    run(main())
