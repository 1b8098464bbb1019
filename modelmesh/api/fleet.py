"""modelmesh.admin.v1.Admin, continued: wishes for models, a watch over them, and who is there.

Like the rest of that service it answers for the whole fleet, whichever daemon is asked.
"""

from typing import Final

from modelmesh.api.admin import SERVICE, row_of
from modelmesh.api.asking import Tasks, at_once
from modelmesh.api.dispatch import Method
from modelmesh.api.fleet_face import FleetFace
from modelmesh.api.management import given
from modelmesh.api.watching import Watching
from modelmesh.pb import admin_pb2 as pb
from modelmesh.serving.status import InstanceView
from modelmesh.serving.wishes import WishChange

WATCH: Final = f"/{SERVICE}/WatchModels"

_WISHES: Final = ("min_copies", "max_copies", "pinned", "priority")


class Fleet:
    """The methods of the service that are about a fleet; those of a daemon alone are its own."""

    def __init__(self, fleet: FleetFace, tasks: Tasks) -> None:
        self._fleet = fleet
        self._tasks = tasks
        self._watching = Watching(fleet.subscribe, fleet.view)

    def methods(self) -> dict[str, Method]:
        """By kind."""
        methods = {
            "SetModelPolicy": self._tasks.method(pb.SetModelPolicyRequest, self._set_policy),
            "ListInstances": at_once(pb.ListInstancesRequest, self._instances),
            "AcceptRestore": at_once(pb.AcceptRestoreRequest, self._accept_restore),
        }
        by_kind = {f"/{SERVICE}/{name}": method for name, method in methods.items()}
        return {**by_kind, WATCH: self._watching.begin}

    def drain(self) -> None:
        """The daemon is leaving: end the watches."""
        self._watching.drain()

    async def _set_policy(self, asked: pb.SetModelPolicyRequest) -> pb.SetModelPolicyResponse:
        wishes = {name: getattr(asked, name) for name in _WISHES if asked.HasField(name)}
        view = await self._fleet.set_wishes(given(asked.model_id), WishChange(**wishes))
        return pb.SetModelPolicyResponse(model=row_of(view))

    def _instances(self, _asked: pb.ListInstancesRequest) -> pb.ListInstancesResponse:
        return pb.ListInstancesResponse(instances=map(_instance, self._fleet.instances()))

    def _accept_restore(self, _asked: pb.AcceptRestoreRequest) -> pb.AcceptRestoreResponse:
        return pb.AcceptRestoreResponse(dropped=self._fleet.accept_restore())


def _instance(view: InstanceView) -> pb.ListInstancesResponse.Instance:
    record = view.record
    return pb.ListInstancesResponse.Instance(
        instance_id=view.instance_id,
        address=record.address,
        zone=record.zone,
        location=record.location,
        labels=record.labels,
        capacity_bytes=record.capacity_bytes,
        used_bytes=record.used_bytes,
        models=record.model_count,
        loading=record.loading,
        calls_per_minute=record.rate_rpm,
        draining=record.draining,
        health=view.health.value,
    )
