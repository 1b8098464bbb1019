"""Which models a call is for, what else its headers wish, and which of them are passed on.

ModelMesh's rules: the id stands in `mm-model-id`, in `mm-model-id-bin` as UTF-8, or in the legacy
`tas-model-id`, looked up in this order; a vmodel's in `mm-vmodel-id[-bin]`; not both. An id header
that is repeated names several models. What is meant for the mesh or for the transport is stripped,
so nothing that daemons say to each other (`mm-hop-*`) gets in here. `mm-idempotent` alone stays:
the mesh asks for it when a daemon has vanished with the call (and tells no runtime).

On the path of every request: one look-up a header, and what a key means is decided once.
"""

from enum import IntEnum
from typing import Final, NamedTuple

from modelmesh.errors import invalid
from modelmesh.policy.resending import IDEMPOTENT_HEADER
from modelmesh.wire import kinds
from modelmesh.wire.transport import NO_METADATA, Metadata, text

# Models that one call may ask: each is a call of its own, and all answers are held to the end.
MOST_MODELS: Final = 64

BALANCED: Final = "mm-balanced"
REQUIRED: Final = "mm-required"

_Header = tuple[str, str | bytes]


class Address(NamedTuple):
    """What the headers of a call say.

    `names`: of models, or of vmodels if `vmodel`; () if they name none. `passed`: the headers for
    whoever answers. `balanced`: the caller spreads its calls over the fleet. `all_required`: of
    several models, one that does not exist fails the call.
    """

    names: tuple[str, ...] = ()
    passed: Metadata = NO_METADATA
    vmodel: bool = False
    balanced: bool = False
    all_required: bool = False


class _Role(IntEnum):
    PASSED = 0
    STRIPPED = 1
    ADDRESS = 2
    WISH = 3


_MODEL_KEYS: Final = (kinds.MODEL_ID, kinds.MODEL_ID_BIN, "tas-model-id")
_VMODEL_KEYS: Final = ("mm-vmodel-id", "mm-vmodel-id-bin")
_WISHES: Final = (BALANCED, REQUIRED)
_PASSED, _STRIPPED, _ADDRESS, _WISH = _Role

NOWHERE: Final = Address()

# What keys mean. It learns the keys that callers use, up to a bound.
_roles: dict[str, _Role] = dict.fromkeys(_MODEL_KEYS + _VMODEL_KEYS, _ADDRESS)
_roles |= dict.fromkeys(_WISHES, _WISH) | {IDEMPOTENT_HEADER: _PASSED}
_MOST_ROLES: Final = 1024


def address(metadata: Metadata) -> Address:
    """What these headers say; INVALID_ARGUMENT if they contradict themselves."""
    passed: list[_Header] = []
    ids: list[_Header] = []
    wishes: list[_Header] | None = None
    for header in metadata:
        role = _roles.get(header[0])
        if role is None:
            role = _learn(header[0])
        if role is _PASSED:
            passed.append(header)
        elif role is _ADDRESS:
            ids.append(header)
        elif role is _WISH:
            wishes = [header] if wishes is None else [*wishes, header]
    left = metadata if len(passed) == len(metadata) else tuple(passed)
    names, vmodel = _named(ids) if ids else ((), False)
    if wishes is None:
        return Address(names, left, vmodel)
    return Address(names, left, vmodel, *_wished(wishes))


def is_balanced(metadata: Metadata) -> bool:
    """Whether the caller says so, of calls that are not for a model's server."""
    return any(key == BALANCED and text(value).strip().lower() == "true" for key, value in metadata)


def _named(ids: list[_Header]) -> tuple[tuple[str, ...], bool]:
    """Names, and whether they are vmodels'."""
    models = _first(ids, _MODEL_KEYS, "model-id")
    vmodels = _first(ids, _VMODEL_KEYS, "vmodel-id")
    if models and vmodels:
        raise invalid("must include only one of model id and vmodel id")
    return models or vmodels, bool(vmodels)


def _first(ids: list[_Header], keys: tuple[str, ...], what: str) -> tuple[str, ...]:
    """The ids under the first of these keys that is there; () if none is."""
    for key in keys:
        values = tuple([_decoded(key, value, what) for name, value in ids if name == key])
        if len(values) > MOST_MODELS:
            raise invalid(f"{key} names {len(values)} models, more than {MOST_MODELS} in one call")
        if values:
            return values
    return ()


def _decoded(key: str, value: str | bytes, what: str) -> str:
    try:
        model_id = value if isinstance(value, str) else value.decode()
    except UnicodeDecodeError:
        raise invalid(f"the {key} header is not valid UTF-8") from None
    if not model_id:
        raise invalid(f"provided {what} header must be non-empty")
    return model_id


def _wished(wishes: list[_Header]) -> tuple[bool, bool]:
    """Balanced, all required; of a header that is repeated the last one counts."""
    last = {key: text(value).strip().lower() for key, value in wishes}
    required = last.get(REQUIRED, "any")
    if required not in ("any", "all"):
        raise invalid(f"{REQUIRED} must be any or all")
    return last.get(BALANCED) == "true", required == "all"


def _learn(key: str) -> _Role:
    role = _PASSED
    if key.startswith(("mm-", "grpc-")) or key in ("content-type", "user-agent"):
        role = _STRIPPED
    if len(_roles) < _MOST_ROLES:
        _roles[key] = role
    return role
