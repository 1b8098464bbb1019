"""The operations face: metrics and probes over HTTP, on the metrics port and on the probe port.

A scrape is rendered in a thread, since 2,000 histograms are milliseconds; the daemon's own figures
are read before, on the loop, where they are consistent. A probe answers at once, in plain text that
says why not. Neither port knows models or predicts anything.
"""

import asyncio
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from modelmesh.api.asking import Answer, Tasks
from modelmesh.api.dispatch import Dispatch, Method
from modelmesh.errors import Code, Failure, MeshError, Reason, not_found
from modelmesh.observe.metrics import Gauges, Metrics
from modelmesh.wire.http1_heads import STATUS
from modelmesh.wire.transport import Call, Handler, text

MOST_SCRAPES: Final = 4  # at a time; Prometheus makes one every few seconds
SCRAPE_S: Final = 10.0  # Prometheus' own default timeout
_MOST_NAMES: Final = 1000  # name[] parameters of one scrape

_PLAIN: Final = ("content-type", "text/plain; charset=utf-8")
_METRICS_TYPE: Final = ("content-type", CONTENT_TYPE_LATEST)


class Operations:
    """Handlers for both ports. `why_not_ready` and `why_not_live` say "" when all is well."""

    def __init__(
        self,
        metrics: Metrics,
        gauges: Callable[[], Gauges],
        why_not_ready: Callable[[], str],
        why_not_live: Callable[[], str] = lambda: "",
    ) -> None:
        self._metrics = metrics
        self._gauges = gauges
        self._why_not_ready = why_not_ready
        self._why_not_live = why_not_live
        self._scrapes = Tasks(MOST_SCRAPES, SCRAPE_S)

    def metrics_port(self) -> Handler:
        """GET /metrics and / (Prometheus' text), /ready and /live."""
        return _get({"/metrics": self.scrape, "/": self.scrape, **self._probes()})

    def probe_port(self) -> Handler:
        """GET /ready (200 or 503) and /live (200 or 500)."""
        return _get(self._probes())

    async def close(self) -> None:
        """Give up the scrapes under way."""
        await self._scrapes.close()

    def _probes(self) -> dict[str, Method]:
        return {
            "/ready": lambda call: _probe(call, self._why_not_ready(), "503"),
            "/live": lambda call: _probe(call, self._why_not_live(), "500"),
        }

    def scrape(self, call: Call) -> None:
        """Prometheus' text of now; for the REST port too, where KServe has it."""
        names = _names(text(call.header(":query")))

        async def render() -> Answer:
            gauges = self._gauges()
            rendered = await asyncio.to_thread(self._metrics.scrape, lambda: gauges, names)
            return rendered, (_METRICS_TYPE,)

        self._scrapes.answer(call, render)


def _names(query: str) -> list[str]:
    try:
        return parse_qs(query, max_num_fields=_MOST_NAMES).get("name[]", [])
    except ValueError:
        raise MeshError(Failure(Code.INVALID_ARGUMENT, "too many parameters")) from None


def _probe(call: Call, why_not: str, status: str) -> None:
    if why_not:
        call.reply.answer(f"{why_not}\n".encode(), (_PLAIN, (STATUS, status)))
    else:
        call.reply.answer(b"ok\n", (_PLAIN,))


def _get(paths: dict[str, Method]) -> Handler:
    methods = {f"{verb} {path}": paths[path] for verb in ("GET", "HEAD") for path in paths}

    def otherwise(call: Call) -> None:
        if call.kind.partition(" ")[2] in paths:
            message = "only GET and HEAD are allowed here"
            reason = Reason.METHOD_NOT_ALLOWED
            raise MeshError(Failure(Code.UNIMPLEMENTED, message, reason=reason))
        raise not_found(f"nothing is here but {', '.join(paths)}")

    return Dispatch(methods, otherwise)
