"""Copies here while the registry's store forgets, is restored, or brings news late."""

from modelmesh.domain.records import ModelRecord
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.mirror import Mirror
from modelmesh.registry.models import Models
from modelmesh.registry.store import MODELS
from tests.registry.faulty import Faulty, elapse
from tests.registry.mirrors import faulty_with, fill, opened, period, virtual
from tests.serving.fleet_of_one import One


async def serving(faulty: Faulty, *models: str) -> tuple[One, Mirror]:
    """A daemon over a mirror of the store, with these models registered there and loaded here."""
    mirror = await opened(faulty)
    one = One(store=mirror)
    await one.register(*models)
    for model_id in models:
        reply = one.ask(model_id)
        await elapse(0.5)
        assert reply.future.done()
    assert one.runtime.held == {*models}
    return one, mirror


async def again(store: MemoryStore, model_id: str, path: str) -> None:
    """Unregister it, register it with this path, and write its record once more."""
    models = Models(store)
    await models.unregister(model_id)
    await models.register(model_id, ModelRecord("dummy", path))
    await models.touch(model_id, 5)


@virtual
async def test_a_registration_that_was_replaced_unheard_takes_its_copy_along() -> None:
    faulty = await faulty_with()
    assert isinstance(faulty.inner, MemoryStore)
    one, mirror = await serving(faulty, "m", "stays")
    faulty.lose = 1.0
    await again(faulty.inner, "m", "/models/other")
    await elapse(1.0)
    assert faulty.struck["lost"] == 3
    await period(mirror)
    assert one.runtime.unloads == ["m"]
    assert one.runtime.held == {"stays"}
    await mirror.close()


@virtual
async def test_a_restore_unloads_nothing_that_it_brings_back() -> None:
    faulty = await faulty_with()
    one, mirror = await serving(faulty, "m", "lost")
    older = MemoryStore()
    await fill(older, *(f"other{n}" for n in range(9)))  # so that no revision comes again
    await Models(older).register("m", ModelRecord("dummy", "/models/m"))
    faulty.restore(older, "another")
    faulty.interrupt(ConnectionError("the old one is gone"))
    await elapse(40.0)
    assert mirror.restores == 1
    assert await older.get(MODELS + "lost") is not None, "it was offered back"
    assert one.runtime.unloads == []
    await mirror.close()


@virtual
async def test_a_restore_to_another_registration_takes_the_copy_along() -> None:
    faulty = await faulty_with()
    one, mirror = await serving(faulty, "m")
    older = MemoryStore()
    await Models(older).register("m", ModelRecord("dummy", "/models/as/it/was"))
    faulty.restore(older, "another")
    faulty.interrupt(ConnectionError("the old one is gone"))
    await elapse(5.0)
    assert mirror.restores == 1
    assert one.runtime.unloads == ["m"], "it would answer for a model that is registered no more"
    await mirror.close()
