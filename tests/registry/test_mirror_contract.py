"""A mirror is a store with tables like the others: it passes their contract suite.

A table that is not one of the daemon's fills up only when it was listed, so those that the suite
reads are asked for at the beginning. And its `revision` is how far its own watch has come: that a
key of another table was put does not move it, so the scenario that asks for this is left out.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.mirror import Mirror
from modelmesh.registry.tables import TabledStore
from tests.registry import test_store_contract
from tests.registry.doors import Door

PREFIXES = ("", "r/", "a/", "registry/", "vmodels/")
NOT_OF_REMOTE_TABLES = "test_a_table_shows_its_prefix_without_it"
SCENARIOS = {
    name: test
    for name, test in vars(test_store_contract).items()
    if name.startswith("test_")
    and name != NOT_OF_REMOTE_TABLES
    and not hasattr(test, "pytestmark")  # what they are given is judged below the mirror
}


class MirrorDoor(Door):
    async def open(self) -> TabledStore:
        mirror = await Mirror.open(MemoryStore(history_events=self.history_events), Random(1))
        for prefix in PREFIXES:
            mirror.table(prefix)
        return mirror


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_a_mirror_keeps_the_contract(name: str, tmp_path: Path) -> None:
    test: Callable[[Door], None] = SCENARIOS[name]
    test(MirrorDoor(tmp_path))
