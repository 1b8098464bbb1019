"""Drafts over a keyspace: what they see, and what is kept of leases."""

from modelmesh.registry.keyspace import Draft, Keyspace
from modelmesh.registry.store import Compare, Delete, Put


def test_a_draft_is_invisible_until_it_is_applied() -> None:
    space = Keyspace()
    draft = Draft(space)
    assert draft.commit([Compare("a", 0)], [Put("a", b"1")]).succeeded
    assert draft.changed
    assert draft.get("a") is not None
    assert space.get("a") is None
    assert space.revision == 0
    space.apply(draft)
    assert space.get("a") == draft.get("a")
    assert [event.key for event in space.events("", 0)] == ["a"]


def test_a_lease_that_ends_in_the_draft_that_uses_it() -> None:
    """Keys of one transaction: those of the lease go, whenever they came; others stay."""
    space = Keyspace()
    first = Draft(space)
    mine, other = first.grant(10), first.grant(10)
    first.commit([], [Put("before", b"", mine)])
    space.apply(first)
    second = Draft(space)
    second.commit([], [Put("mine", b"", mine), Put("other", b"", other), Put("free", b"")])
    second.end_lease(mine)
    space.apply(second)
    assert [*space.keys("")] == ["free", "other"]
    assert [(e.key, e.revision) for e in space.events("", 2)] == [("before", 3), ("mine", 3)]
    assert [*space.leases] == [other]


def test_a_lease_forgets_keys_that_left_it() -> None:
    space = Keyspace()
    draft = Draft(space)
    lease = draft.grant(10)
    draft.commit([], [Put("a", b"", lease), Put("b", b"", lease), Put("c", b"", lease)])
    space.apply(draft)
    draft = Draft(space)
    draft.commit([], [Delete("a"), Put("b", b"")])
    space.apply(draft)
    assert [*space.keys_of_lease(lease)] == ["c"]
