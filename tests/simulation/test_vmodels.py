"""Vmodels in a simulated fleet: transitions that no caller notices, in virtual time."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, MeshError
from modelmesh.policy.transition import SetVModel, VModelState
from modelmesh.registry.store import MODELS, VMODELS, Put
from modelmesh.serving.status import State
from modelmesh.serving.vmodels import VModelStatus
from modelmesh.simulation.borders import Asked
from modelmesh.simulation.clock import run
from modelmesh.simulation.doors import TYPE
from modelmesh.simulation.world import Pod, World
from modelmesh.wire.kinds import V1_PREDICT
from modelmesh.wire.transport import Call

PODS = "abc"


def fleet(
    scenario: Callable[[World], Awaitable[None]], pods: str = PODS, capacity_bytes: int = 100_000
) -> None:
    async def main() -> None:
        world = World(1, capacity_bytes)
        for instance_id in pods:
            assert await world.start(instance_id) is not None
        await scenario(world)
        await world.close()

    run(main())


def info(**behaviour: object) -> ModelRecord:
    return ModelRecord(TYPE, "", json.dumps(behaviour) if behaviour else "")


async def set_vmodel(
    world: World, target: str, via: str = "a", bound_s: float = 300.0, **flags: Any
) -> VModelStatus:
    rooms = world.pods[via].daemon.vmodels
    request = SetVModel("v", target, **flags)
    status: VModelStatus = await world.manage(via, rooms.set_vmodel(request), bound_s)
    return status


async def status(world: World, via: str = "a") -> VModelStatus:
    found: VModelStatus = await world.manage(
        via, world.pods[via].daemon.vmodels.vmodel_status("v", "")
    )
    return found


async def refusal(work: Awaitable[Any]) -> Code:
    with pytest.raises(MeshError) as caught:
        await work
    return caught.value.failure.code


async def until(condition: Callable[[], bool], bound_s: float = 120.0) -> None:
    """Virtual seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + bound_s
    while not condition():
        assert loop.time() < end, "never came true"
        await asyncio.sleep(0.05)


def leader(world: World) -> Pod:
    (pod,) = [each for each in world.pods.values() if each.daemon.member.rounds.leads()]  # type: ignore[union-attr]
    return pod


def refs(world: World) -> dict[str, int]:
    table = world.store.table(MODELS)
    entries = {name: table.get(name) for name in table.names()}
    return {name: ModelRecord.from_json(e.value).refs for name, e in entries.items() if e}


@dataclass
class Traffic:
    """Callers of one name that never pause, at every daemon. `how`: by vmodel or by name."""

    world: World
    how: str = "infer_vmodel"
    pause_s: float = 0.02
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    last: str = ""
    over: bool = False

    async def __aenter__(self) -> "Traffic":
        self._tasks = [asyncio.ensure_future(self._call(n)) for n in range(6)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.over = True
        await asyncio.gather(*self._tasks)

    async def _call(self, n: int) -> None:
        while not self.over:
            pods = list(self.world.pods.values())
            await self.ask(pods[n % len(pods)])
            await asyncio.sleep(self.pause_s)

    async def ask(self, pod: Pod) -> None:
        reply = Asked()
        deadline = self.world.loop.time() + 30.0
        call = Call(V1_PREDICT, b"{}", reply, (), deadline)
        pod.callers[reply] = None
        pod.life.post(getattr(pod.daemon.named, self.how), "v", call)
        try:
            async with asyncio.timeout_at(deadline):
                answer = await reply.future
            self.last = answer.decode()
            self.answers[self.last] += 1
        except MeshError as error:
            if pod.alive:  # the answer of a daemon that was killed is nobody's promise
                self.failures.append(error.failure.message)
        except TimeoutError:
            self.failures.append("no answer")
        finally:
            del pod.callers[reply]


@pytest.mark.parametrize("how", ["infer_vmodel", "infer_named"])
def test_a_transition_under_requests_fails_none(how: str) -> None:
    async def scenario(world: World) -> None:
        await set_vmodel(world, "m1", info=info(predict_s=0.01), auto_delete=True, sync=True)
        async with Traffic(world, how, 0.003) as traffic:
            await until(lambda: traffic.answers["m1"] > 100)
            for n in range(2, 6):
                said = await set_vmodel(
                    world, f"m{n}", "abc"[n % 3], auto_delete=True, sync=True,
                    info=info(load_s=1.0, predict_s=0.01),
                )  # fmt: skip
                assert (said.state, said.active_id) == (VModelState.DEFINED, f"m{n}")
                assert said.active is not None
                assert said.active.state is State.LOADED
                count = traffic.answers[f"m{n}"]
                await until(lambda n=n, count=count: traffic.answers[f"m{n}"] > count + 50)  # type: ignore[misc]
        assert not traffic.failures
        assert set(traffic.answers) == {f"m{n}" for n in range(1, 6)}
        assert refs(world) == {"m5": 1}
        await until(lambda: not any("m1" in pod.runtime.held for pod in world.pods.values()))

    fleet(scenario)


def test_daemons_that_hear_of_no_change_fail_no_call() -> None:
    async def scenario(world: World) -> None:
        for each in "bc":
            world.pods[each].link.lose = 1.0  # they hear of nothing
        for n in range(4):
            await set_vmodel(world, f"m{n}", info=info(), auto_delete=True, force=True)
            traffic = Traffic(world)
            for each in "bca":
                await traffic.ask(world.pods[each])
            assert not traffic.failures
            assert traffic.answers.total() == 3
            assert traffic.last == f"m{n}"  # of the daemon that made the change
        assert world.struck["watch event lost"] > 0, "nothing was lost: this shows nothing"
        assert refs(world) == {"m3": 1}
        named = Traffic(world, "infer_named")
        await named.ask(world.pods["b"])
        assert not named.failures
        for each in "bc":
            world.pods[each].link.lose = 0.0

    fleet(scenario)


def test_a_target_that_does_not_load_changes_nothing_and_recovers() -> None:
    async def scenario(world: World) -> None:
        await set_vmodel(world, "good", info=info(), sync=True)
        async with Traffic(world, pause_s=0.1) as traffic:
            await until(lambda: traffic.answers["good"] > 10)
            said = await set_vmodel(
                world, "bad", info=info(load_error="no such file"), sync=True, via="b"
            )
            assert said.state is VModelState.TRANSITION_FAILED
            assert (said.active_id, said.target_id) == ("good", "bad")
            assert said.target is not None
            assert "no such file" in said.target.errors
            loads = world.ledger.loads["bad"]
            await asyncio.sleep(180)
            assert world.ledger.loads["bad"] <= loads + 3, "it is loaded again and again"
            assert set(traffic.answers) == {"good"}
            # Somebody repairs it: what is wrong with the registration is put right.
            entry = world.store.table(MODELS).get("bad")
            assert entry is not None
            record = ModelRecord.from_json(entry.value)
            assert record.failed_in
            repaired = ModelRecord(TYPE, refs=record.refs)
            await world.store.commit([], [Put(MODELS + "bad", repaired.to_json())])
            for pod in world.pods.values():
                pod.daemon.parts.failures.forget("bad")
            await until(lambda: traffic.last == "bad")
        assert not traffic.failures
        assert (await status(world)).state is VModelState.DEFINED
        assert refs(world) == {"good": 0, "bad": 1}

    fleet(scenario)


def test_of_three_quick_updates_the_last_wins_and_the_others_go_once() -> None:
    async def scenario(world: World) -> None:
        await set_vmodel(world, "m1", info=info(), sync=True)
        deleted: Counter[str] = Counter()
        world.store.table(MODELS).subscribe(
            lambda events: deleted.update(e.key for e in events if e.entry is None)
        )
        async with Traffic(world) as traffic:
            await until(lambda: traffic.answers["m1"] > 10)
            for n, via in ((2, "a"), (3, "b"), (4, "c")):
                said = await set_vmodel(
                    world, f"m{n}", via, info=info(load_s=5.0), auto_delete=True
                )
                assert (said.active_id, said.target_id) == ("m1", f"m{n}")
            await until(lambda: traffic.last == "m4")
        assert not traffic.failures
        assert set(traffic.answers) == {"m1", "m4"}
        assert deleted == Counter({MODELS + "m2": 1, MODELS + "m3": 1})
        assert refs(world) == {"m1": 0, "m4": 1}
        await asyncio.sleep(30)
        for pod in world.pods.values():
            assert not {"m2", "m3"} & set(pod.runtime.held)

    fleet(scenario)


def test_force_moves_at_once_and_the_callers_wait_for_the_load() -> None:
    async def scenario(world: World) -> None:
        await set_vmodel(world, "m1", info=info(), auto_delete=True, sync=True)
        async with Traffic(world) as traffic:
            await until(lambda: traffic.answers["m1"] > 10)
            said = await set_vmodel(world, "m2", info=info(load_s=2.0), force=True)
            assert (said.state, said.active_id) == (VModelState.DEFINED, "m2")
            await until(lambda: traffic.last == "m2")
        assert not traffic.failures
        assert refs(world) == {"m2": 1}

    fleet(scenario)


def test_what_is_deleted_in_transition_is_gone_with_all_its_models() -> None:
    async def scenario(world: World) -> None:
        await set_vmodel(world, "m1", info=info(), auto_delete=True, sync=True)
        await set_vmodel(world, "m2", info=info(load_s=30.0), auto_delete=True)
        await until(lambda: bool(world.ledger.loads["m2"]))
        rooms = world.pods["b"].daemon.vmodels
        await world.manage("b", rooms.delete_vmodel("v", ""))
        for each in PODS:
            assert (await status(world, each)).state is VModelState.NOT_FOUND
            traffic = Traffic(world)
            await traffic.ask(world.pods[each])
            assert traffic.failures == ["vmodel not found"]
        assert refs(world) == {}
        await asyncio.sleep(60)
        assert not any(pod.runtime.held for pod in world.pods.values())

    fleet(scenario)


def test_what_was_not_expected_is_refused() -> None:
    async def scenario(world: World) -> None:
        await world.register("a", ("m1", ""), ("m2", ""))
        await set_vmodel(world, "m1", owner="me")
        wrong = set_vmodel(world, "m2", "b", expected_target="m3")
        assert await refusal(wrong) is Code.FAILED_PRECONDITION
        assert await refusal(set_vmodel(world, "m2", "b", owner="you")) is Code.ALREADY_EXISTS
        assert await refusal(world.unregister("c", "m1")) is Code.FAILED_PRECONDITION
        said = await set_vmodel(world, "m2", "c", expected_target="m1", owner="me")
        assert said.target_id == "m2"

    fleet(scenario)


def test_who_takes_over_the_lead_ends_the_transition() -> None:
    async def scenario(world: World) -> None:
        await set_vmodel(world, "m1", info=info(), sync=True)
        async with Traffic(world) as traffic:
            await until(lambda: traffic.answers["m1"] > 10)
            first = leader(world)
            via = next(each for each in PODS if each != first.instance_id)
            await set_vmodel(world, "m2", via, info=info(load_s=20.0))
            await until(lambda: bool(world.ledger.loads["m2"]))
            world.crash(first.instance_id)
            await until(lambda: traffic.last == "m2")
            assert leader(world) is not first
        assert not traffic.failures
        assert refs(world) == {"m1": 0, "m2": 1}

    fleet(scenario)


def test_a_target_gets_as_many_copies_as_the_active_model_has() -> None:
    async def scenario(world: World) -> None:
        await set_vmodel(world, "m1", info=info(), sync=True)
        spreading = world.pods["a"].daemon.member.spreading  # type: ignore[union-attr]
        await world.manage("a", spreading.another_copy("m1", 30.0))
        await until(lambda: copies(world, "m1") >= 2)
        had = copies(world, "m1")
        await set_vmodel(world, "m2", info=info(load_s=1.0), sync=True)
        assert copies(world, "m2") >= had

    fleet(scenario)


def copies(world: World, model_id: str) -> int:
    return sum(model_id in pod.runtime.held for pod in world.pods.values())


def test_a_hundred_transitions_at_once_end() -> None:
    async def scenario(world: World) -> None:
        await world.register("a", *((f"{side}{n}", "") for n in range(100) for side in "xy"))
        for side in "xy":
            for n in range(100):
                rooms = world.pods["abc"[n % 3]].daemon.vmodels
                request = SetVModel(f"v{n}", f"{side}{n}", load_now=True)
                await world.manage("abc"[n % 3], rooms.set_vmodel(request))
            await asyncio.sleep(5)
        table = world.store.table(VMODELS)
        assert len(table) == 100
        found = refs(world)
        await until(lambda: all(refs(world)[f"x{n}"] == 0 for n in range(100)))
        assert all(found[f"y{n}"] == 1 for n in range(100))
        for pod in world.pods.values():
            assert pod.daemon.transitions.moving == 0

    fleet(scenario, capacity_bytes=1_000_000)


@pytest.mark.parametrize("seed", range(4))
def test_no_call_fails_while_names_move_and_watches_lose_and_delay_what_they_say(seed: int) -> None:
    async def scenario(world: World) -> None:
        rng = Random(seed)
        for pod in world.pods.values():
            pod.link.lose = rng.choice([0.0, 0.2, 0.5])
            pod.link.delay = rng.choice([0.0, 0.3])
        world.pods["b"].link.lose = 0.5
        await set_vmodel(world, "m0", info=info(), auto_delete=True, sync=True)
        by_header = Traffic(world, pause_s=0.1)
        by_name = Traffic(world, "infer_named", 0.1)
        async with by_header, by_name:
            for n in range(1, 10):
                await set_vmodel(
                    world, f"m{n}", rng.choice(PODS),
                    info=info(load_s=rng.choice([0.01, 0.5, 2.0]), predict_s=0.01),
                    auto_delete=True, sync=rng.random() < 0.5, force=rng.random() < 0.3,
                )  # fmt: skip
                await asyncio.sleep(rng.choice([0.0, 0.01, 0.3, 2.0]))
            await asyncio.sleep(10)
        assert not by_header.failures
        assert not by_name.failures
        assert by_header.answers["m0"]
        assert refs(world) == {"m9": 1}
        assert world.struck["watch event lost"], "nothing was lost: this shows nothing"
        for pod in world.pods.values():
            pod.link.lose = pod.link.delay = 0.0

    fleet(scenario, capacity_bytes=20_000)
