"""A `Runtime` in memory, scriptable by each model's key: for tests of what is before the door.

The key is JSON: `size_bytes`, `load_s` (waited on the loop's clock), `load_error`, `load_code` (a
code's name), `predict_s`. The answer to any call is the model's id and the call's body. `lose` and
`resize` say unasked what a real runtime might; `gate` holds all loads until it is set.
"""

import asyncio
import json
from typing import Any

from modelmesh.errors import Code, Failure, Fault, MeshError, Reason, invalid
from modelmesh.runtime.door import LoadedModel, LoadRequest, RuntimeListener, RuntimeStatus
from modelmesh.wire.transport import Call

TYPES = ("dummy",)


class FakeRuntime:
    """The door, in memory. `loads` and `unloads` are what was asked, in order."""

    def __init__(self, capacity_bytes: int = 0) -> None:
        self.capacity_bytes = capacity_bytes
        self.loads: list[LoadRequest] = []
        self.unloads: list[str] = []
        self.calls: list[tuple[str, Call]] = []
        self.held: dict[str, LoadedModel] = {}
        self.gate: asyncio.Event | None = None
        self.closed = False
        self._requests: dict[str, dict[str, Any]] = {}
        self._listener: RuntimeListener

    async def start(self, listener: RuntimeListener) -> RuntimeStatus:
        self._listener = listener
        return RuntimeStatus(self.capacity_bytes, 1 << 20, 4, 90.0, "fake")

    def check(self, model_type: str) -> None:
        if model_type not in TYPES:
            raise invalid(f"no runtime for model type {model_type!r}; there are: {TYPES[0]}")

    def predict_size(self, request: LoadRequest) -> int:
        return max(1, int(_script(request).get("predicted_bytes", 1 << 20)))

    async def load(self, request: LoadRequest) -> LoadedModel:
        self.check(request.type)
        self.loads.append(request)
        script = _script(request)
        if self.gate is not None:
            await self.gate.wait()
        if script.get("load_s"):
            await asyncio.sleep(script["load_s"])
        if script.get("load_error"):
            code = Code[script.get("load_code", "FAILED_PRECONDITION")]
            failure = Failure(code, script["load_error"], Fault.MODEL, Reason.LOAD_FAILED)
            raise MeshError(failure)
        loaded = LoadedModel(script.get("size_bytes", 1), script.get("load_s", 0.0), "inline")
        self.held[request.model_id] = loaded
        self._requests[request.model_id] = script
        return loaded

    async def unload(self, model_id: str) -> None:
        self.unloads.append(model_id)
        self.held.pop(model_id, None)

    async def expel(self, model_id: str) -> bool:
        self.held.pop(model_id, None)
        return True

    def infer(self, model_id: str, call: Call) -> None:
        self.calls.append((model_id, call))
        if model_id not in self.held:
            call.reply.finish(Failure(Code.NOT_FOUND, f"model {model_id} is not loaded here"))
            return
        answer = model_id.encode() + b":" + bytes(call.body)
        wait_s = self._requests[model_id].get("predict_s", 0.0)
        if wait_s:
            asyncio.get_running_loop().call_later(wait_s, call.reply.answer, answer)
        else:
            call.reply.answer(answer)

    def describe(self, model_id: str) -> LoadedModel | None:
        return self.held.get(model_id)

    async def close(self, grace_s: float) -> None:
        self.held.clear()
        self.closed = True

    # --- said unasked

    def lose(self, model_id: str, failure: Failure) -> None:
        """The model is gone, as if it had taken its host down."""
        del self.held[model_id]
        self._listener.model_lost(model_id, failure)

    def resize(self, model_id: str, size_bytes: int) -> None:
        """The model weighs something else."""
        self._listener.model_resized(model_id, size_bytes)


def _script(request: LoadRequest) -> dict[str, Any]:
    script: dict[str, Any] = json.loads(request.key or "{}")
    return script
