"""What the serving room of one daemon is made of. Plain wiring."""

from collections.abc import Callable
from dataclasses import dataclass

from modelmesh.cache.copies import Copies
from modelmesh.observe.metrics import Metrics
from modelmesh.registry.models import Models
from modelmesh.runtime.door import Runtime
from modelmesh.serving.changes import Changes
from modelmesh.serving.failures import LoadFailures
from modelmesh.serving.loading import Loader


@dataclass(slots=True)
class Parts:
    """Made by the composition root, shared by the rooms' objects. `clock`: monotonic seconds."""

    models: Models
    copies: Copies
    runtime: Runtime
    failures: LoadFailures
    loader: Loader
    metrics: Metrics
    clock: Callable[[], float]
    changes: Changes
