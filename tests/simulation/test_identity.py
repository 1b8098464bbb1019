"""A name that two daemons claim, and a daemon that has left: whose records they write."""

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest

from modelmesh.domain.instances import InstanceRecord
from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.peers.port import PeerPort
from modelmesh.registry.membership import Membership
from modelmesh.registry.store import INSTANCES, MODELS, Entry
from modelmesh.simulation.world import Pod, World
from modelmesh.wire.transport import Call
from tests.simulation.test_world import fleet


def member(pod: Pod) -> Membership:
    assert pod.daemon.member is not None
    return pod.daemon.member.membership


async def another(world: World, instance_id: str, address: str) -> Membership:
    """Another daemon of this name joins, and answers at its own address."""

    def serve(_model_id: str, _hops: object, call: Call) -> None:
        call.reply.finish(Failure(Code.UNAVAILABLE, "plays only", Fault.PEER))

    world.network.listen(address, PeerPort(instance_id, serve, lambda: 0, world.loop.time))
    joined = Membership(world.store, instance_id, world.wall_ms, ttl_s=30)

    async def silent(_holder: object) -> bool:
        return False

    record = replace(member(world.pods[instance_id]).record, address=address)
    await joined.join(record, silent)
    return joined


async def stored(world: World, key: str) -> Entry | None:
    return await world.store.get(key)


def test_who_ends_since_another_has_its_name_leaves_the_copies_of_that_one_alone() -> None:
    async def scenario(world: World) -> None:
        await world.register("a", ("m", ""))
        assert await world.ask("m", "a") == b"m"
        pod = world.pods["a"] if "m" in world.pods["a"].runtime.held else world.pods["b"]
        name = pod.instance_id
        other = await another(world, name, "elsewhere:1")
        assert pod.daemon.member is not None
        await asyncio.wait_for(pod.daemon.member.ended.wait(), 60)
        await world.stop(name)
        record = await stored(world, MODELS + "m")
        assert record is not None
        assert f'"{name}"'.encode() in record.value, "the copy of the one that stays"
        entry = await stored(world, INSTANCES + name)
        assert entry is not None
        assert b"elsewhere:1" in entry.value
        await other.leave()

    fleet(scenario)


def test_who_has_left_writes_nothing_more_when_the_store_is_back() -> None:
    async def scenario(world: World) -> None:
        pod = world.pods["a"]
        assert pod.daemon.member is not None
        await pod.life.run(asyncio.ensure_future, pod.daemon.member.leave(5))
        assert await stored(world, INSTANCES + "a") is None

        async def fails() -> None:
            raise MeshError(Failure(Code.UNAVAILABLE, "no answer", Fault.STORE))

        with suppress(MeshError):
            await pod.mirror.availability.call(fails)
        assert not pod.mirror.answers
        await asyncio.sleep(5)
        assert pod.mirror.answers, "the store is not back"
        assert await stored(world, INSTANCES + "a") is None, "it would be a ghost"

    fleet(scenario)


def test_who_died_while_leaving_keeps_nobody_from_being_ready() -> None:
    async def scenario(world: World) -> None:
        leaving = world.pods["b"].daemon
        leaving.instance.draining = True
        assert leaving.member is not None
        await leaving.member.rounds.publisher.now()
        began_s = world.loop.time()
        bounded = asyncio.ensure_future(world.start("d"))
        await asyncio.wait([bounded], timeout=10)
        assert not bounded.done(), "it waits for who is leaving"
        world.crash("b")
        assert await bounded is not None
        assert world.loop.time() - began_s < 12
        entry = await stored(world, INSTANCES + "b")
        assert entry is not None, "the lease was over: this shows nothing"
        assert InstanceRecord.from_json(entry.value).draining

    fleet(scenario)


@pytest.mark.parametrize("answers", [True, False])
def test_who_wakes_knows_who_he_is_before_he_manages(answers: bool) -> None:
    """Another has taken the name meanwhile: if he answers he keeps it, else he is followed."""

    async def scenario(world: World) -> None:
        pod = world.pods["a"]
        before = member(pod).record
        world.pause("a")
        other = await another(world, "a", "elsewhere:1")
        await asyncio.sleep(40)
        if not answers:
            world.network.crash("elsewhere:1")
        world.resume("a")
        sure = pod.life.run(asyncio.ensure_future, pod.daemon.be_sure())
        outcome: object = (await asyncio.gather(sure, return_exceptions=True))[0]
        assert pod.daemon.member is not None
        if answers:
            assert isinstance(outcome, MeshError)
            assert outcome.failure.code is Code.UNAVAILABLE
            assert pod.daemon.member.ended.is_set()
        else:
            assert outcome is None
            assert member(pod).record.epoch > other.record.epoch > before.epoch
        await other.leave()

    fleet(scenario)
