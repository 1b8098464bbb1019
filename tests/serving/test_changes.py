"""What is told of models: their registrations, and their copies here."""

from dataclasses import dataclass, field

import pytest

from modelmesh.errors import MeshError, not_found
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.models import ModelChange, Models
from modelmesh.serving.changes import Changes
from modelmesh.serving.wishes import WishChange
from tests.serving.fleet_of_one import One, until


@dataclass
class Fleet:
    """Claims that note what they are asked; `refuses` none."""

    said: list[str] = field(default_factory=list)
    refuses: bool = False

    async def claim(self, model_id: str, *, further: bool) -> None:
        if self.refuses:
            raise not_found()
        self.said.append(f"claim {model_id} {further}")

    def loaded(self, model_id: str, load_s: float) -> None:
        self.said.append(f"loaded {model_id} {load_s}")

    def failed(self, model_id: str, message: str) -> None:
        self.said.append(f"failed {model_id} {message}")

    def gone(self, model_id: str) -> None:
        self.said.append(f"gone {model_id}")


async def test_claims_are_passed_on_before_they_are_told() -> None:
    fleet = Fleet()
    heard: list[tuple[str, str]] = []
    changes = Changes(fleet, Models(MemoryStore()))

    def listen(what: list[ModelChange]) -> None:
        heard.append((fleet.said[-1], what[0].model_id))

    stop = changes.subscribe(listen)
    await changes.claim("m", further=True)
    changes.loaded("m", 0.5)
    changes.failed("m", "why")
    changes.gone("m")
    assert heard == [
        ("claim m True", "m"), ("loaded m 0.5", "m"), ("failed m why", "m"), ("gone m", "m"),
    ]  # fmt: skip
    stop()
    stop()
    changes.gone("m")
    assert len(heard) == 4


async def test_a_claim_that_is_refused_is_no_change() -> None:
    fleet = Fleet(refuses=True)
    heard: list[list[ModelChange]] = []
    changes = Changes(fleet, Models(MemoryStore()))
    changes.subscribe(heard.append)
    with pytest.raises(MeshError):
        await changes.claim("m", further=False)
    assert heard == []


async def test_a_listener_that_fails_harms_nobody() -> None:
    heard: list[list[ModelChange]] = []
    changes = Changes(Fleet(), Models(MemoryStore()))
    changes.subscribe(lambda what: heard.append([what[7]]))
    changes.subscribe(heard.append)
    changes.gone("m")
    assert heard == [[ModelChange("m", exists=True, created=False)]]


async def test_a_daemon_alone_tells_the_whole_life_of_a_model() -> None:
    one = One()
    told: list[str] = []

    def listen(changes: list[ModelChange]) -> None:
        for change in changes:
            view = one.management.view(change.model_id)
            told.append(view.state.value if view is not None else "gone")

    one.management.subscribe(listen)
    await one.register("m")
    await one.management.set_wishes("m", WishChange(pinned=True))
    await one.answer("m")
    await one.management.unload("m")
    await one.management.unregister("m")
    await until(lambda: told[-1] == "gone")
    lasting = [state for n, state in enumerate(told) if n == 0 or told[n - 1] != state]
    assert lasting == ["NOT_LOADED", "LOADING", "LOADED", "NOT_LOADED", "gone"]
