"""Which methods callers may use on models, and where in their messages the model's id stands.

ModelMesh's dataplane configuration:
`{"rpcConfigs": {"pkg.Service/Method": {"idExtractionPath": [1, 2], "vModelId": true}},
"allowOtherRpcs": false}`. Without one, every method passes, by its headers. With one, methods that
it does not name are refused, unless others are allowed. A path is the field numbers down to a
string; an id that stands there goes before one in the headers. A property that is not known is an
error: it might be the one that was to keep callers out.

Pure: text in, rules out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from modelmesh.codec.splice import Path

_MOST_FIELD: Final = (1 << 29) - 1  # protobuf's largest field number
_DEEPEST: Final = 32  # levels of a message: each is walked for every call


@dataclass(frozen=True, slots=True)
class Rpc:
    """How one method names its model. `path`: () if its message does not; `vmodel`: what stands
    there names a vmodel."""

    path: Path = ()
    vmodel: bool = False


_BY_HEADERS: Final = Rpc()


@dataclass(frozen=True, slots=True)
class Dataplane:
    """The rules, by kind (`/pkg.Service/Method`)."""

    rpcs: Mapping[str, Rpc] = field(default_factory=dict)
    allow_others: bool = False

    def rpc(self, kind: str) -> Rpc | None:
        """The method's rule; None if callers may not use it."""
        return self.rpcs.get(kind, _BY_HEADERS if self.allow_others else None)


EVERYTHING: Final = Dataplane(allow_others=True)


def parse(text: str) -> Dataplane:
    """Read the JSON (empty: everything is allowed). ValueError says what is wrong with it."""
    if not text.strip():
        return EVERYTHING
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the dataplane configuration is not JSON: {error}") from None
    fields = _object(given, "the dataplane configuration", ("rpcConfigs", "allowOtherRpcs"))
    rpcs = _object(fields.get("rpcConfigs", {}), "rpcConfigs")
    allow = _bool(fields.get("allowOtherRpcs", False), "allowOtherRpcs")
    return Dataplane({_kind(name): _rpc(name, rule) for name, rule in rpcs.items()}, allow)


def _kind(name: str) -> str:
    service, slash, method = name.partition("/")
    if not (service and slash and method) or "/" in method:
        raise ValueError(f"rpcConfigs: {name!r} is not package.Service/Method")
    return f"/{name}"


def _rpc(name: str, given: Any) -> Rpc:
    fields = _object(given, name, ("idExtractionPath", "vModelId"))
    path = fields.get("idExtractionPath", [])
    if not isinstance(path, list) or not all(map(_is_field, path)) or len(path) > _DEEPEST:
        raise ValueError(f"{name}: idExtractionPath is a list of up to {_DEEPEST} field numbers")
    return Rpc(tuple(path), _bool(fields.get("vModelId", False), f"{name}: vModelId"))


def _is_field(number: Any) -> bool:
    return type(number) is int and 1 <= number <= _MOST_FIELD


def _object(given: Any, what: str, known: tuple[str, ...] = ()) -> dict[str, Any]:
    """A JSON object; with `known`, one of no other properties."""
    if not isinstance(given, dict):
        raise ValueError(f"{what} is a JSON object")
    if known and (unknown := given.keys() - set(known)):
        raise ValueError(f"{what} has {sorted(unknown)}; known are {', '.join(known)}")
    return given


def _bool(given: Any, what: str) -> bool:
    if not isinstance(given, bool):
        raise ValueError(f"{what} is true or false")
    return given
