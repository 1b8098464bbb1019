"""Which claim binds: a table."""

import pytest

from modelmesh.domain.records import ModelRecord
from modelmesh.policy.claiming import Claiming, Contender, contender

NOW, BOUND = 100_000, 60_000
CLAIMING = Claiming("me", NOW, lambda instance_id: instance_id != "dead", BOUND)


@pytest.mark.parametrize(
    ("coming", "loaded", "further", "expected"),
    [
        ({}, {}, False, None),
        ({"me": NOW}, {}, False, None),
        ({"b": NOW}, {}, False, Contender("b", loaded=False)),
        ({"b": NOW - BOUND}, {}, False, None),
        ({"dead": NOW}, {}, False, None),
        ({"dead": NOW}, {"dead": NOW}, False, None),
        ({"b": 5}, {"b": 6}, False, Contender("b", loaded=True)),
        ({"b": NOW, "c": NOW - 1}, {}, False, Contender("c", loaded=False)),
        ({"b": NOW, "c": NOW - 1}, {"b": NOW}, False, Contender("b", loaded=True)),
        ({"b": 5}, {"b": 6}, True, None),
        ({"b": 5, "c": NOW}, {"b": 6}, True, Contender("c", loaded=False)),
    ],
    ids=[
        "nobody has it", "our own old claim", "one is coming", "it came too long ago",
        "to one that is gone", "one that is gone has it", "another has it",
        "the older claim comes first", "a loaded copy beats a claim", "a further copy is free",
        "a further copy waits for the one that comes",
    ],
)  # fmt: skip
def test_whose_claim_binds(
    coming: dict[str, int], loaded: dict[str, int], further: bool, expected: Contender | None
) -> None:
    record = ModelRecord("dummy", instance_ids=coming, loaded_in=loaded)
    assert contender(record, CLAIMING, further=further) == expected
