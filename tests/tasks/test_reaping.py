"""The leader's rounds: bounded pieces, whatever fails, and nothing by those who do not lead."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from modelmesh.domain.instances import InstanceRecord
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.policy.reaping import ReapingLimits
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.models import Models
from modelmesh.registry.store import MODELS, Put
from modelmesh.simulation.clock import run
from modelmesh.tasks.reaping import Reaper
from tests.turns import turns_of

ROOM = InstanceRecord(start_ms=1, capacity_units=100_000, load_slots=4, lru_ms=1)
HELD = ModelRecord("dummy", instance_ids={"dead": 1}, loaded_in={"dead": 2})
LIMITS = ReapingLimits(most_looked=10, most_changes=4)


class Fleet:
    """Who there is, as the test says."""

    def __init__(self) -> None:
        self.leading = True
        self.live: dict[str, InstanceRecord] = {"me": ROOM}
        self.in_store: set[str] = set()
        self.asked: list[str] = []
        self.silent = False
        self.loads: list[str] = []
        self.refused: set[str] = set()
        self.unfit: set[str] = set()

    def leads(self) -> bool:
        return self.leading

    def instances(self) -> Mapping[str, InstanceRecord]:
        return self.live

    def feasible(self, model_type: str, record: InstanceRecord) -> bool:
        return model_type not in self.unfit

    async def exists(self, instance_id: str) -> bool:
        self.asked.append(instance_id)
        if self.silent:
            raise MeshError(Failure(Code.UNAVAILABLE, "no answer", Fault.STORE))
        return instance_id in self.in_store

    async def ensure_loaded(self, model_id: str, last_used_ms: int) -> None:
        self.loads.append(model_id)
        if model_id in self.refused:
            raise MeshError(Failure(Code.UNAVAILABLE, "no room"))


class Rounds:
    """A reaper over a store in memory, its rounds a minute apart."""

    def __init__(self, limits: ReapingLimits = LIMITS, store: MemoryStore | None = None) -> None:
        self.store, self.fleet = store or MemoryStore(), Fleet()
        self.models = Models(self.store)
        loop = asyncio.get_running_loop()
        self.reaper = Reaper(
            self.models, self.fleet, lambda: 1 << 20, loop.time,
            lambda: round(loop.time() * 1000), limits,
        )  # fmt: skip

    async def register(self, count: int, record: ModelRecord, prefix: str = "m") -> None:
        for n in range(count):
            await self.store.commit([], [Put(f"{MODELS}{prefix}{n:03}", record.to_json())])

    async def tick(self, times: int = 1) -> None:
        for _ in range(times):
            with suppress(MeshError):
                await self.reaper.tick()
            await asyncio.sleep(60)

    def holding(self, instance_id: str) -> int:
        records = (self.models.get(name) for name in self.models.names())
        return sum(1 for r in records if r is not None and instance_id in r.instance_ids)


def test_traces_of_an_instance_that_is_gone_for_long_are_taken_out_in_pieces() -> None:
    async def main() -> None:
        rounds = Rounds()
        await rounds.register(25, HELD)
        await rounds.tick(12)
        assert rounds.holding("dead") == 25, "it may merely be late"
        before = rounds.holding("dead")
        for _ in range(12):
            await rounds.tick()
            assert before - rounds.holding("dead") <= LIMITS.most_changes
            before = rounds.holding("dead")
        assert before == 0
        assert rounds.fleet.asked, "the store itself was not asked"

    run(main())


def test_who_is_in_the_store_after_all_is_left_alone() -> None:
    async def main() -> None:
        rounds = Rounds()
        rounds.fleet.in_store.add("dead")
        await rounds.register(5, HELD)
        await rounds.tick(30)
        assert rounds.fleet.asked
        assert rounds.holding("dead") == 5

    run(main())


def test_while_the_store_does_not_say_so_nobody_is_gone() -> None:
    async def main() -> None:
        rounds = Rounds()
        await rounds.register(5, HELD)
        rounds.fleet.silent = True
        await rounds.tick(30)
        assert rounds.fleet.asked
        assert rounds.holding("dead") == 5

    run(main())


def test_who_does_not_lead_does_nothing_and_begins_anew_when_he_does() -> None:
    async def main() -> None:
        rounds = Rounds()
        await rounds.register(5, HELD)
        await rounds.tick(9)
        rounds.fleet.leading = False
        await rounds.tick(30)
        assert rounds.fleet.asked == []
        rounds.fleet.leading = True
        await rounds.tick(10)
        assert rounds.holding("dead") == 5, "what was noted long ago counts no more"
        await rounds.tick(10)
        assert rounds.holding("dead") == 0

    run(main())


def test_a_record_that_cannot_be_changed_does_not_stop_the_rounds() -> None:
    class Stubborn(MemoryStore):
        """One record's every change is contended."""

        struck = 0

        async def commit(self, compares, changes):  # type: ignore[no-untyped-def]
            if compares and changes[0].key == MODELS + "m000":
                self.struck += 1
                raise MeshError(Failure(Code.ABORTED, "contended", Fault.STORE))
            return await super().commit(compares, changes)

    async def main() -> None:
        store = Stubborn()
        rounds = Rounds(store=store)
        await rounds.register(25, HELD)
        await rounds.tick(40)
        assert store.struck
        assert rounds.holding("dead") == 1

    run(main())


def test_old_failures_are_forgotten_wherever_they_were() -> None:
    async def main() -> None:
        rounds = Rounds()
        await rounds.register(1, ModelRecord("dummy").failed("you", 1, "no file"))
        await rounds.tick()
        record = rounds.models.get("m000")
        assert record is not None
        assert record.failed_in == {}
        assert record.fails == {}

    run(main())


def test_what_nobody_holds_is_loaded_ahead_best_first_and_each_once() -> None:
    async def main() -> None:
        rounds = Rounds(ReapingLimits(most_looked=10, most_changes=4))
        for n in range(12):
            await rounds.register(1, ModelRecord("dummy", last_used_ms=n + 1), f"m{n:02}-")
        old = ModelRecord("dummy", last_used_ms=50).failed("you", 1, "no file")
        await rounds.register(8, old, "a")  # to be tidied, more than one piece allows
        rounds.fleet.refused = {"m11-000"}
        await rounds.tick(6)
        loads = rounds.fleet.loads
        first = loads[: len({*loads})]
        assert len(first) == len({*first}), "a model was counted twice"
        assert first[8:11] == ["m11-000", "m10-000", "m09-000"]

    run(main())


def test_a_type_that_fits_nowhere_is_not_loaded_ahead() -> None:
    async def main() -> None:
        rounds = Rounds()
        rounds.fleet.unfit = {"gpu"}
        await rounds.register(3, ModelRecord("gpu", last_used_ms=5), "g")
        await rounds.register(3, ModelRecord("dummy", last_used_ms=5), "d")
        await rounds.tick(2)
        assert {*rounds.fleet.loads} == {"d000", "d001", "d002"}

    run(main())


def test_what_a_live_instance_holds_is_not_loaded_ahead() -> None:
    async def main() -> None:
        rounds = Rounds()
        rounds.fleet.live["you"] = replace(ROOM)
        await rounds.register(3, ModelRecord("dummy").claimed("you", 1))
        await rounds.tick(2)
        assert rounds.fleet.loads == []

    run(main())


def test_a_look_over_many_records_lets_others_have_their_turns() -> None:
    async def main() -> None:
        rounds = Rounds(ReapingLimits())
        await rounds.register(900, ModelRecord("dummy"))
        assert await turns_of(rounds.reaper.tick()) >= 8

    run(main())
