"""The registry is made to say of an instance what is true."""

import asyncio
from dataclasses import replace

import pytest

from modelmesh.domain.records import ModelRecord
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.store import MODELS, Put
from modelmesh.simulation.clock import run
from modelmesh.tasks.janitor import SLACK_MS, Janitor
from tests.turns import turns_of

NOW_MS = 10_000_000
PLAIN = ModelRecord("dummy")
OLD_MS = NOW_MS - 900_001
USED_MS = 5_000_000
NOTED_MS = USED_MS - SLACK_MS
MINE = PLAIN.claimed("me", 1).loaded("me", 2).used_at(NOTED_MS)


class Here:
    def __init__(self, loaded: str, coming: str) -> None:
        self._loaded, self._coming = loaded, coming

    def is_loaded(self, model_id: str) -> bool:
        return model_id == self._loaded

    def is_coming(self, model_id: str) -> bool:
        return model_id == self._coming

    def used_ms(self, model_id: str) -> int:
        return USED_MS if model_id == self._loaded else 0


class Words:
    """What was said."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def loaded(self, model_id: str) -> None:
        self.said.append(("loaded", model_id))

    def gone(self, model_id: str) -> None:
        self.said.append(("gone", model_id))

    def forgiven(self, model_id: str) -> None:
        self.said.append(("forgiven", model_id))

    def used(self, model_id: str, at_ms: int) -> None:
        assert at_ms == USED_MS
        self.said.append(("used", model_id))


async def swept(records: dict[str, bytes], loaded: str = "", coming: str = "") -> Words:
    store, words = MemoryStore(), Words()
    for model_id, value in records.items():
        await store.commit([], [Put(MODELS + model_id, value)])
    here = Here(loaded, coming)
    janitor = Janitor(store.table(MODELS), "me", here, words, lambda: NOW_MS, 900)
    assert await janitor.sweep() == len(words.said)
    await store.close()
    return words


@pytest.mark.parametrize(
    ("record", "here", "word"),
    [
        (MINE, "loaded", ""),
        (MINE.used_at(NOTED_MS - 1), "loaded", "used"),
        (MINE.used_at(NOTED_MS - 1), "coming", ""),
        (PLAIN, "loaded", "loaded"),
        (PLAIN.claimed("me", 1), "loaded", "loaded"),
        (PLAIN.loaded("you", 1), "loaded", "loaded"),
        (MINE, "nothing", "gone"),
        (PLAIN.claimed("me", 1), "nothing", "gone"),
        (PLAIN.claimed("me", 1), "coming", ""),
        (MINE, "coming", ""),
        (replace(PLAIN, loaded_in={"me": 1}), "nothing", "gone"),
        (PLAIN.loaded("me2", 1), "nothing", ""),
        (PLAIN, "nothing", ""),
        (PLAIN.failed("me", OLD_MS, "no file"), "nothing", "forgiven"),
        (PLAIN.failed("me", OLD_MS + 1, "no file"), "nothing", ""),
        (PLAIN.failed("you", OLD_MS, "no file"), "nothing", ""),
        (ModelRecord("me", "me"), "nothing", ""),
    ],
)
def test_what_is_wrong_about_us_is_said(record: ModelRecord, here: str, word: str) -> None:
    async def main() -> None:
        loaded, coming = ("m", "") if here == "loaded" else ("", "m" if here == "coming" else "")
        words = await swept({"m": record.to_json()}, loaded, coming)
        assert words.said == ([(word, "m")] if word else [])

    run(main())


def test_a_record_that_cannot_be_read_is_passed_over() -> None:
    async def main() -> None:
        words = await swept({"a": b'no json: "me"', "b": MINE.to_json()})
        assert words.said == [("gone", "b")]

    run(main())


def test_a_sweep_over_many_lets_others_have_their_turns() -> None:
    async def main() -> None:
        sweep = asyncio.ensure_future(swept({f"m{n:04}": MINE.to_json() for n in range(2000)}))
        assert await turns_of(sweep) >= 30
        assert len(sweep.result().said) == 2000

    run(main())
