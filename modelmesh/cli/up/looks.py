"""What each daemon holds, asked from outside: figures from its metrics page, names from its admin
service. Names cost more, so they are asked only when a model has come or gone, and only the first.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode

from modelmesh.cli.calling import daemon
from modelmesh.cli.exits import CommandFailed
from modelmesh.cli.up import asking
from modelmesh.cli.up.children import HOST
from modelmesh.cli.up.kept import Kept
from modelmesh.cli.up.plan import Pod
from modelmesh.pb import admin_pb2

ANSWER_S: Final = 1.0
FEW: Final = 4  # names shown for each pod
_PAGE: Final = 1000
_PAGES: Final = 3  # a look at 3,000 registrations has to do: this is a table, not an audit
_LOADED: Final = "modelmesh_instance_models_total"
_USED: Final = "modelmesh_instance_used_bytes"
_CAPACITY: Final = "modelmesh_instance_capacity_bytes"
_REQUESTS: Final = "modelmesh_api_request_milliseconds_count"
_LOADS: Final = "modelmesh_loadmodel_milliseconds_count"
_UNLOADS: Final = "modelmesh_unloadmodel_milliseconds_count"
_PATH: Final = "/metrics?" + urlencode(
    {"name[]": (_LOADED, _USED, _CAPACITY, _REQUESTS, _LOADS, _UNLOADS)}, doseq=True
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a daemon's metrics page says of its memory."""

    loaded: int = 0
    used_bytes: int = 0
    capacity_bytes: int = 0
    requests: int = 0
    changes: int = 0  # loads and unloads so far


@dataclass(frozen=True, slots=True)
class Look:
    """One pod as it is now; no figures where it does not answer."""

    id: str
    pid: int | None
    ready: bool
    restarts: int
    figures: Figures | None = None
    models: tuple[str, ...] = ()


@dataclass(slots=True)
class Looker:
    """Looks at one pod, again and again."""

    pod: Pod
    kept: Kept
    _names: tuple[str, ...] = ()
    _named: tuple[int | None, int, int] = field(default=(None, -1, -1))

    async def look(self) -> Look:
        """One round; within a few seconds, whatever the daemon does."""
        kept = self.kept
        ready = kept.ready and await kept.answers()
        figures = await self._figures() if ready else None
        names = await self._models(figures) if figures is not None else ()
        return Look(self.pod.id, kept.pid, ready, kept.restarts, figures, names)

    async def _figures(self) -> Figures | None:
        answer = await asking.get(self.pod.metrics, _PATH, ANSWER_S)
        return None if answer is None or answer.status != 200 else figures_of(answer.body.decode())

    async def _models(self, figures: Figures) -> tuple[str, ...]:
        state = (self.kept.pid, figures.loaded, figures.changes)
        if figures.loaded and state != self._named:
            names = await asyncio.to_thread(_names_at, f"{HOST}:{self.pod.grpc}")
            if names is not None:
                self._names, self._named = names, state
        return self._names if figures.loaded else ()


def figures_of(page: str) -> Figures:
    """Prometheus' text, read as far as it concerns the table; samples of one name are added up."""
    sums = _sums(page)
    return Figures(
        loaded=int(sums.get(_LOADED, 0)),
        used_bytes=int(sums.get(_USED, 0)),
        capacity_bytes=int(sums.get(_CAPACITY, 0)),
        requests=int(sums.get(_REQUESTS, 0)),
        changes=int(sums.get(_LOADS, 0) + sums.get(_UNLOADS, 0)),
    )


def _sums(page: str) -> Mapping[str, float]:
    sums: dict[str, float] = {}
    for line in page.splitlines():
        if not line or line.startswith("#"):
            continue
        name = line.partition(" ")[0].partition("{")[0]
        try:
            sums[name] = sums.get(name, 0.0) + float(line.rpartition(" ")[2])
        except ValueError:
            continue
    return sums


def _names_at(address: str) -> tuple[str, ...] | None:
    """The first few models loaded there; None if it did not say. Blocks."""
    found: list[str] = []
    token = ""
    try:
        with daemon(address) as there:
            for _ in range(_PAGES):
                asked = admin_pb2.ListModelsRequest(page_size=_PAGE, page_token=token)
                page = there.admin.ListModels(asked, timeout=ANSWER_S)
                found += _loaded_in(page.models)
                token = page.next_page_token
                if len(found) >= FEW or not token:
                    break
    except CommandFailed:
        return None
    return tuple(found[:FEW])


def _loaded_in(models: Sequence[admin_pb2.Model]) -> list[str]:
    # A tier is a fact of the daemon that answers; a state may be the whole fleet's.
    return [model.model_id for model in models if model.tier]
