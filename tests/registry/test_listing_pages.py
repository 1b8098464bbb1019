"""How large the pages of a listing are, and in what parts they are taken."""

from random import Random

import pytest

from modelmesh.registry.follower import Bounds, next_page_entries, parts
from modelmesh.registry.local import unavailable
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.mirror import Mirror
from modelmesh.registry.remote_table import Listing, RemoteTable
from modelmesh.registry.store import MODELS, Entry, Event, Page
from tests.registry.faulty import Faulty, comes
from tests.registry.mirrors import fill, models, period, virtual

BOUNDS = Bounds(page_entries=1000, most_page_entries=8000, page_s=5.0)


@pytest.mark.parametrize(
    ("entries", "took_s", "expected"),
    [
        (1000, 0.0, 2000),
        (1000, 0.5, 2000),
        (1000, 0.6, 1000),  # twice as many might come near to what a page may take
        (5000, 0.1, 8000),
        (8000, 0.1, 8000),
        (9000, 0.1, 9000),  # what a first page may be is never too much
    ],
)
def test_pages_grow_while_they_come_quickly(entries: int, took_s: float, expected: int) -> None:
    assert next_page_entries(entries, took_s, BOUNDS) == expected


def _page(count: int, more: bool = False) -> Page:
    return Page(tuple((f"r/{n:03}", Entry(b"", n + 1, n + 1)) for n in range(count)), 500, more)


@pytest.mark.parametrize("more", [True, False])
@pytest.mark.parametrize(("count", "sizes"), [(0, [0]), (1, [1]), (4, [2, 2]), (5, [2, 2, 1])])
def test_a_page_in_parts_is_the_page(count: int, sizes: list[int], more: bool) -> None:
    found = [*parts(_page(count, more), 2)]
    assert [len(part.entries) for part in found] == sizes
    assert sum((part.entries for part in found), ()) == _page(count).entries
    assert [part.more for part in found] == [True] * (len(sizes) - 1) + [more]
    assert {part.revision for part in found} == {500}


def test_what_was_changed_between_two_parts_stays_changed() -> None:
    table = RemoteTable("r/")
    table.apply([Event("r/003x", Entry(b"", 7, 7), 7)])
    listing, after = Listing(table), ""
    first, second = parts(_page(6), 3)
    after = listing.add(after, first) or ""
    newer = Entry(b"newer", 5, 501)
    table.apply(
        [Event("r/000", None, 501), Event("r/004", newer, 501), Event("r/003y", newer, 501)]
    )
    assert listing.add(after, second) is None
    listing.finish(listing.missing(False), ())
    assert [*table.names()] == ["001", "002", "003", "003y", "004", "005"]
    assert table.get("004") == newer


class Asked(Faulty):
    """Remembers how many entries it was asked for."""

    def __init__(self) -> None:
        super().__init__(MemoryStore(), Random(1))
        self.limits: list[int] = []
        self.refuses = False

    async def page(self, prefix: str, after: str = "", limit: int = 1000) -> Page:
        if prefix == MODELS:
            self.limits.append(limit)
            if self.refuses:
                raise unavailable("not now")
        return await super().page(prefix, after, limit)


@virtual
async def test_pages_are_small_at_first_and_after_a_failure() -> None:
    asked = Asked()
    names = [f"{n:02}" for n in range(16)]
    await fill(asked.inner, *names)
    bounds = Bounds(page_entries=1, most_page_entries=4)
    async with await comes(Mirror.open(asked, Random(2), bounds=bounds), 5.0) as mirror:
        assert models(mirror) == names
        assert asked.limits == [1, 2, 4, 4, 4, 4]
        await period(mirror)
        assert set(asked.limits[6:]) == {4}
        asked.refuses, asked.limits = True, []
        await period(mirror)
        assert asked.limits[:2] == [4, 1]
        asked.refuses, asked.limits = False, []
        await period(mirror)
        assert asked.limits[:3] == [1, 2, 4]
        assert models(mirror) == names
