"""Serving and its doors, when a door or a caller does what nobody expects."""

import asyncio
from contextlib import suppress

from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.runtime.door import LoadedModel, LoadRequest
from modelmesh.serving.flight import Waiter
from modelmesh.wire.awaiting import FutureReply
from modelmesh.wire.kinds import V1_PREDICT
from modelmesh.wire.transport import NO_METADATA, Body, Call, Metadata
from tests.serving.doors import MemoryRuntime, MemoryStorage
from tests.serving.fleet_of_one import One, until

NO_HOST = Failure(Code.UNAVAILABLE, "no host", Fault.CAPACITY, retry_after_s=1.0)


def failure_of(reply: FutureReply) -> Failure:
    error = reply.future.exception()
    assert isinstance(error, MeshError)
    return error.failure


def in_use(one: One, model_id: str) -> int:
    copy = one.copies.get(model_id)
    return copy.in_use if copy is not None else 0


class BrokenRuntime(MemoryRuntime):
    """Raises what no door should."""

    broken_load: Exception | None = None
    broken_infer: Exception | None = None

    async def load(self, request: LoadRequest) -> LoadedModel:
        if self.broken_load is not None:
            raise self.broken_load
        return await super().load(request)

    def infer(self, model_id: str, call: Call) -> None:
        if self.broken_infer is not None:
            raise self.broken_infer
        super().infer(model_id, call)


async def test_a_load_that_breaks_its_door_fails_its_waiters_and_frees_its_room() -> None:
    runtime = BrokenRuntime()
    runtime.broken_load = OSError("too many open files")
    one = One(runtime=runtime)
    await one.register("m")
    reply = one.ask("m")
    await until(reply.future.done)
    assert failure_of(reply).code is Code.INTERNAL
    assert one.copies.ledger.reserved_bytes == 0
    runtime.broken_load = None
    assert await one.answer("m") == b"m", "the next request tries again"


async def test_a_call_that_breaks_the_runtime_is_answered_and_lets_its_model_go() -> None:
    runtime = BrokenRuntime()
    one = One(runtime=runtime)
    await one.register("m")
    await one.answer("m")
    runtime.broken_infer = RuntimeError("broken")
    reply = one.ask("m")
    assert failure_of(reply).code is Code.INTERNAL
    assert in_use(one, "m") == 0
    assert one.instance.open_calls == 0


async def test_a_reply_that_breaks_lets_its_model_go() -> None:
    class Broken(FutureReply):
        def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
            raise ValueError("not a header")

    one = One()
    one.runtime.answer_at_once = False
    await one.register("m")
    one.instance.infer("m", Call(V1_PREDICT, b"x", Broken()))
    await until(lambda: len(one.runtime.running) == 1)
    with suppress(ValueError):
        one.runtime.running[0].reply.answer(b"done")
    assert in_use(one, "m") == 0
    assert one.instance.open_calls == 0


async def test_a_caller_that_left_before_its_cold_call_was_looked_at_causes_no_load() -> None:
    one = One()
    await one.register("m")
    reply = FutureReply()
    reply.leave()
    one.instance.infer("m", Call(V1_PREDICT, b"x", reply))
    for _ in range(20):
        await asyncio.sleep(0)
    assert in_use(one, "m") == 0, "nobody will ever release it"
    assert one.instance.open_calls == 0
    assert one.runtime.loads == []


async def test_a_caller_that_left_before_its_warm_call_was_looked_at_holds_nothing() -> None:
    one = One()
    await one.register("m")
    await one.answer("m")
    reply = FutureReply()
    reply.leave()
    one.instance.infer("m", Call(V1_PREDICT, b"x", reply))
    assert in_use(one, "m") == 0
    assert one.instance.open_calls == 0


class CountingStorage(MemoryStorage):
    """Counts what is fetched and not released."""

    def __init__(self) -> None:
        super().__init__()
        self.here: set[str] = set()

    async def fetch(self, model_id: str, path: str, key: str):  # type: ignore[no-untyped-def]
        self.here.add(model_id)
        return await super().fetch(model_id, path, key)

    async def release(self, model_id: str) -> None:
        self.here.discard(model_id)


async def test_files_of_a_load_that_failed_are_released() -> None:
    storage = CountingStorage()
    one = One(storage=storage)
    await one.register("m", "gone")
    one.runtime.failing.add("m")
    storage.missing.add("/models/gone")
    for model_id in ("m", "gone"):
        reply = one.ask(model_id)
        await until(reply.future.done)
    await until(lambda: not storage.here)


async def test_files_of_a_load_that_was_dropped_are_released() -> None:
    storage = CountingStorage()
    one = One(storage=storage)
    await one.register("m")
    one.runtime.at_once = False
    reply = one.ask("m")
    await until(lambda: "m" in one.runtime.gates)
    await one.management.unregister("m")
    await until(reply.future.done)
    await until(lambda: not storage.here)


async def test_files_of_a_lost_model_are_released() -> None:
    storage = CountingStorage()
    one = One(storage=storage)
    await one.register("m")
    await one.answer("m")
    one.runtime.held.discard("m")
    one.instance.model_lost("m", NO_HOST)
    await until(lambda: not storage.here)


async def test_explaining_a_cold_model_holds_no_files() -> None:
    storage = CountingStorage()
    one = One(storage=storage)
    await one.register("m")
    await one.management.explain("m")
    assert not storage.here


async def test_a_lack_of_hosts_is_not_remembered_as_the_models_failure() -> None:
    runtime = BrokenRuntime()
    runtime.broken_load = MeshError(NO_HOST)
    one = One(runtime=runtime)
    await one.register("m")
    for _ in range(4):
        reply = one.ask("m")
        await until(reply.future.done)
        assert failure_of(reply).code is Code.UNAVAILABLE
    runtime.broken_load = None
    assert await one.answer("m") == b"m", "hosts are there again"


async def test_an_unload_on_purpose_waits_for_the_last_call() -> None:
    one = One()
    await one.register("m")
    one.runtime.answer_at_once = False
    reply = one.ask("m")
    await until(lambda: len(one.runtime.running) == 1)
    unload = asyncio.create_task(one.management.unload("m"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not unload.done(), "it is still in use"
    one.runtime.running[0].reply.answer(b"done")
    assert await asyncio.wait_for(unload, 30)
    assert await reply.future == [b"done"]
    assert one.runtime.unloads == ["m"]


async def test_an_unload_on_purpose_ends_when_the_model_is_lost() -> None:
    one = One()
    await one.register("m")
    one.runtime.answer_at_once = False
    one.ask("m")
    await until(lambda: len(one.runtime.running) == 1)
    unload = asyncio.create_task(one.management.unload("m"))
    await asyncio.sleep(0)
    one.instance.model_lost("m", NO_HOST)
    assert await asyncio.wait_for(unload, 30)


async def test_nothing_is_loaded_after_the_end() -> None:
    one = One()
    await one.register("m")
    await one.instance.drain(0.0)
    failures: list[Failure] = []
    loader = one.management._loader
    record = ModelRecord("dummy", "/models/m")
    loader.wait("m", record, Waiter(lambda: None, failures.append))
    for _ in range(20):
        await asyncio.sleep(0)
    assert [failure.code for failure in failures] == [Code.UNAVAILABLE]
    assert one.runtime.loads == []


async def test_a_request_that_joins_a_background_load_takes_it_to_the_front() -> None:
    one = One()
    one.runtime.at_once = False
    one.loader.open(load_concurrency=1)
    await one.register("busy", "later", "wanted")
    one.ask("busy")
    await until(lambda: "busy" in one.runtime.gates)
    for name in ("later", "wanted"):
        await one.management.ensure_loaded(name, 0, sync=False)
    await until(lambda: one.loader.queued == 2)
    one.ask("wanted")
    await until(lambda: one.loader.queued == 1)
    await until(lambda: one.loader.queued == 2)
    for loads in (1, 2, 3):
        await until(lambda loads=loads: len(one.runtime.loads) == loads)  # type: ignore[misc]
        one.runtime.gates[one.runtime.loads[-1]].set_result(None)
    await until(lambda: one.copies.is_loaded("later"))
    assert one.runtime.loads == ["busy", "wanted", "later"]


async def test_who_leaves_loads_nothing_more_that_nobody_waits_for() -> None:
    """Seeds 3652 and 7035: for such a load a copy went that nobody else had yet."""
    one = One()
    one.runtime.at_once = False
    one.loader.open(load_concurrency=1)
    await one.register("busy", "later", "wanted")
    one.ask("busy")
    await until(lambda: "busy" in one.runtime.gates)
    one.ask("wanted")
    await one.management.ensure_loaded("later", 0, sync=False)
    await until(lambda: one.loader.queued == 2)
    one.loader.leave_off()
    for name in ("busy", "wanted"):
        await until(lambda name=name: name in one.runtime.gates)  # type: ignore[misc]
        one.runtime.gates[name].set_result(None)
    await until(lambda: one.copies.is_loaded("wanted"))
    assert one.loader.under_way == 0
    assert one.runtime.loads == ["busy", "wanted"]


async def test_a_later_use_is_written_to_the_record() -> None:
    one = One()
    await one.register("m")
    await one.management.ensure_loaded("m", 9_000_000, sync=True)
    record = one.models.get("m")
    assert record is not None
    assert record.last_used_ms == 9_000_000
