"""One daemon's serving room on doors in memory, with a clock that the test moves."""

import asyncio
import time
from collections.abc import Callable

from modelmesh.cache.copies import Copies
from modelmesh.domain.records import ModelRecord
from modelmesh.observe.metrics import Metrics
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.models import Models
from modelmesh.registry.tables import TabledStore
from modelmesh.serving.changes import Changes
from modelmesh.serving.claims import Alone
from modelmesh.serving.failures import LoadFailures
from modelmesh.serving.instance import Instance
from modelmesh.serving.loading import Loader, LoadLimits
from modelmesh.serving.management import Management
from modelmesh.serving.parts import Parts
from modelmesh.serving.unloading import Persistence
from modelmesh.wire.awaiting import FutureReply
from modelmesh.wire.kinds import V1_PREDICT
from modelmesh.wire.transport import NO_DEADLINE, Call
from tests.serving.doors import MemoryRuntime, MemoryStorage

AT_ONCE = Persistence(attempts=3, first_s=0.0, later_s=0.0)

BOUND_S = 30.0


class One:
    """A daemon without ports."""

    def __init__(
        self,
        capacity_bytes: int = 1000,
        *,
        waiting_bytes: int = 1000,
        most_flights: int = 100,
        runtime: MemoryRuntime | None = None,
        storage: MemoryStorage | None = None,
        unloads: Persistence = AT_ONCE,
        store: TabledStore | None = None,
    ) -> None:
        self.now = 0.0  # added to the loop's clock
        self.runtime = runtime or MemoryRuntime()
        self.storage = storage or MemoryStorage()
        self.store = store or MemoryStore()
        self.metrics = Metrics()
        models, copies = Models(self.store), Copies(capacity_bytes)
        self.copies = copies
        failures = LoadFailures(max_attempts=3, expiry_s=900)
        limits = LoadLimits(most_flights, waiting_bytes, space_wait_s=5, unloads=unloads)
        changes = Changes(Alone(), models)
        loader = Loader(
            copies, self.runtime, self.storage, failures, self.metrics, limits, self.clock, changes
        )
        loader.open(load_concurrency=8)
        self.loader, self.models = loader, models
        parts = self.parts = Parts(
            models, copies, self.runtime, failures, loader, self.metrics, self.clock, changes
        )
        self.instance = Instance(parts, max_concurrent_calls=1000)
        self.management = Management(parts, self.storage, "one", lambda: 1_000_000)
        self.runtime.listener = self.instance

    def clock(self) -> float:
        return asyncio.get_running_loop().time() + self.now

    async def register(self, *model_ids: str) -> None:
        for model_id in model_ids:
            record = ModelRecord("dummy", f"/models/{model_id}")
            await self.management.register(model_id, record, load_now=False, sync=False)

    def ask(self, model_id: str, body: bytes = b"x", deadline: float = NO_DEADLINE) -> FutureReply:
        reply = FutureReply()
        self.instance.infer(model_id, Call(V1_PREDICT, body, reply, (), deadline))
        return reply

    async def answer(self, model_id: str) -> bytes:
        """Ask once and wait for the answer; raises MeshError."""
        messages = await asyncio.wait_for(self.ask(model_id).future, BOUND_S)
        return bytes(messages[0])


async def until(condition: Callable[[], bool]) -> None:
    """Turn the loop until this holds: a thousand turns or, since timers of milliseconds may have to
    fire meanwhile, as many as some seconds have."""
    end, turns = time.monotonic() + BOUND_S, 0
    while turns < 1000 or time.monotonic() < end:
        if condition():
            return
        turns += 1
        await asyncio.sleep(0)
    raise AssertionError("never came true")
