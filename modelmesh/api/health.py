"""grpc.health.v1.Health: whether the daemon takes calls, for the whole and for each service.

All services share one state, since they share one daemon. `changed` is called when that state may
have changed: watchers are told then, and not by polling.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from grpc_health.v1 import health_pb2 as pb

from modelmesh.api.asking import at_once, parsed
from modelmesh.api.dispatch import Method
from modelmesh.api.streams import Streams
from modelmesh.errors import invalid, not_found
from modelmesh.wire.transport import Body, Call

SERVICE: Final = "grpc.health.v1.Health"
WATCH: Final = f"/{SERVICE}/Watch"

_Status = pb.HealthCheckResponse


class Health:
    """The methods of the service, over the services named and "" (the whole daemon)."""

    def __init__(self, services: Iterable[str], ready: Callable[[], bool]) -> None:
        self._services = frozenset(services) | {""}
        self._ready = ready
        self._watches: Streams[int | None] = Streams()  # the status last told; None: not asked yet

    def methods(self) -> dict[str, Method]:
        """By kind."""
        return {
            f"/{SERVICE}/Check": at_once(pb.HealthCheckRequest, self._check),
            f"/{SERVICE}/List": at_once(pb.HealthListRequest, self._list),
            WATCH: self._watch,
        }

    def changed(self) -> None:
        """The daemon has become ready, or is no longer."""
        status = self._status()
        for call, told in list(self._watches.open.items()):
            if told not in (None, _Status.SERVICE_UNKNOWN, status):
                self._tell(call, status)

    def drain(self) -> None:
        """Say that the daemon is leaving, and end every watch."""
        self.changed()
        self._watches.drain()

    def _status(self) -> int:
        return int(_Status.SERVING if self._ready() else _Status.NOT_SERVING)

    def _check(self, asked: Any) -> Any:
        if asked.service not in self._services:
            raise not_found("unknown service")
        return _Status(status=self._status())

    def _list(self, _asked: Any) -> Any:
        status = _Status(status=self._status())
        return pb.HealthListResponse(statuses=dict.fromkeys(self._services, status))

    def _watch(self, call: Call) -> None:
        def end() -> None:
            if self._watches.open[call] is None:
                raise invalid("the stream ended without a request")

        self._watches.begin(call, None, partial(self._begin, call), end)

    def _begin(self, call: Call, body: Body) -> None:
        if self._watches.open[call] is not None:
            raise invalid("Watch takes one request")
        known = parsed(pb.HealthCheckRequest, body).service in self._services
        # A service that is unknown today may be there one day: its watch stays open.
        self._tell(call, self._status() if known else _Status.SERVICE_UNKNOWN)

    def _tell(self, call: Call, status: int) -> None:
        self._watches.open[call] = status
        call.reply.send(_Status(status=status).SerializeToString())
