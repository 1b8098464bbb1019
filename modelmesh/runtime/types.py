"""Which model types our hosts run, as callers may write them."""

from modelmesh.errors import invalid


class Types:
    """`sklearn`, `rt:sklearn`, `mt:sklearn`, `mt:sklearn:1|pv:grpc-v2` all name one type."""

    def __init__(self, known: tuple[str, ...], quick: frozenset[str]) -> None:
        self._known = known
        self._quick = quick

    def check(self, model_type: str) -> None:
        """INVALID_ARGUMENT, naming the types that work, for one that does not."""
        if base_type(model_type) not in self._known:
            raise invalid(
                f"no runtime for model type {model_type!r}; there are: {', '.join(self._known)}"
            )

    def always_quick(self, model_type: str) -> bool:
        """Whether such a model is never worth a process of its own."""
        return base_type(model_type) in self._quick


def base_type(model_type: str) -> str:
    """The name inside ModelMesh's label forms."""
    label = model_type.split("|", 1)[0]
    if label.startswith("rt:"):
        return label[3:]
    if label.startswith("mt:"):
        return label[3:].split(":", 1)[0]
    return label
