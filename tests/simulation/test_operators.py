"""What an operator is told by a fleet: states that are true at once, and logs that can be read."""

import asyncio
from collections import Counter
from typing import Any

from structlog.testing import capture_logs

from modelmesh.cache.decisions import Verdict
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Failure
from modelmesh.observe.metrics import FleetGauges
from modelmesh.registry.store import MODELS
from modelmesh.serving.status import State
from modelmesh.serving.wishes import WishChange
from modelmesh.simulation.clock import run
from modelmesh.simulation.doors import TYPE
from modelmesh.simulation.faults import Sky, Weather
from modelmesh.simulation.store import StoreLink
from modelmesh.simulation.watching import watching
from modelmesh.simulation.world import Parts, World
from tests.simulation.test_rounds import holders, key, use
from tests.simulation.test_world import fleet


def test_who_waited_for_a_load_elsewhere_is_told_that_it_is_loaded() -> None:
    async def scenario(world: World) -> None:
        elsewhere = 0
        world.pods["a"].link.lose = 1.0  # its watch is as late as can be
        for n in range(9):
            name, management = f"m{n}", world.pods["a"].daemon.management
            record = ModelRecord(TYPE, "", key(load_s=0.2))
            status = await world.manage("a", management.register(name, record, True, True))
            assert status.state is State.LOADED
            elsewhere += "a" not in holders(world, name)
            status = await world.manage("a", management.status(name))
            assert {copy.state for copy in status.copies} == {State.LOADED}
        assert elsewhere, "all were loaded here: the scenario shows nothing"

    fleet(scenario)


def test_explain_says_what_a_request_would_meet_wherever_it_is_asked() -> None:
    async def scenario(world: World) -> None:
        await world.register("a", ("m", key(load_s=1.0)))
        assert await world.ask("m", "a") == b"m"
        (holder,) = holders(world, "m")
        await asyncio.sleep(1)  # until all have heard
        for instance_id, pod in world.pods.items():
            told = await world.manage(instance_id, pod.daemon.management.explain("m"))
            if instance_id == holder:
                assert told.forward == ""
                assert told.explanation.decision.verdict is Verdict.SERVE
            else:
                assert told.forward == f"to {holder}: the least loaded copy"

    fleet(scenario)


def test_an_outage_of_a_minute_is_a_handful_of_lines() -> None:
    async def scenario(world: World) -> None:
        await world.register("a", *((f"m{n}", "") for n in range(30)))
        with capture_logs() as lines:
            for pod in world.pods.values():
                pod.link.cut()
            for n in range(30):
                await use(world, f"m{n}", 2, 1)
            assert not world.pods["a"].mirror.answers, "the fault did not bite"
        said = Counter(line["event"] for line in lines if line["log_level"] == "warning")
        assert said["copy records wait for the store"] == 3, said
        assert said["the lease could not be kept"] == 3, said
        assert said["this instance could not be published"] <= 3, said

    fleet(scenario)


def test_the_registry_knows_within_an_hour_when_a_model_was_used() -> None:
    async def scenario(world: World) -> None:
        def noted_ms() -> int:
            entry = world.store.space.get(MODELS + "m")
            assert entry is not None
            return ModelRecord.from_json(entry.value).last_used_ms

        await world.register("a", ("m", ""), ("other", ""))
        await use(world, "m", 5, 1)
        used_ms = world.wall_ms()
        await asyncio.sleep(100)  # a round of the janitor
        first_ms = noted_ms()
        assert used_ms - 5000 <= first_ms <= used_ms
        await use(world, "m", 5, 1)
        await asyncio.sleep(100)
        assert noted_ms() == first_ms, "a write for every round"
        await asyncio.sleep(3600)
        await use(world, "m", 5, 1)
        await asyncio.sleep(100)
        assert noted_ms() > first_ms + 3_600_000

    fleet(scenario)


def test_a_load_ahead_is_no_use() -> None:
    async def scenario(world: World) -> None:
        await world.register("a", ("m", ""))
        await asyncio.sleep(200)  # the leader loads it, since there is room
        assert holders(world, "m"), "nobody loaded it: the scenario shows nothing"
        entry = world.store.space.get(MODELS + "m")
        assert entry is not None
        assert ModelRecord.from_json(entry.value).last_used_ms < world.wall_ms() - 3_600_000

    fleet(scenario)


def test_what_an_operator_unloads_stays_out_until_somebody_asks_for_it() -> None:
    async def scenario(world: World) -> None:
        await world.register("a", ("m", ""), ("wished", ""))
        for name in ("m", "wished"):
            assert await world.ask(name, "a") == name.encode()
        management = world.pods["b"].daemon.management
        await world.manage("b", management.set_wishes("wished", WishChange(min_copies=1)))
        for name in ("m", "wished"):
            assert await world.manage("b", management.unload(name))
        assert not holders(world, "m")
        await asyncio.sleep(1000)
        assert not holders(world, "m")
        assert holders(world, "wished"), "nothing is loaded ahead: the scenario shows nothing"
        assert await world.ask("m", "a") == b"m"
        (holder,) = holders(world, "m")
        world.crash(holder)
        await asyncio.sleep(300)
        assert holders(world, "m"), "it was asked for since"

    fleet(scenario)


def test_the_leader_alone_counts_what_the_fleet_holds() -> None:
    async def scenario(world: World) -> None:
        def said() -> dict[str, FleetGauges]:
            told = {name: pod.daemon.fleet_gauges() for name, pod in world.pods.items()}
            return {name: gauges for name, gauges in told.items() if gauges is not None}

        await world.register("a", *((f"m{n}", "") for n in range(6)))
        await world.register("a", ("broken", key(load_error="no model")))
        for n in range(4):
            assert await world.ask(f"m{n}", "abc"[n % 3]) == f"m{n}".encode()
        assert isinstance(await world.ask("broken", "b"), Failure)
        await asyncio.sleep(20)
        assert said() == {"a": FleetGauges(4, 1, 7)}
        assert await world.ask("m4", "b") == b"m4"
        await world.unregister("c", "m5")
        world.crash("a")
        await asyncio.sleep(45)  # until its lease has ended, and the next one has counted
        held = sum(bool(holders(world, f"m{n}")) for n in range(5))
        (gauges,) = said().values()
        assert gauges == FleetGauges(held, 1, 6)

    fleet(scenario)


def test_after_a_restore_the_records_soon_name_the_copies_that_are_there() -> None:
    async def scenario(world: World) -> None:
        def named(model_id: str) -> set[str]:
            entry = world.store.space.get(MODELS + model_id)
            return {*ModelRecord.from_json(entry.value).loaded_in} if entry is not None else set()

        await world.register("a", *((f"m{n}", "") for n in range(6)))
        older = world.shared.keep()
        await world.register("a", *((f"later{n}", "") for n in range(6)))
        for n in range(6):
            assert await world.ask(f"m{n}", "abc"[n % 3]) == f"m{n}".encode()
        for n in range(3):
            assert await world.ask(f"later{n}", "abc"[n % 3]) == f"later{n}".encode()
        await asyncio.sleep(10)
        world.shared.restore(*older)
        for n in range(3, 6):  # which the store knows nothing of
            assert await world.ask(f"later{n}", "abc"[n % 3]) == f"later{n}".encode()
        names = [*(f"m{n}" for n in range(6)), *(f"later{n}" for n in range(6))]
        lacking = [name for name in names if named(name) != holders(world, name)]
        assert len(lacking) > 6, "the store is not the older one: the scenario shows nothing"
        await asyncio.sleep(5)
        assert {name: named(name) for name in names} == {
            name: holders(world, name) for name in names
        }

    fleet(scenario)


class _Down(StoreLink):
    """To a store that refuses connections."""

    def __init__(self, *known: Any) -> None:
        super().__init__(*known)
        self.down = True


class _NoStore(Parts):
    link = _Down


def test_a_start_that_finds_neither_store_nor_snapshot_ends_and_says_so() -> None:
    async def main() -> None:
        world = World(1, 100_000, parts=_NoStore())
        failed: list[str] = []
        with watching(failed.append, None):
            assert await world.start("a") is None
        assert "no snapshot" in world.why_not_started
        assert failed == [], "it is no bug of a daemon"
        assert world.pods == {}, "what has ended is not there"
        await world.close()

    run(main())


def test_who_cannot_start_without_the_store_is_started_again_until_it_can() -> None:
    """Seed 8628: as under a supervisor."""

    async def main() -> None:
        world = World(1, 100_000, parts=_NoStore())
        sky = Sky(world, Weather(), lambda what: None)
        restarting = asyncio.create_task(sky.restart("a"), name="restart")
        await asyncio.sleep(30.0)
        assert world.struck["start failed"] > 1, "the store kept nobody from starting"
        world.parts = Parts()
        await restarting
        assert world.pods["a"].ready
        await world.close()

    run(main())
