"""modelmesh.admin.v1.Admin: listing, bulk registration, and why a model is where it is.

A page ends after so many models or bytes, whichever comes first; its token is the last id, so that
the next page is right whatever was registered or removed meanwhile: a model that was there all the
time is listed exactly once. What is long is done a chunk at a time, and other calls run between.
"""

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Final

from modelmesh.api.asking import Tasks
from modelmesh.api.dispatch import Method
from modelmesh.api.management import given, last_used_ms, new_record
from modelmesh.api.management_face import Management
from modelmesh.cache.decisions import Verdict
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Failure, MeshError, invalid
from modelmesh.pb import admin_pb2 as pb
from modelmesh.serving.status import Explained, ModelView

SERVICE: Final = "modelmesh.admin.v1.Admin"

PAGE_MODELS: Final = 1000
MOST_PAGE_MODELS: Final = 10_000
PAGE_BYTES: Final = 3 << 20  # gRPC's clients take 4 MiB unless told otherwise
MOST_BULK_MODELS: Final = 10_000
_CHUNK: Final = 250

_TOKEN: Final = b"after:"
_DECISIONS: Final = {
    Verdict.SERVE: "serve_here",
    Verdict.LOAD: "load_here",
    Verdict.WAIT: "wait",
    Verdict.REFUSE: "reject",
}


class Admin:
    """The methods of the service. `wall_ms` is the time since the epoch."""

    def __init__(self, management: Management, tasks: Tasks, wall_ms: Callable[[], int]) -> None:
        self._management = management
        self._tasks = tasks
        self._wall_ms = wall_ms

    def methods(self) -> dict[str, Method]:
        """By kind."""
        method = self._tasks.method
        methods = {
            "ListModels": method(pb.ListModelsRequest, self._list),
            "RegisterModels": method(pb.RegisterModelsRequest, self._register),
            "ExplainModel": method(pb.ExplainModelRequest, self._explain),
            "UnloadModel": method(pb.UnloadModelRequest, self._unload),
        }
        return {f"/{SERVICE}/{name}": methods[name] for name in methods}

    async def _list(self, asked: pb.ListModelsRequest) -> pb.ListModelsResponse:
        left = min(asked.page_size or PAGE_MODELS, MOST_PAGE_MODELS)
        after = after_of(asked.page_token, asked.prefix)
        response = pb.ListModelsResponse()
        size_bytes = 0
        while True:
            views, after = self._management.page(asked.prefix, after, min(left, _CHUNK))
            for view in views:
                row = row_of(view)
                size_bytes += row.ByteSize()
                if size_bytes > PAGE_BYTES and response.models:
                    response.next_page_token = token_after(response.models[-1].model_id)
                    return response
                response.models.append(row)
            left -= len(views)
            if not after or left <= 0:
                response.next_page_token = token_after(after) if after else ""
                return response
            await asyncio.sleep(0)

    async def _register(self, asked: pb.RegisterModelsRequest) -> pb.RegisterModelsResponse:
        if len(asked.models) > MOST_BULK_MODELS:
            raise invalid(f"{len(asked.models)} models, more than {MOST_BULK_MODELS} in one call")
        used_ms = last_used_ms(0, self._wall_ms(), load_now=False)
        response = pb.RegisterModelsResponse()
        for start in range(0, len(asked.models), _CHUNK):
            items = asked.models[start : start + _CHUNK]
            outcomes = await self._register_some(items, used_ms)
            for item, outcome in zip(items, outcomes, strict=True):
                response.results.append(_result(item.model_id, outcome))
            await asyncio.sleep(0)
        return response

    async def _register_some(
        self, items: Sequence[pb.RegisterModelsRequest.Item], used_ms: int
    ) -> list[Failure | None]:
        """What came of each: refused by its name or type here, or registered by the room."""
        outcomes: list[Failure | None] = [None] * len(items)
        usable: dict[int, tuple[str, ModelRecord]] = {}
        for n, item in enumerate(items):
            try:
                record = new_record(item.model_id, item.type, item.path, item.key, used_ms)
            except MeshError as error:
                outcomes[n] = error.failure
            else:
                usable[n] = (item.model_id, record)
        registered = await self._management.register_many(list(usable.values()))
        for n, outcome in zip(usable, registered, strict=True):
            outcomes[n] = outcome
        return outcomes

    async def _explain(self, asked: pb.ExplainModelRequest) -> pb.ExplainModelResponse:
        model_id = given(asked.model_id)
        return _explanation(model_id, await self._management.explain(model_id))

    async def _unload(self, asked: pb.UnloadModelRequest) -> pb.UnloadModelResponse:
        was_loaded = await self._management.unload(given(asked.model_id))
        return pb.UnloadModelResponse(was_loaded=was_loaded)


def row_of(view: ModelView) -> pb.Model:
    """One model, as listings and events show it."""
    return pb.Model(
        model_id=view.model_id,
        type=view.type,
        path=view.path,
        key=view.key,
        state=view.state.value,
        size_bytes=view.size_bytes,
        last_used_ms=view.last_used_ms,
        tier=view.tier,
        reason=view.reason,
        warnings=view.warnings,
        in_use=view.in_use,
        instances=view.instances,
        min_copies=view.min_copies,
        max_copies=view.max_copies,
        pinned=view.pinned,
        priority=view.priority,
    )


def _result(model_id: str, failure: Failure | None) -> pb.RegisterModelsResponse.Result:
    if failure is None:
        return pb.RegisterModelsResponse.Result(model_id=model_id)
    return pb.RegisterModelsResponse.Result(
        model_id=model_id, error=failure.message, code=failure.code.name
    )


def _explanation(model_id: str, explained: Explained) -> pb.ExplainModelResponse:
    decision = explained.explanation.decision
    return pb.ExplainModelResponse(
        model_id=model_id,
        state=explained.state.value,
        decision="forward" if explained.forward else _DECISIONS[decision.verdict],
        reason=explained.forward or decision.reason,
        eviction_order=[
            pb.ExplainModelResponse.Candidate(
                model_id=candidate.model_id,
                worth=candidate.worth,
                size_bytes=candidate.size_bytes,
                verdict=candidate.fate.value,
            )
            for candidate in explained.explanation.order
        ],
        capacity_bytes=explained.capacity_bytes,
        reserved_bytes=explained.reserved_bytes,
        debt_bytes=explained.debt_bytes,
    )


def token_after(after: str) -> str:
    """What asks for the page that starts after this id."""
    return urlsafe_b64encode(_TOKEN + after.encode()).decode()


def after_of(token: str, prefix: str) -> str:
    """The id after which the page starts; INVALID_ARGUMENT if the token is not one of ours."""
    if not token:
        return ""
    try:
        marked = urlsafe_b64decode(token)
        after = marked.removeprefix(_TOKEN).decode()
    except ValueError:
        raise invalid("page_token is not one that was given out") from None
    if not marked.startswith(_TOKEN) or not after.startswith(prefix):
        raise invalid("page_token is not one that was given out for this prefix")
    return after
