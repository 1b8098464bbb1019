"""Suspicion: when a peer is asked, and what silence means. Times in, decisions out."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.peers.suspicion import Look, Suspicion, Times

TIMES = Times()


def asked(suspicion: Suspicion, now: float, oldest: float | None = 0.0) -> Suspicion:
    assert suspicion.look(now, oldest).ask
    suspicion.asked(now)
    return suspicion


def due(suspicion: Suspicion, now: float, oldest: float | None = None) -> float:
    """When it will be asked."""
    look = suspicion.look(now, oldest)
    assert not look.ask
    assert look.at is not None
    return round(look.at, 6)


def silent() -> Suspicion:
    """A call since 0; the questions of 0.25 and 0.45 s have no answer."""
    suspicion = asked(Suspicion(), 0.25)
    suspicion.missed(0.45)
    asked(suspicion, 0.45).missed(0.65)
    return suspicion


def test_nobody_is_asked_without_need() -> None:
    assert Suspicion().look(100, None) == Look(ask=False)


def test_who_wants_to_know_has_it_asked() -> None:
    suspicion = Suspicion()
    assert suspicion.look(100, None, wanted=True).ask
    suspicion.asked(100)
    assert suspicion.look(100.1, None, wanted=True) == Look(ask=False)
    suspicion.missed(100.1, lost=True)
    suspicion.heard()  # no doubt is left, but no question was answered
    assert suspicion.look(100.1, None) == Look(ask=False)
    assert suspicion.look(100.1, None, wanted=True) == Look(
        ask=False, at=100 + TIMES.answer_within_s / 10 + 0.1
    )


def test_a_call_that_waits_makes_its_peer_be_asked() -> None:
    suspicion = Suspicion()
    assert due(suspicion, 0.1, 0.0) == 0.25
    asked(suspicion, 0.25)
    assert suspicion.look(0.3, 0.0) == Look(ask=False)  # one question at a time


def test_who_answers_is_asked_again_while_the_call_lasts() -> None:
    suspicion = asked(Suspicion(), 0.25)
    suspicion.answered()
    assert due(suspicion, 0.26, 0.0) == 0.45
    assert asked(suspicion, 0.45).answers
    suspicion.answered()
    assert suspicion.look(0.46, None) == Look(ask=False)  # the call has ended


def test_two_misses_make_a_suspect() -> None:
    suspicion = asked(Suspicion(), 0.25)
    suspicion.missed(0.45)
    assert suspicion.answers
    asked(suspicion, 0.45).missed(0.65)
    assert (suspicion.answers, suspicion.suspect, suspicion.reachable) == (False, True, True)


SIGNS: list[Callable[[Suspicion], None]] = [Suspicion.heard, Suspicion.answered]


@pytest.mark.parametrize("sign", SIGNS)
def test_a_sign_of_life_ends_suspicion(sign: Callable[[Suspicion], None]) -> None:
    suspicion = silent()
    sign(suspicion)
    assert suspicion.answers
    assert not suspicion.doubted


@pytest.mark.parametrize("sign", SIGNS)
def test_misses_count_only_in_a_row(sign: Callable[[Suspicion], None]) -> None:
    suspicion = asked(Suspicion(), 0.25)
    suspicion.missed(0.45)
    sign(suspicion)
    asked(suspicion, 0.5).missed(0.7)
    assert suspicion.answers


def test_a_doubt_is_settled_without_callers() -> None:
    suspicion = asked(Suspicion(), 0.25)
    suspicion.missed(0.45)
    asked(suspicion, 0.45, None).missed(0.65)
    assert due(suspicion, 0.66) == 0.85


def test_what_this_daemon_slept_through_is_no_evidence() -> None:
    suspicion = asked(Suspicion(), 0.25)
    suspicion.missed(60.0)
    asked(suspicion, 60.0).missed(120.0)
    assert suspicion.answers
    assert not suspicion.doubted


def test_a_broken_connection_is_a_miss_and_the_next_question_comes_soon() -> None:
    suspicion = asked(Suspicion(), 0.25)
    suspicion.missed(0.26, lost=True)
    assert due(suspicion, 0.26) == 0.28
    asked(suspicion, 0.3).missed(0.3, lost=True)
    assert suspicion.suspect
    assert due(suspicion, 0.3) == 0.5  # no storm of them


def test_a_refused_call_excludes_at_once_and_only_a_question_brings_back() -> None:
    suspicion = Suspicion()
    suspicion.refused(1.0, question=False)
    assert not suspicion.answers
    suspicion.heard()  # on a connection from before
    assert not suspicion.answers
    asked(suspicion, 1.2, None).answered()
    assert suspicion.answers


def test_many_refused_calls_are_one_refusal() -> None:
    suspicion = Suspicion()
    for n in range(16):
        suspicion.refused(1.0 + n / 1000, question=False)
    assert due(suspicion, 1.1) == 1.2


def test_who_does_not_answer_is_asked_ever_more_rarely() -> None:
    suspicion, now, pauses = silent(), 0.65, []
    for _ in range(7):
        at = due(suspicion, now)
        pauses.append(round(at - now, 3))
        asked(suspicion, at + 1e-6, None).refused(at, question=True)
        now = at
    assert pauses == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    asked(suspicion, now + 2, None).answered()
    suspicion.refused(now + 3, question=False)
    assert due(suspicion, now + 3) == round(now + 3.2, 6)


def test_news_of_it_are_reason_to_ask() -> None:
    suspicion = asked(silent(), 0.9, None)
    suspicion.missed(1.1)
    assert due(suspicion, 1.1) > 1.4
    suspicion.renewed(1.2)
    assert suspicion.look(1.2, None).ask


EVENTS = st.sampled_from(
    ["answered", "heard", "missed", "lost", "refused", "call refused", "renewed"]
)


@given(st.lists(st.tuples(EVENTS, st.floats(0.001, 3.0), st.booleans())))
def test_it_always_comes_back_and_never_storms(
    steps: list[tuple[str, float, bool]],
) -> None:
    """Whatever happened: who does not answer is asked within the longest pause; one question at a
    time; and an answer to it puts everything right."""
    suspicion, now, outstanding = Suspicion(), 1000.0, False
    for event, took_s, waits in steps:
        now += took_s
        if event == "heard":
            suspicion.heard()
        elif event == "call refused":
            suspicion.refused(now, question=False)
        elif event == "renewed":
            suspicion.renewed(now)
            outstanding = False
        elif outstanding:
            outstanding = False
            if event == "answered":
                suspicion.answered()
                assert suspicion.answers
            elif event == "refused":
                suspicion.refused(now, question=True)
                assert not suspicion.reachable
            else:
                suspicion.missed(now, lost=event == "lost")
        look = suspicion.look(now, now if waits else None)
        assert not (outstanding and look.ask)
        if not suspicion.answers and not outstanding:
            assert look.ask or (look.at or 0) - now <= TIMES.backoff_most_s
        if look.ask:
            suspicion.asked(now)
            outstanding = True
