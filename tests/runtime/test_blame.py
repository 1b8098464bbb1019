"""Verdicts, records of conduct, and what counts as worn: pure tables."""

from dataclasses import replace

import pytest

from modelmesh.errors import Code, Reason
from modelmesh.runtime.blame import Doom, End, verdict
from modelmesh.runtime.conduct import Conduct
from modelmesh.runtime.door import LoadRequest
from modelmesh.runtime.output import BURST_BYTES, BYTES_PER_S, Budget
from modelmesh.runtime.types import base_type
from modelmesh.runtime.weights import MIB, is_worn
from modelmesh.wire import kinds

MODEL = LoadRequest("m", "sklearn", "/models/m", "", 100)


@pytest.mark.parametrize(
    ("kind", "end", "code", "reason", "words"),
    [
        (kinds.LOAD_MODEL, End("signal 11"), Code.FAILED_PRECONDITION, Reason.LOAD_FAILED,
         "crashed its host while loading (signal 11)"),
        (kinds.LOAD_MODEL, End("", Doom.TIMEOUT, 90), Code.DEADLINE_EXCEEDED,
         Reason.LOAD_TIMEOUT, "within 90 s"),
        (kinds.LOAD_MODEL, End("", Doom.NO_ROOM), Code.FAILED_PRECONDITION,
         Reason.LOAD_FAILED, "no memory"),
        (kinds.MODEL_INFER, End("signal 9"), Code.INTERNAL, Reason.WORKER_CRASHED, "signal 9"),
        (kinds.V1_PREDICT, End("", Doom.TIMEOUT, 60), Code.DEADLINE_EXCEEDED,
         Reason.PREDICT_TIMEOUT, "within 60 s"),
        ("", End("exit status 3"), Code.INTERNAL, Reason.WORKER_CRASHED, "while nothing ran"),
    ],
)  # fmt: skip
def test_verdicts(kind: str, end: End, code: Code, reason: Reason, words: str) -> None:
    failure = verdict(kind, end).failure
    assert (failure.code, failure.reason, failure.executed) == (code, reason, True)
    assert words in failure.message
    assert failure.retry_after_s is None


def test_quarantine_comes_by_repetition_and_goes_by_time() -> None:
    conduct = Conduct(quarantine_losses=3, expiry_s=900)
    for now in (0.0, 100.0, 200.0):
        assert conduct.quarantine(MODEL, now) is None
        conduct.lost_host(MODEL, "crashed", now)
    refusal = conduct.quarantine(MODEL, 201.0)
    assert refusal is not None
    assert "699 s more" in refusal.message
    assert conduct.quarantine(MODEL, 900.0) is None
    conduct.lost_host(MODEL, "crashed", 901.0)
    assert conduct.quarantine(MODEL, 902.0) is not None


def test_stalls_are_remembered_but_lead_to_no_quarantine() -> None:
    conduct = Conduct(quarantine_losses=1, expiry_s=900)
    conduct.stalled(MODEL, "held a shared host")
    assert conduct.offence(MODEL) == "held a shared host"
    assert conduct.quarantine(MODEL, 0.0) is None


def test_suspects_are_acquitted_when_one_of_them_is_convicted() -> None:
    conduct = Conduct(quarantine_losses=3, expiry_s=900)
    others = {name: replace(MODEL, model_id=name) for name in ("villain", "known", "innocent")}
    among = frozenset(others)
    conduct.stalled(others["known"], "held a shared host")
    for request in others.values():
        conduct.suspected(request, "was there", among)
    assert conduct.offence(others["known"]) == "held a shared host"
    assert conduct.acquit("somebody else") == []
    assert conduct.offence(others["innocent"]) == conduct.offence(others["villain"]) == "was there"
    conduct.lost_host(others["villain"], "hung", 0.0)
    assert conduct.acquit("villain") == ["innocent"]
    assert conduct.offence(others["innocent"]) == ""
    assert conduct.offence(others["villain"]) == "hung"
    assert conduct.offence(others["known"]) == "held a shared host"


def test_a_record_belongs_to_the_model_as_registered() -> None:
    conduct = Conduct(quarantine_losses=1, expiry_s=900)
    conduct.lost_host(MODEL, "crashed", 0.0)
    assert conduct.quarantine(replace(MODEL, background=True), 1.0) is not None
    assert conduct.offence(replace(MODEL, path="/models/m2")) == ""


@pytest.mark.parametrize(
    ("overhead", "models", "worn"),
    [(64 * MIB, 0, False), (64 * MIB + 1, 0, True), (100 * MIB, 400 * MIB, False),
     (101 * MIB, 400 * MIB, True), (1 * MIB, 1, False)],
)  # fmt: skip
def test_when_a_host_is_worn(overhead: int, models: int, worn: bool) -> None:
    assert is_worn(overhead, models) is worn


@pytest.mark.parametrize(
    ("label", "base"),
    [("sklearn", "sklearn"), ("rt:sklearn", "sklearn"), ("mt:sklearn", "sklearn"),
     ("mt:sklearn:1.9|pv:grpc-v2", "sklearn"), ("rt:a:b", "a:b")],
)  # fmt: skip
def test_model_types(label: str, base: str) -> None:
    assert base_type(label) == base


def test_a_budget_of_output_refills_with_time() -> None:
    budget = Budget(0.0)
    assert budget.take(0.0, 10 * BURST_BYTES) == BURST_BYTES
    assert budget.take(0.0, 100) == 0
    assert budget.take(1.0, BURST_BYTES) == BYTES_PER_S
    budget.give_back(50)
    assert budget.take(1.0, 100) == 50
