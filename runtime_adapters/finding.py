"""Which runtimes there are, and which of them runs a model of a given type.

Runtimes are found by entry point (group `modelmesh.runtimes`), so that a package installed beside
us brings its own, and by name (`module:Class`), so that a file on the path is enough. A runtime
that cannot be imported is left out with the reason, unless it was named: then nothing starts.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from typing import Final

from modelmesh.errors import Code, Failure, MeshError
from runtime_adapters.base import Runtime

GROUP: Final = "modelmesh.runtimes"


class Runtimes:
    """Runtimes by the model types that they run."""

    def __init__(self, runtimes: Iterable[Runtime]) -> None:
        self._by_type: dict[str, Runtime] = {}
        self._by_name: dict[str, Runtime] = {}
        for runtime in runtimes:
            self._by_name[runtime.name] = runtime
            for model_type in (runtime.name, *runtime.types):
                self._by_type[model_type] = runtime

    @property
    def types(self) -> list[str]:
        """The model types that work, sorted."""
        return sorted(self._by_type)

    def types_where(self, holds: Callable[[Runtime], bool]) -> list[str]:
        """The model types whose runtime is so, sorted."""
        return sorted(name for name, runtime in self._by_type.items() if holds(runtime))

    @property
    def preload(self) -> list[str]:
        """The modules to import once for all hosts."""
        modules = (module for runtime in self._by_name.values() for module in runtime.preload)
        return list(dict.fromkeys(modules))

    def runtime_for(self, model_type: str) -> Runtime:
        """The runtime for `sklearn`, `rt:sklearn`, `mt:sklearn`, `mt:sklearn:1|pv:grpc-v2`.

        Raises MeshError (INVALID_ARGUMENT) naming the types that work.
        """
        runtime = self._find(model_type.split("|", 1)[0])
        if runtime is None:
            known = ", ".join(self.types)
            raise MeshError(
                Failure(
                    Code.INVALID_ARGUMENT,
                    f"no runtime for model type {model_type!r}; there are: {known}",
                )
            )
        return runtime

    def _find(self, label: str) -> Runtime | None:
        if label.startswith("rt:"):
            return self._by_name.get(label[3:])
        if label.startswith("mt:"):
            return self._by_type.get(label[3:].split(":", 1)[0])
        return self._by_type.get(label)


def find(named: str, options: Mapping[str, str]) -> tuple[Runtimes, dict[str, str]]:
    """All runtimes, those in `named` ("module:Class,...") last and so first in line.

    Also the entry points that could not be imported, each with its reason. Raises ValueError for a
    named runtime that cannot be had.
    """
    found: list[Runtime] = []
    missing: dict[str, str] = {}
    for entry in entry_points(group=GROUP):
        try:
            found.append(_checked(entry.load())(options))
        except (ImportError, AttributeError, ValueError) as error:
            missing[entry.name] = str(error)
    names = filter(None, (part.strip() for part in named.split(",")))
    found.extend(_named(name)(options) for name in names)
    return Runtimes(found), missing


def _named(name: str) -> type[Runtime]:
    module, _, attribute = name.partition(":")
    try:
        return _checked(getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"the runtime {name!r} cannot be had: {error}") from error


def _checked(found: object) -> type[Runtime]:
    if not isinstance(found, type) or not issubclass(found, Runtime):
        raise ValueError("it is no subclass of runtime_adapters.base.Runtime")
    return found
