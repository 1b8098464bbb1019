"""Every test that asks for `door` runs once over each implementation."""

from pathlib import Path

import pytest

from tests.registry.doors import DOORS, Door


@pytest.fixture(params=list(DOORS))
def door(request: pytest.FixtureRequest, tmp_path: Path) -> Door:
    return DOORS[request.param](tmp_path)
