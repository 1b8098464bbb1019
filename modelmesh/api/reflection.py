"""grpc.reflection, v1 and v1alpha: what this port serves, described by itself.

Both versions have the same messages under two package names, so one implementation serves both; the
description of v1, which no library here brings along, is made from that of v1alpha. Descriptions
come from a pool of this module's own: what else is loaded in the process is nobody's business.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2 as pb

from modelmesh.api.asking import parsed
from modelmesh.api.dispatch import Method
from modelmesh.api.streams import Streams
from modelmesh.errors import Code, Failure, Fault, MeshError, Reason
from modelmesh.pb import admin_pb2, inference_pb2, model_mesh_pb2
from modelmesh.wire.transport import Body, Call

SERVICES: Final = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
INFO: Final = tuple(f"/{service}/ServerReflectionInfo" for service in SERVICES)

_UNREAD = Failure(
    Code.RESOURCE_EXHAUSTED,
    "read the answers before asking for more",
    Fault.CALLER,
    Reason.OVERLOADED,
)


class Reflection:
    """The methods of both services; `services` are the names listed."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = sorted(services)
        self._pool = _pool()
        self._streams: Streams[None] = Streams()
        self._answers: dict[str, Callable[[Any], Any]] = {
            "list_services": self._list,
            "file_by_filename": self._file,
            "file_containing_symbol": self._symbol,
            "file_containing_extension": self._extension,
            "all_extension_numbers_of_type": self._extension_numbers,
        }

    def methods(self) -> dict[str, Method]:
        """By kind."""
        return dict.fromkeys(INFO, self._info)

    def drain(self) -> None:
        """End every stream: the daemon is leaving."""
        self._streams.drain()

    def _info(self, call: Call) -> None:
        end = partial(self._streams.finish, call)
        self._streams.begin(call, None, partial(self._answer, call), end)

    def _answer(self, call: Call, body: Body) -> None:
        if call.reply.slow:
            raise MeshError(_UNREAD)
        asked = parsed(pb.ServerReflectionRequest, body)
        which = asked.WhichOneof("message_request")
        response = pb.ServerReflectionResponse(valid_host=asked.host, original_request=asked)
        if which is None:
            _refuse(response, Code.INVALID_ARGUMENT, "the request asks for nothing")
        else:
            try:
                answer = self._answers[which](getattr(asked, which))
            except KeyError:
                _refuse(response, Code.NOT_FOUND, f"{which}: not found")
            else:
                response.MergeFrom(answer)
        call.reply.send(response.SerializeToString())

    # --- each kind of question; KeyError: there is no such thing

    def _list(self, _asked: str) -> Any:
        services = [pb.ServiceResponse(name=name) for name in self._services]
        listed = pb.ListServiceResponse(service=services)
        return pb.ServerReflectionResponse(list_services_response=listed)

    def _file(self, name: str) -> Any:
        return _described(self._pool.FindFileByName(name))

    def _symbol(self, name: str) -> Any:
        try:
            file = self._pool.FindFileContainingSymbol(name)
        except KeyError:  # which does not know methods
            file = self._pool.FindMethodByName(name).containing_service.file
        return _described(file)

    def _extension(self, asked: Any) -> Any:
        extended = self._pool.FindMessageTypeByName(asked.containing_type)
        return _described(self._pool.FindExtensionByNumber(extended, asked.extension_number).file)

    def _extension_numbers(self, name: str) -> Any:
        extended = self._pool.FindMessageTypeByName(name)
        numbers = sorted(each.number for each in self._pool.FindAllExtensions(extended))
        found = pb.ExtensionNumberResponse(base_type_name=name, extension_number=numbers)
        return pb.ServerReflectionResponse(all_extension_numbers_response=found)


def _described(file: Any) -> Any:
    """The file and all that it imports, what was asked for first."""
    files: dict[str, Any] = {}
    _collect(file, files)
    described = [each.serialized_pb for each in files.values()]
    found = pb.FileDescriptorResponse(file_descriptor_proto=described)
    return pb.ServerReflectionResponse(file_descriptor_response=found)


def _collect(file: Any, files: dict[str, Any]) -> None:
    if file.name not in files:
        files[file.name] = file
        for imported in file.dependencies:
            _collect(imported, files)


def _refuse(response: Any, code: Code, message: str) -> None:
    response.error_response.error_code = code
    response.error_response.error_message = message


def _pool() -> Any:
    served = (inference_pb2, model_mesh_pb2, admin_pb2, health_pb2, pb)
    pool = DescriptorPool()
    for module in served:
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(_version_1().SerializeToString())
    return pool


def _version_1() -> Any:
    """The description of grpc.reflection.v1: v1alpha's under another name."""
    file = FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    file.name, file.package = _renamed(file.name), _renamed(file.package)
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = _renamed(field.type_name)
    for method in file.service[0].method:
        method.input_type = _renamed(method.input_type)
        method.output_type = _renamed(method.output_type)
    return file


def _renamed(name: str) -> str:
    return name.replace("v1alpha", "v1")
