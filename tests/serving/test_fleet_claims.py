"""A load of a fleet's member: claimed before, known after, and never in the way of going on."""

import asyncio
from collections.abc import Sequence

import pytest

from modelmesh.errors import Code, Failure, Fault, MeshError, Reason
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.store import Change, Committed, Compare
from modelmesh.simulation.clock import run
from tests.serving.fleet_of_many import ME, OfMany, answered
from tests.serving.fleet_of_one import until

NO_ANSWER = Failure(Code.UNAVAILABLE, "no answer", Fault.STORE)


class Store(MemoryStore):
    """Fails when told so; holds its answers to commits while `held`.

    `restored`: it has none of the keys any more that its table keeps.
    """

    failure: Failure | None = None
    restored = False
    held: asyncio.Event | None = None

    async def commit(self, compares: Sequence[Compare], changes: Sequence[Change]) -> Committed:
        if self.failure is not None:
            raise MeshError(self.failure)
        if self.restored:
            return Committed(False, 1, tuple((each.key, None) for each in compares))
        done = await super().commit(compares, changes)
        if self.held is not None:
            await self.held.wait()
        return done


class Member(OfMany):
    """One whose store the test troubles."""

    def __init__(self, *others: str) -> None:
        self.troubled = Store()
        super().__init__(*others, store=self.troubled)


def holders(one: OfMany) -> tuple[set[str], set[str]]:
    """Who has a copy or is getting one, and whose copy is loaded."""
    record = one.known("m")
    return {*record.instance_ids}, {*record.loaded_in}


def test_a_load_is_claimed_before_it_begins_and_known_when_it_has_ended() -> None:
    async def main() -> None:
        one = Member("a")
        await one.register("m")
        one.runtime.at_once = False
        reply = one.ask("m")
        await until(lambda: "m" in one.runtime.gates)
        assert holders(one) == ({ME}, set())
        one.runtime.gates["m"].set_result(None)
        assert await answered(reply) == b"m"
        assert await one.records.flush(1)
        assert holders(one) == ({ME}, {ME})
        assert await one.management.unload_here("m")
        assert await one.records.flush(1)
        assert holders(one) == (set(), set())
        await one.close()

    run(main())


def test_a_model_that_failed_is_known_to_have_failed_here() -> None:
    async def main() -> None:
        one = Member()
        await one.register("m")
        one.runtime.failing.add("m")
        with pytest.raises(MeshError):
            await answered(one.ask("m"))
        assert await one.records.flush(1)
        assert holders(one) == (set(), set())
        assert one.known("m").failure_message(ME) == "not a model"
        await one.close()

    run(main())


@pytest.mark.parametrize("answers", [True, False])
def test_a_store_that_fails_keeps_nobody_from_loading(answers: bool) -> None:
    """`answers`: nobody has found out yet that it fails."""

    async def main() -> None:
        one = Member("a")
        await one.register("m")
        one.answers, one.troubled.failure = answers, NO_ANSWER
        one.peers.known.clear()
        assert await answered(one.ask("m")) == b"m"
        assert holders(one) == (set(), set())
        one.answers, one.troubled.failure = True, None
        assert await one.records.flush(5)
        assert holders(one) == ({ME}, {ME}), "it is said when the store is back"
        await one.close()

    run(main())


def test_what_another_one_holds_is_not_loaded_here() -> None:
    async def main() -> None:
        one = Member("a")
        await one.register("m", loaded=["a"])
        with pytest.raises(MeshError) as caught:
            await one.claims.claim("m", further=False)
        assert caught.value.failure.reason is Reason.NOT_HERE
        await one.claims.claim("m", further=True)
        assert holders(one) == ({"a", ME}, {"a"})
        await one.close()

    run(main())


@pytest.mark.parametrize("how", ["silent", "gone", "refused"])
def test_a_copy_that_does_not_count_binds_nobody(how: str) -> None:
    async def main() -> None:
        one = Member("a")
        await one.register("m", loaded=["a"])
        if how == "silent":
            one.peers.known["a"].suspect = True
        elif how == "gone":
            one.peers.known.clear()
        else:
            one.view.note_refused("m", "a")
        await one.claims.claim("m", further=False)
        assert ME in holders(one)[0]
        await one.close()

    run(main())


def test_a_claim_older_than_any_load_binds_nobody() -> None:
    async def main() -> None:
        one = Member("a")
        await one.register("m", coming=["a"])
        with pytest.raises(MeshError):
            await one.claims.claim("m", further=False)
        await asyncio.sleep(91)
        await one.claims.claim("m", further=False)
        await one.close()

    run(main())


def test_what_is_registered_no_more_is_not_found() -> None:
    async def main() -> None:
        one = Member("a")
        with pytest.raises(MeshError) as caught:
            await one.claims.claim("m", further=False)
        assert caught.value.failure.code is Code.NOT_FOUND
        await one.close()

    run(main())


def test_what_a_restored_store_lacks_but_the_table_keeps_is_loaded() -> None:
    async def main() -> None:
        one = Member("a")
        await one.register("m")
        one.troubled.restored = True
        one.peers.known.clear()
        assert await answered(one.ask("m")) == b"m"
        one.troubled.restored = False  # it was offered back
        await one.close()

    run(main())


def test_who_leaves_while_the_claim_is_written_leaves_no_claim_behind() -> None:
    async def main() -> None:
        one = Member("a")
        await one.register("m")
        one.troubled.held = asyncio.Event()
        reply = one.ask("m")
        await until(lambda: holders(one)[0] == {ME})
        reply.leave()
        one.troubled.held.set()
        one.troubled.held = None
        await until(lambda: not one.loader.under_way)
        assert await one.records.flush(1)
        assert holders(one) == (set(), set()), "the others would wait for a load that never comes"
        await one.close()

    run(main())


def test_a_registration_that_goes_away_takes_its_load_along() -> None:
    async def main() -> None:
        one = Member("a")
        await one.register("m")
        one.runtime.at_once = False
        reply = one.ask("m")
        await until(lambda: "m" in one.runtime.gates)
        await one.models.unregister("m")
        await until(reply.future.done)
        await one.register("m")
        assert await one.records.flush(1)
        assert holders(one) == (set(), set()), "the load of the old one speaks of the new one"
        await one.close()

    run(main())
