"""What may enter and leave a table, whatever the order in which it is told."""

import sys

import pytest

from modelmesh.registry.follower import is_sudden
from modelmesh.registry.remote_table import Listing, RemoteTable, Restored, packed
from modelmesh.registry.store import Entry, Event, Page


def put(key: str, revision: int, value: bytes = b"", created: int = 0) -> Event:
    return Event("r/" + key, Entry(value, created or revision, revision), revision)


def gone(key: str, revision: int) -> Event:
    return Event("r/" + key, None, revision)


def page(revision: int, *events: Event, more: bool = False) -> Page:
    return Page(tuple((e.key, e.entry) for e in events if e.entry is not None), revision, more)


def listed(table: RemoteTable, revision: int, *events: Event, keep_old: bool = False) -> Listing:
    """One whole listing of one page, believed."""
    listing = Listing(table)
    assert listing.add("", page(revision, *events)) is None
    listing.finish(listing.missing(keep_old), ())
    return listing


def shown(table: RemoteTable) -> dict[str, int]:
    return {name: table.get(name).mod_revision for name in table.names()}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([put("a", 1), put("a", 2)], {"a": 2}),
        ([put("a", 2), put("a", 1)], {"a": 2}),
        ([put("a", 1), gone("a", 2)], {}),
        ([gone("a", 2), put("a", 1)], {}),
        ([put("a", 1), gone("a", 2), put("a", 1)], {}),
        ([put("a", 3), gone("a", 2)], {"a": 3}),
        ([gone("a", 2), put("a", 3)], {"a": 3}),
        ([put("a", 1), gone("a", 2), put("a", 3), gone("a", 2)], {"a": 3}),
        ([gone("a", 4), put("b", 3)], {"b": 3}),  # one key's deletion says nothing of another
    ],
)
def test_the_newest_wins_in_any_order(events: list[Event], expected: dict[str, int]) -> None:
    together, apart = RemoteTable("r/"), RemoteTable("r/")
    together.apply(events)
    for event in events:
        apart.apply([event])
    assert shown(together) == shown(apart) == expected


@pytest.mark.parametrize("by", ["watch", "listing"])
def test_who_did_not_hear_that_a_key_went_and_came_again_is_told_both(by: str) -> None:
    table = RemoteTable("r/")
    table.apply([put("a", 1), put("b", 2)])
    told: list[Event] = []
    table.subscribe(told.extend)
    again, same = put("a", 6, created=5), put("b", 7, created=2)
    if by == "watch":
        assert table.apply([again, same]) == 2
    else:
        assert listed(table, 8, again, same).healed == 2
    assert [(event.key, event.entry is not None) for event in told] == [
        ("r/a", False),
        ("r/a", True),
        ("r/b", True),
    ]


def test_after_a_restore_what_was_created_at_another_time_is_no_other_key() -> None:
    table = RemoteTable("r/")
    table.apply([put("a", 5)])
    table.begin_history()
    told: list[Event] = []
    table.subscribe(told.extend)
    table.apply([put("a", 3)])
    assert told == [put("a", 3)]


def test_only_changes_are_told() -> None:
    table = RemoteTable("r/")
    told: list[Event] = []
    stop = table.subscribe(told.extend)
    assert table.apply([put("a", 1), put("a", 1), gone("b", 2), gone("a", 3), gone("a", 3)]) == 2
    assert told == [put("a", 1), gone("a", 3)]
    stop()
    table.apply([put("a", 4)])
    assert len(told) == 2


def test_a_listener_that_fails_harms_nobody() -> None:
    table = RemoteTable("r/")
    told: list[Event] = []

    def fail(events: list[Event]) -> None:
        raise ValueError(events)

    table.subscribe(fail)
    table.subscribe(told.extend)
    table.apply([put("a", 1)])
    assert told == [put("a", 1)]


def test_tombstones_are_bounded_and_then_a_listing_is_asked_for() -> None:
    table = RemoteTable("r/", tombstones=2)
    table.apply([gone("a", 10), gone("b", 20), gone("c", 30)])
    assert len(table._gone) == 2
    table.apply([put("a", 9)])
    assert shown(table) == {}
    assert table.doubtful  # that could have been a good one
    listed(table, 40)
    assert not table.doubtful
    assert table._gone == {}
    table.apply([put("a", 35)])  # deleted by 40, or the listing would have had it
    assert shown(table) == {}
    assert not table.doubtful
    table.apply([put("a", 41)])
    assert shown(table) == {"a": 41}


def test_a_guessed_creation_is_mended_and_no_change() -> None:
    table = RemoteTable("r/")
    table.apply([put("a", 5, b"x")])
    assert table.apply([put("a", 5, b"x", created=2)]) == 0
    assert table.get("a") == Entry(b"x", 2, 5)


def test_a_listing_brings_exactly_the_differences() -> None:
    table = RemoteTable("r/")
    told: list[Event] = []
    table.apply([put("a", 1), put("b", 2), put("c", 3)])
    table.subscribe(told.extend)
    listing = listed(table, 9, put("a", 1), put("c", 7, created=3), put("d", 8))
    assert told == [put("c", 7, created=3), put("d", 8), gone("b", 9)]
    assert listing.healed == 3
    assert table.revision == 9


def test_pages_speak_for_their_keys_and_their_revision_only() -> None:
    table = RemoteTable("r/")
    table.apply([put("b", 1), put("d", 2), put("f", 3)])
    listing = Listing(table)
    assert listing.add("", page(10, put("a", 4), put("b", 1), more=True)) == "r/b"
    table.apply([put("a1", 11), gone("b", 12), put("e", 13)])  # meanwhile, by the watch
    assert listing.add("r/b", page(12, put("d", 2))) is None
    assert listing.missing(False) == {"r/f": 12}  # e is newer than the page
    listing.finish(listing.missing(False), ())
    assert shown(table) == {"a": 4, "a1": 11, "d": 2, "e": 13}
    table.apply([put("f", 11)])  # between the first page and its own, which did not have it
    assert "f" not in shown(table)
    table.apply([put("g", 11)])  # the watch goes on from the first page
    assert "g" in shown(table)


def test_a_page_older_than_a_deletion_brings_nothing_back() -> None:
    table = RemoteTable("r/", tombstones=1)
    table.apply([put("a", 1), put("b", 2)])
    listing = Listing(table)
    table.apply([gone("a", 5)])
    listing.add("", page(4, put("a", 1), put("b", 2)))
    assert shown(table) == {"b": 2}
    listing = Listing(table)
    table.apply([gone("z", 6)])  # now the tombstone of a is gone too
    listing.add("", page(4, put("a", 1), put("b", 2)))
    assert shown(table) == {"b": 2}
    assert table.doubtful


@pytest.mark.parametrize(
    "contradiction",
    [
        page(9, put("a", 2), put("b", 2)),  # b was seen as of 3
        page(9, put("a", 1), put("b", 3), put("c", 4)),  # c was deleted in 5
        page(9, put("a", 1, b"other"), put("b", 3)),
        page(3, put("a", 1)),  # b, put in 3, is not there as of 3
    ],
)
def test_what_one_history_cannot_hold_is_a_restore(contradiction: Page) -> None:
    table = RemoteTable("r/")
    table.apply([put("a", 1), put("b", 3), put("c", 4), gone("c", 5)])
    with pytest.raises(Restored):
        Listing(table).add("", contradiction)


def test_after_a_restore_the_store_wins_and_what_it_lacks_is_kept() -> None:
    table = RemoteTable("r/")
    table.apply([put("a", 50, b"new"), put("b", 60), put("c", 70), put("d", 80)])
    told: list[Event] = []
    table.subscribe(told.extend)
    table.begin_history()
    listed(table, 9, put("a", 5, b"old"), put("e", 6), keep_old=True)
    assert told == [put("a", 5, b"old"), put("e", 6)]
    assert shown(table) == {"a": 5, "b": 60, "c": 70, "d": 80, "e": 6}
    assert sorted(key for key, _ in table.old_items()) == ["r/b", "r/c", "r/d"]
    table.absent("r/b", 10)  # to lack it is no word against it
    table.apply([put("b", 11), gone("c", 12)])  # these are
    assert shown(table) == {"a": 5, "b": 11, "d": 80, "e": 6}
    assert table.old == 1
    table.drop_old()
    assert shown(table) == {"a": 5, "b": 11, "e": 6}
    assert not table.old


def test_absent_is_as_of_a_revision() -> None:
    table = RemoteTable("r/")
    table.apply([put("a", 5)])
    table.absent("r/a", 4)
    assert shown(table) == {"a": 5}
    told: list[Event] = []
    table.subscribe(told.extend)
    table.absent("r/a", 5)
    assert told == [gone("a", 6)]


def test_names_go_on_while_keys_come_and_go() -> None:
    table = RemoteTable("r/")
    table.apply([put(f"{i:04}", i + 1) for i in range(1000)])
    seen = []
    for name in table.names("0", after="0009"):
        seen.append(name)
        table.apply([gone(name, 5000 + len(seen))])
    assert seen == [f"{i:04}" for i in range(10, 1000)]
    assert len(table) == 10


def test_a_new_entry_holds_one_int() -> None:
    revision, same = int("123456789"), int("123456789")
    entry = packed(Entry(b"", revision, same))
    assert entry.create_revision is entry.mod_revision
    assert sys.getsizeof(entry) <= 80
    shared = Entry(b"", revision, revision)
    assert packed(shared) is shared


@pytest.mark.parametrize(
    ("had", "missing", "expected"),
    [
        (0, 0, False),
        (1, 1, True),
        (3, 3, True),
        (3, 2, False),
        (4, 2, False),
        (4, 3, True),
        (100, 50, False),
        (100, 51, True),
    ],
)
def test_what_is_sudden(had: int, missing: int, expected: bool) -> None:
    assert is_sudden(had, missing, 4) == expected
