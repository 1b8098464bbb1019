"""In-flight bounds: ModelMesh's numbers."""

import pytest

from modelmesh.runtime.limiter import UNLIMITED, inflight_limit


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
