"""The leader counts the fleet's models; nobody else does, and nothing is decoded in vain."""

from modelmesh.domain.records import ModelRecord
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.store import MODELS, Put
from modelmesh.simulation.clock import run
from modelmesh.tasks.census import Census, Count

COLD = ModelRecord("dummy")
RECORDS = {
    "cold": COLD,
    "held": COLD.loaded("a", 1),
    "held twice": COLD.loaded("a", 1).loaded("b", 1),
    "held by one that is gone": COLD.loaded("gone", 1),
    "on its way": COLD.claimed("a", 1),
    "failed": COLD.failed("a", 1, "no model"),
    "failed and held": COLD.failed("a", 1, "no model").loaded("b", 1),
}


def test_only_the_leader_counts() -> None:
    async def main() -> None:
        leads = True
        async with MemoryStore() as store:
            for name, record in RECORDS.items():
                await store.commit([], [Put(MODELS + name, record.to_json())])
            for n in range(1200):
                await store.commit([], [Put(f"{MODELS}n{n:04}", COLD.to_json())])
            await store.commit([], [Put(MODELS + "unreadable", b'"loadedIn"')])
            census = Census(store.table(MODELS), lambda: leads, lambda: {"a", "b"})
            assert census.count is None, "it has not counted yet"
            await census.tick()
            assert census.count == Count(loaded=3, failed=2)
            leads = False
            assert census.count is None
            await census.tick()
            leads = True
            assert census.count is None, "a count of an earlier reign"

    run(main())
