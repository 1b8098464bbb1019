"""Every test that asks for `run` runs once over each implementation."""

import pytest

from tests.peers.worlds import WORLDS, Run


@pytest.fixture(params=list(WORLDS))
def run(request: pytest.FixtureRequest) -> Run:
    return WORLDS[request.param]
