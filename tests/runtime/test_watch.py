"""What comes of an entry that takes its time."""

import pytest

from modelmesh.runtime.blame import Ran
from modelmesh.runtime.watch import Patience, Verdict
from modelmesh.wire.kinds import LOAD_MODEL, MODEL_INFER

PATIENCE = Patience(set_aside_s=0.25, load_timeout_s=60.0, predict_timeout_s=10.0)
LOAD, PREDICT = Ran(LOAD_MODEL, "m"), Ran(MODEL_INFER, "m")


@pytest.mark.parametrize(
    ("what", "held_s", "starved_s", "shared", "verdict"),
    [
        (PREDICT, 0.25, 0.0, True, Verdict.GOES_ON),
        (PREDICT, 0.26, 0.0, True, Verdict.KEEPS),
        (None, 0.26, 0.0, True, Verdict.KEEPS),
        (PREDICT, 5.0, 0.0, False, Verdict.GOES_ON),  # nobody is behind it
        (LOAD, 5.0, 4.8, True, Verdict.GOES_ON),  # the machine had no CPU for it
        (LOAD, 5.0, 4.7, True, Verdict.KEEPS),  # that alone does not excuse it
        (PREDICT, 10.1, 0.0, True, Verdict.ENDS),
        (PREDICT, 10.1, 0.0, False, Verdict.ENDS),
        (PREDICT, 10.1, 10.1, True, Verdict.ENDS),  # a caller has waited for so long all the same
        (LOAD, 10.1, 0.0, False, Verdict.GOES_ON),
        (LOAD, 60.1, 0.0, False, Verdict.ENDS),
        (None, 10.1, 0.0, False, Verdict.ENDS),
    ],
)
def test_what_comes_of_an_entry(
    what: Ran | None, held_s: float, starved_s: float, shared: bool, verdict: Verdict
) -> None:
    assert PATIENCE.verdict(what, held_s, starved_s, shared=shared) is verdict
