"""Which model a gRPC call is for, and which of its headers the runtime gets to see.

ModelMesh's rules: the id stands in `mm-model-id`, in `mm-model-id-bin` as UTF-8, or in the legacy
`tas-model-id`, looked up in this order; a vmodel's in `mm-vmodel-id[-bin]`; not both. What is meant
for the mesh or for the transport is not for the runtime.

On the path of every request: one look-up a header, and what a key means is decided once.
"""

from enum import IntEnum
from typing import Final

from modelmesh.errors import invalid, not_found
from modelmesh.wire import kinds
from modelmesh.wire.transport import Metadata

_Header = tuple[str, str | bytes]


class _Role(IntEnum):
    PASSED = 0
    STRIPPED = 1
    ADDRESS = 2


_MODEL_KEYS: Final = (kinds.MODEL_ID, kinds.MODEL_ID_BIN, "tas-model-id")
_VMODEL_KEYS: Final = ("mm-vmodel-id", "mm-vmodel-id-bin")
_PASSED, _STRIPPED, _ADDRESS = _Role

# What keys mean. It learns the keys that callers use, up to a bound.
_roles: dict[str, _Role] = dict.fromkeys(_MODEL_KEYS + _VMODEL_KEYS, _ADDRESS)
_MOST_ROLES: Final = 1024


def address(metadata: Metadata) -> tuple[str, Metadata]:
    """The model that the headers name ("" if they name none) and the headers that are passed on.

    INVALID_ARGUMENT if they do not name one model, NOT_FOUND if they name a vmodel.
    """
    passed: list[_Header] = []
    ids: list[_Header] | None = None
    for header in metadata:
        role = _roles.get(header[0])
        if role is None:
            role = _learn(header[0])
        if role is _PASSED:
            passed.append(header)
        elif role is _ADDRESS:
            ids = [header] if ids is None else [*ids, header]
    if ids is None:
        return "", metadata if len(passed) == len(metadata) else tuple(passed)
    return _model_id(ids), tuple(passed)


def _model_id(ids: list[_Header]) -> str:
    model_id = _first(ids, _MODEL_KEYS, "model-id")
    vmodel_id = _first(ids, _VMODEL_KEYS, "vmodel-id")
    if model_id and vmodel_id:
        raise invalid("must include only one of model id and vmodel id")
    if vmodel_id:
        raise not_found("vmodel not found")
    return model_id


def _first(ids: list[_Header], keys: tuple[str, ...], what: str) -> str:
    """The id under the first of these keys that is there; "" if none is."""
    for key in keys:
        values = [value for name, value in ids if name == key]
        if len(values) > 1:
            raise invalid(f"{key} is repeated: calls of several models come with the fleet")
        if values:
            return _decoded(key, values[0], what)
    return ""


def _decoded(key: str, value: str | bytes, what: str) -> str:
    try:
        model_id = value if isinstance(value, str) else value.decode()
    except UnicodeDecodeError:
        raise invalid(f"the {key} header is not valid UTF-8") from None
    if not model_id:
        raise invalid(f"provided {what} header must be non-empty")
    return model_id


def _learn(key: str) -> _Role:
    role = _PASSED
    if key.startswith(("mm-", "grpc-")) or key in ("content-type", "user-agent"):
        role = _STRIPPED
    if len(_roles) < _MOST_ROLES:
        _roles[key] = role
    return role
