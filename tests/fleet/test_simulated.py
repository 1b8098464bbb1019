"""Five hundred simulated fleets with faults: no promise is broken in any of them.

The same daemons as everywhere here, on doors in memory; `modelmesh simulate --seed S` replays one.
"""

import pytest

from modelmesh.simulation.run import play

SEEDS = 500
_AT_ONCE = 25  # a test's worth


@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", range(0, SEEDS, _AT_ONCE))
def test_no_seed_breaks_a_promise(first: int) -> None:
    for seed in range(first, first + _AT_ONCE):
        outcome = play(seed)
        told = [str(violation) for violation in outcome.violations]
        assert not told, f"replay: modelmesh simulate --seed {seed}"
