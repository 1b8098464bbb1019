"""When a host is taken for lost whatever its journal says, and whom that is held against.

The pure rules as tables and a simulated host; then real hosts, whose patience must not be mistaken
for silence.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.errors import Code, MeshError, Reason
from modelmesh.runtime.blame import Ran, Suspicion, suspicion
from modelmesh.runtime.door import LoadRequest
from modelmesh.runtime.hosts import HostedRuntime
from modelmesh.runtime.silence import SLACK, Counts, Silence, Step
from modelmesh.wire import kinds
from tests.runtime.support import QUICK_S, Listener, ask, begin, config, dummy
from tests.runtime.waiting import is_dead, until

ASK_S, LIMIT_S = 0.25, 4.0
QUIET = Silence(Counts(answered=5, withdrawn=2, unanswered=1), since=10.0)
ASKED = QUIET.with_question(9, now=11.0)


@pytest.mark.parametrize(
    ("silence", "now", "step"),
    [
        (QUIET, 10.2, Step.WAIT),
        (QUIET, 10.3, Step.ASK),
        (ASKED, 11.0 + LIMIT_S, Step.WAIT),
        (ASKED, 11.1 + SLACK * LIMIT_S, Step.END),
    ],
)
def test_steps(silence: Silence, now: float, step: Step) -> None:
    assert silence.step(now, ASK_S, LIMIT_S) is step


@pytest.mark.parametrize(
    ("counts", "question_is_open", "goes_on"),
    [
        (Counts(5, 2, 2), True, True),
        (Counts(6, 2, 1), True, False),  # another call was answered
        (Counts(5, 2, 2), False, False),  # the question was taken away
        (Counts(5, 3, 0), True, True),  # its caller left: it may run all the same
        (Counts(5, 2, 0), True, False),  # nothing is due
    ],
)
def test_what_ends_a_silence(counts: Counts, question_is_open: bool, goes_on: bool) -> None:
    after = ASKED.goes_on(counts, question_is_open, 12.0)
    assert after == (ASKED if goes_on else Silence(counts, 12.0))


entries = st.lists(st.tuples(st.floats(0.01, LIMIT_S), st.booleans()), min_size=1, max_size=40)


@given(entries)
def test_no_queue_of_honest_entries_ends_a_host(queue: list[tuple[float, bool]]) -> None:
    """Entries (how long, and whether the caller leaves in its midst) that all wait from the start;
    a question is answered between two of them."""
    now, counts, question = 0.0, Counts(0, 0, len(queue)), False
    silence = Silence(counts, now)
    for takes_s, leaves in queue:
        ends = now + takes_s
        while now < ends:
            silence = silence.goes_on(counts, question, now)
            step = silence.step(now, ASK_S, LIMIT_S)
            assert step is not Step.END
            if step is Step.ASK:
                silence, question = silence.with_question(99, now), True
            now += 0.05
        answered, withdrawn, unanswered = counts.answered, counts.withdrawn, counts.unanswered
        counts = Counts(answered + (not leaves) + question, withdrawn + leaves, unanswered - 1)
        question = False


PREDICT = kinds.MODEL_INFER
LOAD = kinds.LOAD_MODEL
A, A2, B = Ran(PREDICT, "a"), Ran(kinds.V1_PREDICT, "a"), Ran(PREDICT, "b")
DUMMY, LOAD_C, QUESTION = Ran(PREDICT, "dummy"), Ran(LOAD, "c"), Ran(kinds.RUNTIME_STATUS, "")


@pytest.mark.parametrize(
    ("suspects", "sole", "found"),
    [
        ({}, "", Suspicion(frozenset())),
        ({7: QUESTION}, "", Suspicion(frozenset())),
        ({1: DUMMY, 2: A, 3: A2}, "", Suspicion(frozenset({2, 3}), A)),
        ({1: DUMMY, 2: LOAD_C}, "", Suspicion(frozenset({2}), LOAD_C)),
        ({1: DUMMY}, "", Suspicion(frozenset({1}), DUMMY)),  # there is nobody else
        ({2: A, 3: B, 4: A2}, "", Suspicion(frozenset({2, 4}), None, frozenset("ab"))),
        ({2: LOAD_C, 3: B}, "", Suspicion(frozenset(), None, frozenset("bc"))),
        ({2: A, 3: B}, "b", Suspicion(frozenset({3}), B)),
        ({2: A}, "b", Suspicion(frozenset())),
    ],
)
def test_whom_a_silence_is_held_against(
    suspects: dict[int, Ran], sole: str, found: Suspicion
) -> None:
    assert suspicion(suspects, sole, lambda model_id: model_id == "dummy") == found


# --- real hosts


@asynccontextmanager
async def _ends_what_takes(limit_s: float) -> AsyncIterator[tuple[HostedRuntime, Listener]]:
    limits = {"load_timeout_s": limit_s, "predict_timeout_s": limit_s}
    runtime, listener = HostedRuntime(config(set_aside_s=QUICK_S, **limits)), Listener()
    await runtime.start(listener)
    yield runtime, listener
    await runtime.close(5.0)


@pytest.fixture
async def hasty() -> AsyncIterator[tuple[HostedRuntime, Listener]]:
    """Ends what takes a little longer than a machine ever stands still."""
    async with _ends_what_takes(2.5) as made:
        yield made


def hostile(model_id: str, **what: object) -> LoadRequest:
    return LoadRequest(model_id, "hostile", "", json.dumps(what))


def _tier(runtime: HostedRuntime, model_id: str) -> str:
    loaded = runtime.describe(model_id)
    return loaded.tier if loaded else ""


async def failed_ask(runtime: HostedRuntime, model_id: str) -> tuple[Code, Reason]:
    with pytest.raises(MeshError) as caught:
        await ask(runtime, model_id)
    return caught.value.failure.code, caught.value.failure.reason


async def test_who_cannot_be_told_apart_is_kept_apart_and_known_the_next_time(
    hasty: tuple[HostedRuntime, Listener],
) -> None:
    runtime, listener = hasty
    await runtime.load(hostile("villain", on="predict", do="hang_unnoted"))
    await runtime.load(hostile("innocent"))
    home = runtime.pids()["villain"]
    assert runtime.pids()["innocent"] == home
    villains = begin(runtime, "villain")
    innocents = begin(runtime, "innocent")
    with pytest.raises(MeshError) as caught:
        await villains.future
    assert caught.value.failure.reason is Reason.PREDICT_TIMEOUT
    assert caught.value.failure.executed
    await until(lambda: is_dead(home))
    assert await innocents.future, "sent again, since it never began"
    assert _tier(runtime, "innocent") == "process", "kept apart: it might have been it"
    assert listener.lost == {}
    second = await failed_ask(runtime, "villain")
    assert second == (Code.DEADLINE_EXCEEDED, Reason.PREDICT_TIMEOUT)
    await until(lambda: set(listener.lost) == {"villain"})
    await until(lambda: _tier(runtime, "innocent") == "shared")  # acquitted
    assert await ask(runtime, "innocent")


async def test_one_that_hides_while_its_caller_leaves_is_found_all_the_same(
    hasty: tuple[HostedRuntime, Listener],
) -> None:
    runtime, listener = hasty
    await runtime.load(dummy("calm"))
    await runtime.load(hostile("villain", on="predict", do="hang_unnoted"))
    home = runtime.pids()["villain"]
    reply = begin(runtime, "villain")
    calms = [begin(runtime, "calm") for _ in range(3)]
    await asyncio.wait([calms[0].future], timeout=0.2)
    assert not any(each.future.done() for each in calms), "the host hangs"
    reply.leave()
    await until(lambda: is_dead(home))
    assert await asyncio.gather(*(each.future for each in calms))
    await until(lambda: set(listener.lost) == {"villain"})


@pytest.mark.parametrize("waits", ["load_s", "predict_s"])
async def test_what_only_waits_longer_than_the_timeout_ends_no_host(waits: str) -> None:
    """A dummy's waits hold nothing; only who asks it decides how long it may take.

    A load has twice the timeout: more of it, where the machine stood still for so long.
    """
    for limit_s in (2.5, 10.0):
        async with _ends_what_takes(limit_s) as (runtime, listener):
            await runtime.load(dummy("calm"))
            home = runtime.pids()["calm"]
            patience = _load_and_ask(runtime, dummy("patient", json.dumps({waits: 1.7 * limit_s})))
            (result,) = await asyncio.gather(patience, return_exceptions=True)
            assert set(runtime.pids().values()) == {home}
            assert listener.lost == {}
        if not isinstance(result, BaseException):
            return
    pytest.fail(f"{result!r}, both times")


async def _load_and_ask(runtime: HostedRuntime, request: LoadRequest) -> None:
    await runtime.load(request)
    assert await ask(runtime, request.model_id)


async def test_a_slow_queue_of_calls_ends_no_host(
    hasty: tuple[HostedRuntime, Listener],
) -> None:
    """Each within its time, all together far beyond it, and half of the callers leave meanwhile."""
    runtime, listener = hasty
    await runtime.load(hostile("slow", predict_s=0.6))
    await runtime.load(hostile("slower", predict_s=0.6))
    replies = [begin(runtime, name, n) for n in range(7) for name in ("slow", "slower")]
    assert await replies[0].future
    for reply in replies[1::2]:
        reply.leave()
    await asyncio.gather(*(reply.future for reply in replies[2::2]))
    assert listener.lost == {}
