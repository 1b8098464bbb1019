"""The gRPC port: all services in one handler.

What is unknown to every service goes to `Inference.pass_on`: a runtime may know it.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from modelmesh.api import admin, fleet, health, inference, management, reflection, vmodels
from modelmesh.api.asking import Tasks
from modelmesh.api.dataplane import Dataplane
from modelmesh.api.dispatch import Dispatch
from modelmesh.api.fleet_face import FleetFace
from modelmesh.api.management_face import VModelManagement
from modelmesh.api.serving_face import Serving
from modelmesh.wire.transport import Handler, StreamingKinds

SERVICES: Final = (
    inference.SERVICE,
    management.SERVICE,
    admin.SERVICE,
    health.SERVICE,
    *reflection.SERVICES,
)
STREAMING: Final[StreamingKinds] = frozenset({health.WATCH, fleet.WATCH, *reflection.INFO})


class GrpcPort:
    """Makes the handler, and ends what does not end by itself.

    `ready` says whether the whole daemon is ready; `wall_ms` is the time since the epoch; `first`
    comes before each call of management and may refuse it.
    """

    def __init__(
        self,
        serving: Serving,
        management_room: FleetFace,
        vmodels_room: VModelManagement,
        ready: Callable[[], bool],
        wall_ms: Callable[[], int],
        *,
        multi_parallelism: int = 4,
        first: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._tasks = tasks = Tasks(first=first)
        self._fleet = fleet.Fleet(management_room, tasks)
        self._health = health.Health(SERVICES, ready)
        self._reflection = reflection.Reflection(SERVICES)
        calls = inference.Inference(serving, management_room, tasks, ready, multi_parallelism)
        methods = {
            **management.ModelMesh(management_room, tasks, wall_ms).methods(),
            **vmodels.VModels(vmodels_room, tasks, wall_ms).methods(),
            **admin.Admin(management_room, tasks, wall_ms).methods(),
            **self._fleet.methods(),
            **self._health.methods(),
            **self._reflection.methods(),
            **calls.methods(),
        }
        self.handler: Handler = Dispatch(methods, calls.pass_on)
        self._calls = calls

    def permit(self, dataplane: Dataplane) -> None:
        """From now on these methods may be used on models, and their ids stand there."""
        self._calls.dataplane = dataplane

    def changed(self) -> None:
        """The daemon has become ready: who watches its health is told."""
        self._health.changed()

    def drain(self) -> None:
        """The daemon is leaving: tell who watches, end the streams. Before the wire drains."""
        self._health.drain()
        self._fleet.drain()
        self._reflection.drain()

    async def close(self) -> None:
        """Give up what is under way. After the wire has drained."""
        await self._tasks.close()
