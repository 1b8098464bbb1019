"""Who exists: joining, staying, being replaced, and leaving, in virtual time."""

import asyncio
from dataclasses import replace

import pytest

from modelmesh.domain.instances import InstanceRecord
from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.observe.tasks import stop
from modelmesh.registry.membership import Membership
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.store import INSTANCES, Delete, Entry, Put
from modelmesh.simulation.clock import run

TTL_S = 30.0


def wall_ms() -> int:
    return round(asyncio.get_running_loop().time() * 1000)


def member(store: MemoryStore, me: str, replaced: list[str] | None = None) -> Membership:
    told = (lambda: replaced.append(me)) if replaced is not None else (lambda: None)
    return Membership(store, me, wall_ms, ttl_s=TTL_S, replaced=told)


def record(address: str) -> InstanceRecord:
    return InstanceRecord(start_ms=1, address=address)


async def silent(_holder: InstanceRecord) -> bool:
    return False


async def answering(_holder: InstanceRecord) -> bool:
    return True


def test_members_see_each_other_and_one_leads() -> None:
    async def main() -> None:
        async with MemoryStore() as store:
            a, b = member(store, "a"), member(store, "b")
            await a.join(record("h:1"), silent)
            await b.join(record("h:2"), silent)
            assert [*a.others()] == ["b"]
            assert b.others()["a"].address == "h:1"
            assert (a.is_leader(), b.is_leader()) == (True, False)
            await b.publish(replace(record("h:2"), model_count=7))
            assert a.others()["b"].model_count == 7
            await a.leave()
            assert (b.others(), b.is_leader()) == ({}, True)
            await b.leave()

    run(main())


def test_a_record_stays_for_hours_and_goes_with_its_daemon() -> None:
    async def main() -> None:
        async with MemoryStore() as store:
            a = member(store, "a")
            await a.join(record("h:1"), silent)
            await asyncio.sleep(7200)
            assert await store.get(INSTANCES + "a") is not None
            assert a._keeper is not None
            a._keeper.cancel()  # as a kill would
            await asyncio.sleep(TTL_S + 1)
            assert await store.get(INSTANCES + "a") is None

    run(main())


def test_an_identity_in_use_is_refused_while_its_holder_answers() -> None:
    async def main() -> None:
        async with MemoryStore() as store:
            first, second = member(store, "a"), member(store, "a")
            before = await first.join(record("h:1"), silent)
            with pytest.raises(MeshError, match="in use at h:1") as refused:
                await second.join(record("h:2"), answering)
            assert refused.value.failure.code is Code.FAILED_PRECONDITION
            after = await second.join(record("h:2"), silent)
            assert after.epoch > before.epoch
            await second.leave()

    run(main())


def test_one_who_was_replaced_notices_and_can_join_anew() -> None:
    async def main() -> None:
        async with MemoryStore() as store:
            replaced: list[str] = []
            sleeper, other = member(store, "a", replaced), member(store, "a")
            await sleeper.join(record("h:1"), silent)
            await other.join(record("h:2"), silent)
            await asyncio.sleep(TTL_S / 3 + 1)
            assert replaced == ["a"]
            await sleeper.publish(record("h:1"))
            found = await store.get(INSTANCES + "a")
            assert found is not None
            assert InstanceRecord.from_json(found.value).address == "h:2", "it fought back"
            await other.leave()
            await sleeper.rejoin()
            assert sleeper.record.epoch > other.record.epoch
            await sleeper.leave()

    run(main())


class Counting(MemoryStore):
    """Its reads are counted, and fail if it is told to."""

    reads = 0
    fails = False

    async def get(self, key: str) -> Entry | None:
        self.reads += 1
        if self.fails:
            raise MeshError(Failure(Code.UNAVAILABLE, "no answer", Fault.STORE))
        return await super().get(key)


async def stands_still(membership: Membership, seconds: float) -> None:
    """As SIGSTOP does it: its keeper does not run."""
    await stop(membership._keeper)
    await asyncio.sleep(seconds)


def test_who_stood_still_reads_its_own_record_before_it_goes_on() -> None:
    async def main() -> None:
        async with Counting() as store:
            replaced: list[str] = []
            sleeper, other = member(store, "a", replaced), member(store, "a")
            await sleeper.join(record("h:1"), silent)
            store.reads = 0
            await asyncio.sleep(TTL_S / 3 - 1)
            await sleeper.be_sure()
            assert store.reads == 0, "the keeper is in time"
            await stands_still(sleeper, TTL_S + 1)
            store.fails = True
            await sleeper.be_sure()  # nobody can know
            assert store.reads == 1
            store.fails = False
            await other.join(record("h:2"), silent)
            store.reads = 0
            await asyncio.gather(*(sleeper.be_sure() for _ in range(50)))
            assert (store.reads, replaced) == (1, ["a"])
            await other.leave()
            await sleeper.be_sure()
            store.reads = 0
            await sleeper.be_sure()
            assert store.reads == 0, "it is there again"
            await sleeper.leave()
            await sleeper.be_sure()

    run(main())


class Slow(MemoryStore):
    """Its leases take a second to be had."""

    async def grant(self, ttl_s: float) -> int:
        await asyncio.sleep(1)
        return await super().grant(ttl_s)


def test_what_is_published_while_joining_anew_keeps_the_new_epoch() -> None:
    async def main() -> None:
        async with Slow() as store:
            a = member(store, "a")
            before = await a.join(record("h:1"), silent)
            joining = asyncio.ensure_future(a.rejoin())
            await asyncio.sleep(0.5)
            await a.publish(replace(record("h:1"), model_count=7))
            await joining
            found = await store.get(INSTANCES + "a")
            assert found is not None
            after = InstanceRecord.from_json(found.value)
            assert after.model_count == 7
            assert after.epoch > before.epoch
            await a.leave()

    run(main())


def test_a_revoked_lease_is_replaced_by_the_next_look() -> None:
    async def main() -> None:
        async with MemoryStore() as store:
            a = member(store, "a")
            await a.join(record("h:1"), silent)
            entry = await store.get(INSTANCES + "a")
            assert entry is not None
            await store.revoke(entry.lease)
            assert await store.get(INSTANCES + "a") is None
            await asyncio.sleep(TTL_S / 3 + 1)
            assert await store.get(INSTANCES + "a") is not None
            assert a.is_leader()
            await a.leave()

    run(main())


def test_a_record_that_somebody_deleted_is_written_anew_by_the_next_publish() -> None:
    async def main() -> None:
        async with MemoryStore() as store:
            a = member(store, "a")
            await a.join(record("h:1"), silent)
            await store.commit([], [Delete(INSTANCES + "a")])
            await a.publish(replace(record("h:1"), model_count=3))
            assert await store.get(INSTANCES + "a") is not None
            await a.leave()

    run(main())


def test_an_outage_shorter_than_the_lease_changes_nothing_a_longer_one_is_healed() -> None:
    class Flaky(MemoryStore):
        silent = False

        async def keep_alive(self, lease: int) -> bool:
            if self.silent:
                raise MeshError(Failure(Code.UNAVAILABLE, "no answer", Fault.STORE))
            return await super().keep_alive(lease)

    async def main() -> None:
        async with Flaky() as store:
            a = member(store, "a")
            await a.join(record("h:1"), silent)
            store.silent = True
            await asyncio.sleep(TTL_S * 2)
            assert await store.get(INSTANCES + "a") is None, "the fault did not bite"
            store.silent = False
            await asyncio.sleep(2)
            assert await store.get(INSTANCES + "a") is not None
            await a.leave()

    run(main())


def test_a_record_that_cannot_be_read_is_left_out() -> None:
    async def main() -> None:
        async with MemoryStore() as store:
            a = member(store, "a")
            await a.join(record("h:1"), silent)
            await store.commit([], [Put(INSTANCES + "b", b"\xff"), Put(INSTANCES + "c", b"[]")])
            assert a.others() == {}
            await a.leave()

    run(main())
