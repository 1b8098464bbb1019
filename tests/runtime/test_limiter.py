"""In-flight bounds: ModelMesh's numbers, and a counter that forgets what is idle."""

import pytest

from modelmesh.errors import Code
from modelmesh.runtime.limiter import UNLIMITED, InflightLimiter, inflight_limit


@pytest.mark.parametrize(
    ("setting", "max_concurrency", "external", "limit"),
    [
        (0, 0, False, 1024),
        (0, 0, True, UNLIMITED),
        (0, 1, True, 16),
        (0, 4, True, 32),
        (7, 4, True, 7),
        (-1, 4, True, UNLIMITED),
        (-5, 0, False, UNLIMITED),
    ],
)
def test_limits(setting: int, max_concurrency: int, external: bool, limit: int) -> None:
    assert inflight_limit(setting, max_concurrency, external=external) == limit


def test_a_model_at_its_limit_is_refused_and_another_is_not() -> None:
    limiter = InflightLimiter()
    assert limiter.enter("a", 2) is None
    assert limiter.enter("a", 2) is None
    refusal = limiter.enter("a", 2)
    assert refusal is not None
    assert refusal.code is Code.RESOURCE_EXHAUSTED
    assert refusal.retry_after_s is not None
    assert limiter.enter("b", 2) is None
    limiter.leave("a")
    assert limiter.enter("a", 2) is None


def test_an_idle_model_takes_no_memory() -> None:
    limiter = InflightLimiter()
    for _ in range(3):
        limiter.enter("a", UNLIMITED)
    for _ in range(3):
        limiter.leave("a")
    assert limiter._inflight == {}
    assert limiter.inflight("a") == 0
