"""Type constraints: the format, what is feasible, what is preferred or inferred."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.policy.constraints import NO_CONSTRAINTS, WORST_RANK, parse

TEXT = json.dumps(
    {
        "big": {"required": ["gpu", "a"]},
        "both": {"required": ["gpu"], "preferred": ["fast"]},
        "choosy": {"preferred": ["fast", "near"]},
        "_default": {"required": ["cpu"]},
    }
)
LABELS = st.sets(st.sampled_from(["gpu", "a", "fast", "near", "cpu"])).map(tuple)
TYPES = st.sampled_from(["big", "both", "choosy", "other"])


@pytest.mark.parametrize(
    ("model_type", "labels", "feasible", "preferred"),
    [
        ("big", ("gpu", "a"), True, False),
        ("big", ("gpu",), False, False),
        ("both", ("gpu", "fast"), True, True),  # a requirement that is met hides no preference
        ("both", ("fast",), False, True),
        ("choosy", ("near",), True, True),
        ("choosy", (), True, False),
        ("other", ("cpu",), True, False),  # the default counts for types without an entry
        ("other", ("gpu",), False, False),
    ],
)
def test_what_an_instance_may_hold(
    model_type: str, labels: tuple[str, ...], feasible: bool, preferred: bool
) -> None:
    constraints = parse(TEXT)
    assert constraints.feasible(model_type, labels) is feasible
    assert constraints.preferred(model_type, labels) is preferred


def test_the_missing_labels_are_named_in_order() -> None:
    assert parse(TEXT).missing("big", ("b",)) == ("a", "gpu")
    assert parse(TEXT).missing("big", ("a", "gpu")) == ()


def test_a_type_without_a_preference_keeps_away_from_specialised_instances() -> None:
    constraints = parse('{"big": {"required": ["gpu"]}, "choosy": {"preferred": ["fast"]}}')
    ranks = [constraints.rank("plain", labels) for labels in ((), ("gpu",), ("gpu", "fast"))]
    assert ranks == [0, 1, 2]
    assert constraints.rank("big", ("gpu",)) == 0  # its own requirement is nobody else's need


def test_a_preference_outranks_what_is_inferred() -> None:
    constraints = parse('{"big": {"required": ["gpu"]}, "x": {"preferred": ["gpu"]}}')
    preferred, other = constraints.rank("x", ("gpu",)), constraints.rank("x", ())
    assert preferred is not None
    assert other is not None
    assert preferred < other


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", "object of types"),
        ('{"x": []}', "'x' must be an object"),
        ('{"x": {"require": []}}', "require"),
        ('{"x": {"required": "gpu"}}', "required of 'x'"),
        ('{"x": {"preferred": [1]}}', "preferred of 'x'"),
    ],
)
def test_an_unknown_shape_is_refused_and_named(text: str, says: str) -> None:
    with pytest.raises(ValueError, match="type constraints") as caught:
        parse(text)
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["", " \n", "{}"])
def test_without_constraints_everything_is_feasible(text: str) -> None:
    assert parse(text) == NO_CONSTRAINTS
    assert parse(text).rank("any", ()) == 0


@given(model_type=TYPES, labels=LABELS)
def test_a_rank_says_what_the_other_questions_say(model_type: str, labels: tuple[str, ...]) -> None:
    constraints = parse(TEXT)
    rank = constraints.rank(model_type, labels)
    assert (rank is not None) is constraints.feasible(model_type, labels)
    assert (rank is None) is bool(constraints.missing(model_type, labels))
    assert rank is None or 0 <= rank <= WORST_RANK
    if rank is not None and constraints.preferred(model_type, labels):
        assert rank == 0
