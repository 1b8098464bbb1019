"""The tier policy as a table: every row names what decides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.policy.tiering import (
    MIB,
    Measured,
    Tier,
    TierFacts,
    TierLimits,
    choose_tier,
    settles,
)

PROVEN = Measured(load_s=0.05, size_bytes=5 * MIB, predicts=3, slowest_predict_s=0.01)
SLOW = Measured(load_s=0.05, size_bytes=5 * MIB, predicts=3, slowest_predict_s=0.021)
SLOW_LOAD = Measured(load_s=0.11, size_bytes=5 * MIB, predicts=3, slowest_predict_s=0.001)
HEAVY = Measured(load_s=0.05, size_bytes=64 * MIB + 1, predicts=3, slowest_predict_s=0.001)
UNTRIED = Measured(load_s=0.05, size_bytes=5 * MIB, predicts=2, slowest_predict_s=0.01)
LIMITS = TierLimits()


@pytest.mark.parametrize(
    ("facts", "wish", "tier", "reason"),
    [
        (TierFacts(0), Tier.AUTO, Tier.SHARED, "at most"),
        (TierFacts(MIB), Tier.AUTO, Tier.SHARED, "at most"),
        (TierFacts(MIB + 1), Tier.AUTO, Tier.PROCESS, "unknown"),
        (TierFacts(9 * MIB, PROVEN), Tier.AUTO, Tier.SHARED, "proved"),
        (TierFacts(9 * MIB, UNTRIED), Tier.AUTO, Tier.PROCESS, "unknown"),
        (TierFacts(9 * MIB, SLOW), Tier.AUTO, Tier.PROCESS, "predicts in 21 ms"),
        (TierFacts(1, SLOW), Tier.AUTO, Tier.PROCESS, "predicts in 21 ms"),
        (TierFacts(9 * MIB, SLOW_LOAD), Tier.AUTO, Tier.PROCESS, "loads in 110 ms"),
        (TierFacts(9 * MIB, HEAVY), Tier.AUTO, Tier.PROCESS, "weighs"),
        (TierFacts(1, PROVEN, "crashed"), Tier.AUTO, Tier.PROCESS, "crashed"),
        (TierFacts(1, PROVEN, "crashed"), Tier.SHARED, Tier.PROCESS, "crashed"),
        (TierFacts(9 * MIB, always_quick=True), Tier.AUTO, Tier.SHARED, "always quick"),
        (TierFacts(0, None, "crashed", True), Tier.AUTO, Tier.PROCESS, "crashed"),
        (TierFacts(0, always_quick=True), Tier.PROCESS, Tier.PROCESS, "operator"),
        (TierFacts(9 * MIB), Tier.SHARED, Tier.SHARED, "operator"),
        (TierFacts(1), Tier.PROCESS, Tier.PROCESS, "operator"),
        (TierFacts(1, None, "crashed"), Tier.INLINE, Tier.INLINE, "operator"),
    ],
)
def test_where_a_load_starts(facts: TierFacts, wish: Tier, tier: Tier, reason: str) -> None:
    decision = choose_tier(facts, TierLimits(wish=wish))
    assert decision.tier is tier
    assert reason in decision.reason


@pytest.mark.parametrize(
    ("facts", "wish", "tier"),
    [
        (TierFacts(9 * MIB, PROVEN), Tier.AUTO, Tier.SHARED),
        (TierFacts(9 * MIB, UNTRIED), Tier.AUTO, Tier.PROCESS),
        (TierFacts(9 * MIB), Tier.AUTO, Tier.PROCESS),
        (TierFacts(9 * MIB, SLOW), Tier.AUTO, Tier.PROCESS),
        (TierFacts(9 * MIB, PROVEN, "stalled"), Tier.AUTO, Tier.PROCESS),
        (TierFacts(9 * MIB, PROVEN), Tier.PROCESS, Tier.PROCESS),
    ],
)
def test_what_settles(facts: TierFacts, wish: Tier, tier: Tier) -> None:
    assert settles(facts, TierLimits(wish=wish)).tier is tier


@given(
    st.integers(0, 1 << 40),
    st.builds(
        Measured,
        load_s=st.floats(0, 10),
        size_bytes=st.integers(0, 1 << 40),
        predicts=st.integers(0, 9),
        slowest_predict_s=st.floats(0, 10),
    ),
    st.sampled_from([Tier.AUTO, Tier.SHARED, Tier.PROCESS]),
)
def test_an_offender_never_shares_and_what_settles_stays_settled(
    file_bytes: int, measured: Measured, wish: Tier
) -> None:
    limits = TierLimits(wish=wish)
    assert choose_tier(TierFacts(file_bytes, measured, "crashed"), limits).tier is Tier.PROCESS
    if settles(TierFacts(file_bytes, measured), limits).tier is Tier.SHARED:
        assert choose_tier(TierFacts(file_bytes, measured), limits).tier is Tier.SHARED
