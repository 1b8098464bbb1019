"""Which instances may hold a model of a type, and which of them it would rather not crowd.

A type may *require* labels (all of them, or the instance is out) and *prefer* labels (any of them,
or the instance comes later). A type that prefers nothing keeps away from specialised instances:
from those that many types with requirements can use, since these types have nowhere else to go.
The format is ModelMesh's `MM_TYPE_CONSTRAINTS`:
`{"<type>": {"required": [..], "preferred": [..]}, "_default": {..}}`; `_default` counts for every
type without an entry of its own.

Both questions are asked of the same entry: a requirement that is met never hides what is preferred.
Pure. Must never know instances: it is asked about labels.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

DEFAULT: Final = "_default"

# Worse ranks say nothing more: placement weighs a rank against queues and evictions.
WORST_RANK: Final = 4
_NOT_PREFERRED: Final = 3


@dataclass(frozen=True, slots=True)
class TypeNeed:
    """What one type asks of an instance's labels."""

    required: frozenset[str] = frozenset()
    preferred: frozenset[str] = frozenset()


_NO_NEED: Final = TypeNeed()


@dataclass(frozen=True, slots=True)
class Constraints:
    """The needs of all types."""

    by_type: Mapping[str, TypeNeed] = field(default_factory=dict, hash=False)
    default: TypeNeed = _NO_NEED

    def need(self, model_type: str) -> TypeNeed:
        return self.by_type.get(model_type, self.default)

    def missing(self, model_type: str, labels: Collection[str]) -> tuple[str, ...]:
        """The required labels that are not there, in order; empty if the instance will do."""
        return tuple(sorted(self.need(model_type).required.difference(labels)))

    def feasible(self, model_type: str, labels: Collection[str]) -> bool:
        return self.need(model_type).required.issubset(labels)

    def preferred(self, model_type: str, labels: Collection[str]) -> bool:
        """Whether the instance has a label that the type asks for by preference."""
        return not self.need(model_type).preferred.isdisjoint(labels)

    def rank(self, model_type: str, labels: Collection[str]) -> int | None:
        """None: not feasible. Else 0 (best) to `WORST_RANK`, by what is preferred or inferred."""
        need = self.need(model_type)
        if not need.required.issubset(labels):
            return None
        if need.preferred:
            return _NOT_PREFERRED if need.preferred.isdisjoint(labels) else 0
        return min(self._specialisation(model_type, labels), WORST_RANK)

    def _specialisation(self, model_type: str, labels: Collection[str]) -> int:
        """How many other types depend on such an instance, or would rather have it."""
        return sum(
            1
            for other, need in self.by_type.items()
            if other != model_type
            and (
                (need.required and need.required.issubset(labels))
                or not need.preferred.isdisjoint(labels)
            )
        )


NO_CONSTRAINTS: Final = Constraints()


def parse(text: str) -> Constraints:
    """Read the JSON (empty: no constraints). ValueError says which type is wrong, and how."""
    if not text.strip():
        return NO_CONSTRAINTS
    try:
        types = json.loads(text)
    except ValueError as error:
        raise ValueError(f"type constraints are not JSON: {error}") from error
    if not isinstance(types, dict):
        raise ValueError("type constraints are a JSON object of types")
    needs = {model_type: _need(model_type, given) for model_type, given in types.items()}
    return Constraints(
        {model_type: need for model_type, need in needs.items() if model_type != DEFAULT},
        needs.get(DEFAULT, _NO_NEED),
    )


def _need(model_type: str, given: Any) -> TypeNeed:
    if not isinstance(given, dict):
        raise ValueError(f"type constraints: {model_type!r} must be an object")
    if unknown := given.keys() - {"required", "preferred"}:
        raise ValueError(
            f"type constraints: {model_type!r} has {sorted(unknown)}; known are required, preferred"
        )
    return TypeNeed(_labels(model_type, "required", given), _labels(model_type, "preferred", given))


def _labels(model_type: str, kind: str, given: Mapping[str, Any]) -> frozenset[str]:
    labels = given.get(kind, [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"type constraints: {kind} of {model_type!r} must be a list of strings")
    return frozenset(labels)
