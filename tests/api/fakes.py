"""Rooms of the daemon as the faces see them, small and in memory, and callers for the tests."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from modelmesh.api.grpc_port import GrpcPort
from modelmesh.cache.decisions import Candidate, Decision, Explanation, Fate, Verdict
from modelmesh.cache.decisions import State as CacheState
from modelmesh.domain.records import ModelRecord
from modelmesh.domain.vmodels import VModelRecord
from modelmesh.errors import Code, Failure, Fault, MeshError, Reason, invalid, not_found
from modelmesh.policy.transition import SetVModel, VModelState, owns, state_of
from modelmesh.registry.models import ModelChange
from modelmesh.serving.changes import Listener
from modelmesh.serving.status import (
    CopyStatus,
    Explained,
    InstanceView,
    ModelStatus,
    ModelView,
    Readiness,
    State,
)
from modelmesh.serving.vmodels import VModelStatus, VModelView
from modelmesh.serving.wishes import WishChange, wished
from modelmesh.wire.awaiting import FutureReply, ask
from modelmesh.wire.loopback import LoopbackCaller
from modelmesh.wire.transport import (
    NO_DEADLINE,
    NO_METADATA,
    Body,
    Call,
    Caller,
    Handler,
    Metadata,
)

NOW_MS = 1_800_000_000_000

LOAD_FAILED = Failure(
    Code.FAILED_PRECONDITION, "not a model", Fault.MODEL, Reason.LOAD_FAILED, executed=True
)


@dataclass
class Rooms:
    """Serving and management of one daemon, without models: `failing` ones do not load."""

    records: dict[str, ModelRecord] = field(default_factory=dict)
    loaded: set[str] = field(default_factory=set)
    forward: str = ""  # where explained requests would go
    failing: set[str] = field(default_factory=set)
    draining: bool = False
    vmodels: dict[str, VModelRecord] = field(default_factory=dict)
    set_requests: list[SetVModel] = field(default_factory=list)
    inferred: list[tuple[str, Call]] = field(default_factory=list)
    balanced: list[bool] = field(default_factory=list)  # of each call, and of each wish to load
    answers: dict[str, bytes] = field(default_factory=dict)  # of models that have one of their own
    held: dict[str, Call] = field(default_factory=dict)  # by model; those in `hold` wait there
    hold: set[str] = field(default_factory=set)
    ensured: list[tuple[str, int, bool]] = field(default_factory=list)
    before_page: Callable[[], None] = lambda: None
    gate: asyncio.Event | None = None  # loads wait for it
    cancelled: int = 0
    listeners: list[Listener] = field(default_factory=list)
    there: list[InstanceView] = field(default_factory=list)
    kept: int = 0  # of before a restore

    def __post_init__(self) -> None:
        self.answer: Body = b"answer"

    # --- serving

    def infer(self, model_id: str, call: Call, *, balanced: bool = False) -> None:
        self.inferred.append((model_id, call))
        self.balanced.append(balanced)
        if model_id == "broken":
            raise ZeroDivisionError
        if model_id in self.hold:
            self.held[model_id] = call
        elif model_id in self.failing:
            call.reply.finish(LOAD_FAILED)
        elif model_id in self.records:
            call.reply.answer(self.answers.get(model_id, self.answer))
        else:
            call.reply.finish(not_found().failure)

    def infer_vmodel(self, vmodel_id: str, call: Call, *, balanced: bool = False) -> None:
        if vmodel_id in self.vmodels:
            self.infer(self.vmodels[vmodel_id].active_id, call, balanced=balanced)
        else:
            call.reply.finish(not_found("vmodel not found").failure)

    def infer_named(self, name: str, call: Call, *, balanced: bool = False) -> None:
        self.infer(self.resolve(name) or name, call, balanced=balanced)

    def resolve(self, vmodel_id: str) -> str:
        vmodel = self.vmodels.get(vmodel_id)
        return vmodel.active_id if vmodel is not None else ""

    def is_registered(self, model_id: str) -> bool:
        return model_id in self.records

    def ready(self, name: str) -> Readiness:
        model_id = self.resolve(name) or name
        known, failed = model_id in self.records, model_id in self.failing
        return Readiness(known, known and not failed, "not a model" if failed else "")

    def names(self, prefix: str = "") -> Iterator[str]:
        return (name for name in sorted(self.records) if name.startswith(prefix))

    # --- management

    async def register(
        self,
        model_id: str,
        record: ModelRecord,
        load_now: bool,
        sync: bool,
        balanced: bool = False,
    ) -> ModelStatus:
        existing = self.records.setdefault(model_id, record)
        if not existing.same_model(record):
            raise MeshError(Failure(Code.ALREADY_EXISTS, "different"))
        if load_now:
            return await self.ensure_loaded(model_id, record.last_used_ms, sync, balanced)
        return await self.status(model_id)

    async def register_many(self, items: Sequence[tuple[str, ModelRecord]]) -> list[Failure | None]:
        results: list[Failure | None] = []
        for model_id, record in items:
            try:
                await self.register(model_id, record, False, False)
            except MeshError as error:
                results.append(error.failure)
            else:
                results.append(None)
        return results

    async def unregister(self, model_id: str) -> None:
        self.records.pop(model_id, None)

    async def status(self, model_id: str) -> ModelStatus:
        state = self.state(model_id)
        if state is State.LOADED:
            return ModelStatus(state, (), (CopyStatus("one", state, NOW_MS),))
        return ModelStatus(state, ("newest", "older") if state is State.LOADING_FAILED else ())

    async def ensure_loaded(
        self, model_id: str, last_used_ms: int, sync: bool, balanced: bool = False
    ) -> ModelStatus:
        self.balanced.append(balanced)
        self.ensured.append((model_id, last_used_ms, sync))
        try:
            await self.load(model_id)
        except MeshError as error:
            if error.failure is not LOAD_FAILED:
                raise
        return await self.status(model_id)

    async def load(self, model_id: str) -> None:
        if model_id not in self.records:
            raise not_found()
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if model_id in self.failing:
            raise MeshError(LOAD_FAILED)
        self.loaded.add(model_id)

    async def unload(self, model_id: str) -> bool:
        if model_id not in self.records:
            raise not_found()
        was_loaded = model_id in self.loaded
        self.loaded.discard(model_id)
        return was_loaded

    def page(self, prefix: str, after: str, limit: int) -> tuple[list[ModelView], str]:
        self.before_page()
        names = list(islice((n for n in self.names(prefix) if n > after), limit + 1))
        views = [view for n in names[:limit] if (view := self.view(n)) is not None]
        return views, names[limit - 1] if names[limit:] else ""

    async def explain(self, model_id: str) -> Explained:
        if model_id not in self.records:
            raise not_found()
        decision = Decision(Verdict.WAIT, "waits for unloads to end")
        order = (Candidate("old", 0.5, 100, Fate.EVICT), Candidate("new", 2.0, 50, Fate.IN_USE))
        explanation = Explanation(CacheState.NEW, decision, order)
        return Explained(explanation, self.state(model_id), 1000, 150, 7, self.forward)

    # --- vmodels

    async def set_vmodel(self, request: SetVModel) -> VModelStatus:
        self.set_requests.append(request)
        if request.target_id == "refused":
            raise MeshError(Failure(Code.FAILED_PRECONDITION, "not that one"))
        before = self.vmodels.get(request.vmodel_id)
        active_id = before.active_id if before is not None else request.target_id
        self.vmodels[request.vmodel_id] = VModelRecord(active_id, request.target_id, request.owner)
        return await self.vmodel_status(request.vmodel_id, "")

    async def delete_vmodel(self, vmodel_id: str, owner: str) -> None:
        if owns(self.vmodels.get(vmodel_id), owner):
            del self.vmodels[vmodel_id]

    async def vmodel_status(self, vmodel_id: str, owner: str) -> VModelStatus:
        record = self.vmodels.get(vmodel_id)
        if record is None or not owns(record, owner):
            return VModelStatus(VModelState.NOT_FOUND)
        target = await self.status(record.target_id) if record.transitioning else None
        return VModelStatus(
            state_of(record, owner), record.active_id, record.target_id, record.owner,
            await self.status(record.active_id), target,
        )  # fmt: skip

    def vmodel_page(self, prefix: str, after: str, limit: int) -> tuple[list[VModelView], str]:
        names = [n for n in sorted(self.vmodels) if n.startswith(prefix) and n > after]
        views = [
            VModelView(n, r.active_id, r.target_id, r.owner, state_of(r, ""))
            for n in names[:limit]
            for r in [self.vmodels[n]]
        ]
        return views, names[limit - 1] if names[limit:] else ""

    def state(self, model_id: str) -> State:
        if model_id not in self.records:
            return State.NOT_FOUND
        if model_id in self.loaded:
            return State.LOADED
        return State.LOADING_FAILED if model_id in self.failing else State.NOT_LOADED

    def view(self, model_id: str) -> ModelView | None:
        record = self.records.get(model_id)
        if record is None:
            return None
        return ModelView(
            model_id,
            record.type,
            record.path,
            record.key,
            self.state(model_id),
            min_copies=record.min_copies,
            max_copies=record.max_copies,
            pinned=record.pinned,
            priority=record.priority,
        )

    # --- the fleet

    async def set_wishes(self, model_id: str, change: WishChange) -> ModelView:
        if model_id not in self.records:
            raise not_found()
        try:
            self.records[model_id] = wished(self.records[model_id], change, alone=False)
        except ValueError as error:
            raise invalid(str(error)) from None
        self.changed(model_id)
        view = self.view(model_id)
        assert view is not None
        return view

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def changed(self, *model_ids: str, created: bool = False) -> None:
        """Tell that these are other now, as they are."""
        changes = [ModelChange(each, each in self.records, created) for each in model_ids]
        for listener in self.listeners:
            listener(changes)

    def instances(self) -> list[InstanceView]:
        return self.there

    def accept_restore(self) -> int:
        kept, self.kept = self.kept, 0
        return kept


def rooms(*model_ids: str) -> Rooms:
    """With these models registered."""
    return Rooms({model_id: ModelRecord("dummy") for model_id in model_ids})


async def until(condition: Callable[[], object], bound_s: float = 30.0) -> None:
    """Wait for the condition; fail after the bound."""
    end = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        await asyncio.sleep(0.002)


async def call(
    handler: Handler,
    kind: str,
    body: Body = b"",
    metadata: Metadata = NO_METADATA,
    deadline: float = NO_DEADLINE,
) -> bytes | Failure:
    """One unary call over loopback: the message, or why there is none."""
    caller = LoopbackCaller(handler)
    try:
        return bytes(await ask(caller, kind, body, metadata, deadline))
    except MeshError as error:
        return error.failure
    finally:
        await caller.close()


async def refused(
    handler: Handler, kind: str, body: Body = b"", metadata: Metadata = NO_METADATA
) -> tuple[Code, str]:
    """What a call that fails is told."""
    failure = await call(handler, kind, body, metadata)
    assert isinstance(failure, Failure), failure
    return failure.code, failure.message


class Inbound:
    """The further messages of a streaming call, said by the test."""

    def __init__(self, messages: Iterable[bytes] = ()) -> None:
        self._kept = list(messages)
        self._ended = False
        self._message: Callable[[Body], None] | None = None
        self._end: Callable[[], None] | None = None

    def listen(self, message: Callable[[Body], None], end: Callable[[], None]) -> None:
        self._message, self._end = message, end
        kept, self._kept = self._kept, []
        for each in kept:
            message(each)
        if self._ended:
            end()

    def say(self, message: bytes) -> None:
        if self._message is None:
            self._kept.append(message)
        else:
            self._message(message)

    def end(self) -> None:
        self._ended = True
        if self._end is not None:
            self._end()


class Reader(FutureReply):
    """Collects a stream's messages, and may cease to read."""

    __slots__ = ("reads",)

    def __init__(self) -> None:
        super().__init__()
        self.reads = True

    @property
    def slow(self) -> bool:
        return not self.reads


@dataclass
class Stream:
    """A streaming call over loopback."""

    caller: Caller
    reply: Reader
    inbound: Inbound

    @property
    def messages(self) -> list[bytes]:
        return [bytes(message) for message in self.reply.messages]

    async def failure(self) -> Failure | None:
        """How it ended."""
        try:
            async with asyncio.timeout(30):
                await self.reply.future
        except MeshError as error:
            return error.failure
        return None


def stream(handler: Handler, kind: str, *messages: bytes) -> Stream:
    """Open a streaming call with these messages."""
    opened = Stream(LoopbackCaller(handler), Reader(), Inbound(messages))
    opened.caller.start(Call(kind, b"", opened.reply, inbound=opened.inbound))
    return opened


def grpc_port(daemon: Rooms, multi_parallelism: int = 4) -> GrpcPort:
    """The gRPC port of this daemon, on a clock that stands still."""
    return GrpcPort(
        daemon,
        daemon,
        daemon,
        lambda: not daemon.draining,
        lambda: NOW_MS,
        multi_parallelism=multi_parallelism,
    )
