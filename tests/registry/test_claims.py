"""What a daemon writes about its copies: claims at once, everything else soon and together."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.policy.claiming import Claiming, Contender
from modelmesh.registry.claims import Claimed, CopyRecords, Unregistered
from modelmesh.registry.keyspace import COMMIT_BYTES
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.models import Models
from modelmesh.registry.store import Change, Committed, Compare
from modelmesh.simulation.clock import run


class Counted(MemoryStore):
    """Counts commits; `silent` ones fail as if the store did not answer."""

    commits = 0
    silent = False

    async def commit(self, compares: Any, changes: Any) -> Committed:
        if self.silent:
            raise MeshError(Failure(Code.UNAVAILABLE, "no answer", Fault.STORE))
        self.commits += 1
        return await super().commit(compares, changes)


class Slow(MemoryStore):
    """Holds commits while there is a `gate`."""

    gate: asyncio.Event | None = None
    held = 0

    async def commit(self, compares: Any, changes: Any) -> Committed:
        if self.gate is not None:
            self.held += 1
            await self.gate.wait()
        return await super().commit(compares, changes)


@asynccontextmanager
async def one(store: MemoryStore, me: str) -> AsyncIterator[CopyRecords]:
    records = CopyRecords(store, me, wall_ms)
    try:
        yield records
    finally:
        await records.close()


def wall_ms() -> int:
    return round(asyncio.get_running_loop().time() * 1000)


def claiming(me: str, *dead: str) -> Claiming:
    return Claiming(me, wall_ms(), lambda instance_id: instance_id not in dead, 60_000)


async def models_of(store: MemoryStore, count: int = 1) -> Models:
    models = Models(store)
    await models.register_many([(f"m{n}", ModelRecord("dummy")) for n in range(count)])
    return models


def test_of_many_claims_one_wins_and_the_others_hear_who() -> None:
    async def main() -> None:
        async with Counted() as store:
            models = await models_of(store)
            daemons = [CopyRecords(store, f"i{n}", wall_ms) for n in range(10)]
            claims = await asyncio.gather(
                *(each.claim("m0", claiming(f"i{n}")) for n, each in enumerate(daemons))
            )
            (winner,) = [n for n, claim in enumerate(claims) if isinstance(claim, Claimed)]
            lost = [claim for n, claim in enumerate(claims) if n != winner]
            assert lost == [Contender(f"i{winner}", loaded=False)] * 9
            record = models.get("m0")
            assert record is not None
            assert list(record.instance_ids) == [f"i{winner}"]
            for each in daemons:
                await each.close()

    run(main())


def test_a_claim_of_a_daemon_that_is_gone_is_taken_over() -> None:
    async def main() -> None:
        async with Counted() as store, one(store, "a") as a, one(store, "b") as b:
            await models_of(store)
            assert isinstance(await a.claim("m0", claiming("a")), Claimed)
            assert await b.claim("m0", claiming("b")) == Contender("a", loaded=False)
            assert isinstance(await b.claim("m0", claiming("b", "a")), Claimed)
            assert isinstance(await b.claim("none", claiming("b")), Unregistered)

    run(main())


def test_what_became_of_copies_is_written_in_few_transactions() -> None:
    async def main() -> None:
        async with Counted() as store, one(store, "a") as a:
            models = await models_of(store, 250)
            store.commits = 0
            for n in range(250):
                a.loaded(f"m{n}")
            a.failed("m1", "no such file")
            a.gone("m2")
            a.loaded("unregistered")
            assert await a.flush(5)
            assert store.commits == 8
            assert models.get("m0") is not None
            assert models.get("m0").loaded_in.keys() == {"a"}  # type: ignore[union-attr]
            assert models.get("m1").failure_message("a") == "no such file"  # type: ignore[union-attr]
            assert models.get("m2") == ModelRecord("dummy")
            assert "unregistered" not in models

    run(main())


def test_a_burst_is_written_at_most_twenty_times_a_second() -> None:
    async def main() -> None:
        async with Counted() as store, one(store, "a") as a:
            await models_of(store, 400)
            store.commits = 0
            for n in range(400):  # for two seconds
                a.loaded(f"m{n}")
                await asyncio.sleep(0.005)
            assert await a.flush(5)
            assert 30 <= store.commits <= 42

    run(main())


def test_what_could_not_be_written_is_written_when_the_store_is_back() -> None:
    async def main() -> None:
        async with Counted() as store, one(store, "a") as a:
            models = await models_of(store, 3)
            store.silent = True
            a.loaded("m0")
            a.loaded("m1")
            assert not await a.flush(5)
            a.gone("m1")
            store.silent = False
            assert await a.flush(5)
            assert models.get("m0").loaded_in.keys() == {"a"}  # type: ignore[union-attr]
            assert models.get("m1") == ModelRecord("dummy")

    run(main())


def test_other_writers_changes_are_kept() -> None:
    class Contended(Counted):
        """Another daemon's claim slips in before each of the first three commits."""

        rivals = 0

        async def commit(self, compares: Sequence[Compare], changes: Sequence[Change]) -> Committed:
            if compares and self.rivals < 3:
                self.rivals += 1
                rival = f"r{self.rivals}"
                await Models(self).update("m0", lambda record: record.claimed(rival, 1))
            return await super().commit(compares, changes)

    async def main() -> None:
        async with Contended() as store:
            store.rivals = 3
            models = await models_of(store, 2)
            store.rivals = 0
            async with one(store, "a") as a:
                a.loaded("m0")
                a.loaded("m1")
                assert await a.flush(5)
            record = models.get("m0")
            assert record is not None
            assert set(record.instance_ids) >= {"a", "r1"}
            assert store.rivals == 3, "nothing got in the way"
            assert models.get("m1").loaded_in.keys() == {"a"}  # type: ignore[union-attr]

    run(main())


def test_a_claim_is_not_undone_by_an_older_word_that_is_just_being_written() -> None:
    class Slow(Counted):
        """Our own next claim is written while the word about the copy before is on its way."""

        records: CopyRecords | None = None

        async def commit(self, compares: Sequence[Compare], changes: Sequence[Change]) -> Committed:
            records, self.records = self.records, None
            if records is not None:
                assert isinstance(await records.claim("m0", claiming("a")), Claimed)
            return await super().commit(compares, changes)

    async def main() -> None:
        async with Slow() as store, one(store, "a") as a:
            models = await models_of(store)
            a.loaded("m0")
            assert await a.flush(5)
            store.records = a
            a.gone("m0")
            assert await a.flush(5)
            assert store.records is None, "nothing got in the way"
            record = models.get("m0")
            assert record is not None
            assert record.instance_ids.keys() == {"a"}
            assert record.loaded_in == {}

    run(main())


def test_who_loses_a_claim_still_says_what_became_of_the_copy_before() -> None:
    class Faster(Counted):
        """Another daemon's claim comes just before ours."""

        rival = ""

        async def commit(self, compares: Sequence[Compare], changes: Sequence[Change]) -> Committed:
            rival, self.rival = self.rival, ""
            if rival:
                await Models(self).update("m0", lambda record: record.claimed(rival, wall_ms()))
            return await super().commit(compares, changes)

    async def main() -> None:
        async with Faster() as store, one(store, "a") as a:
            models = await models_of(store)
            a.loaded("m0")
            assert await a.flush(5)
            a.gone("m0")
            store.rival = "b"
            assert await a.claim("m0", claiming("a")) == Contender("b", loaded=False)
            assert await a.flush(5)
            record = models.get("m0")
            assert record is not None
            assert record.instance_ids.keys() == {"b"}, "others would ask us for it"
            assert record.loaded_in == {}

    run(main())


def test_a_claim_that_the_store_does_not_take_forgets_nothing() -> None:
    async def main() -> None:
        async with Counted() as store, one(store, "a") as a:
            models = await models_of(store)
            a.loaded("m0")
            assert await a.flush(5)
            a.gone("m0")
            store.silent = True
            with pytest.raises(MeshError):
                await a.claim("m0", claiming("a"))
            store.silent = False
            assert await a.flush(5)
            assert models.get("m0") == ModelRecord("dummy")

    run(main())


def test_records_that_do_not_fit_into_one_commit_are_written_one_by_one() -> None:
    async def main() -> None:
        async with Counted() as store, one(store, "a") as a:
            models = Models(store)
            await models.register_many([(f"m{n}", ModelRecord("dummy")) for n in range(60)])
            for n in range(60):
                long = {"note": "x" * (COMMIT_BYTES // 50)}
                await models.update(f"m{n}", lambda record: replace(record, unknown=long))  # noqa: B023
            for n in range(60):
                a.loaded(f"m{n}")
            assert await a.flush(5)
            for n in range(60):
                record = models.get(f"m{n}")
                assert record is not None
                assert record.loaded_in.keys() == {"a"}

    run(main())


def test_a_record_that_no_store_takes_keeps_no_other_waiting() -> None:
    async def main() -> None:
        async with Counted() as store, one(store, "a") as a:
            models = await models_of(store, 2)
            full = {"note": "x" * (COMMIT_BYTES - 100)}
            await models.update("m0", lambda record: replace(record, unknown=full))
            a.failed("m0", "because " * 100)
            a.loaded("m1")
            assert await a.flush(5)
            assert models.get("m0").failed_in == {}  # type: ignore[union-attr]
            assert models.get("m1").loaded_in.keys() == {"a"}  # type: ignore[union-attr]

    run(main())


def test_after_an_outage_only_what_the_store_does_not_know_is_said() -> None:
    async def main() -> None:
        async with Counted() as store, one(store, "a") as a:
            await models_of(store, 2)
            a.loaded("m0")
            assert await a.flush(5)
            a.say_loaded(["m0", "m1", "gone"])
            assert a.pending == 1

    run(main())


def test_a_use_is_noted_behind_what_else_there_is_to_say() -> None:
    async def main() -> None:
        async with Counted() as store, one(store, "a") as a:
            models = await models_of(store, 2)
            a.used("m0", 5000)
            a.loaded("m1")
            a.used("m1", 5000)
            assert await a.flush(5)
            assert models.get("m0") == ModelRecord("dummy", last_used_ms=5000)
            assert models.get("m1").loaded_in.keys() == {"a"}  # type: ignore[union-attr]
            a.used("m0", 4000)  # the clock of another one was ahead
            assert await a.flush(5)
            assert models.get("m0") == ModelRecord("dummy", last_used_ms=5000)

    run(main())


def test_of_holders_that_give_up_at_once_one_stays() -> None:
    async def main() -> None:
        async with Counted() as store:
            models = await models_of(store)
            daemons = [CopyRecords(store, f"i{n}", wall_ms) for n in range(5)]
            for each in daemons:
                each.loaded("m0")
                assert await each.flush(5)
            given_up = await asyncio.gather(
                *(each.give_up("m0", lambda record: len(record.loaded_in) > 1) for each in daemons)
            )
            assert given_up.count(True) == 4
            record = models.get("m0")
            assert record is not None
            assert list(record.loaded_in) == [f"i{given_up.index(False)}"]
            assert record.last_unload_ms == wall_ms()
            for each in daemons:
                await each.close()

    run(main())


@pytest.mark.parametrize("allowed", [True, False])
def test_a_word_on_its_way_says_nothing_of_a_copy_that_was_given_up(allowed: bool) -> None:
    """It is in the middle of being written, or to be written yet."""

    async def main() -> None:
        async with Slow() as store, one(store, "a") as a:
            models = await models_of(store)
            await a.claim("m0", claiming("a"))
            a.loaded("m0")
            store.gate = asyncio.Event()
            await asyncio.sleep(1)
            assert store.held, "nothing is on its way: this shows nothing"
            gate, store.gate = store.gate, None
            assert await a.give_up("m0", lambda _record: allowed) is allowed
            gate.set()
            assert await a.flush(5)
            record = models.get("m0")
            assert record is not None
            assert bool(record.loaded_in) is not allowed

    run(main())
