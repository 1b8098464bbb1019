"""A file of registrations."""

import json

import pytest

from modelmesh.cli import registrations
from modelmesh.cli.exits import BadUsage


def test_a_line_is_a_registration_and_a_key_may_be_an_object() -> None:
    text = '{"model_id":"a","type":"sklearn","path":"/p"}\n\n{"model_id":"b","key":{"x":"\u2028"}}'
    first, second = registrations.read(text)
    assert (first.model_id, first.type, first.path, first.key) == ("a", "sklearn", "/p", "")
    assert (second.model_id, json.loads(second.key)) == ("b", {"x": "\u2028"})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: Expecting property name"),
        ("[]", "line 2: not a JSON object"),
        ('{"id":"a"}', "line 2: 'id' is none of model_id, type, path, key"),
        ('{"model_id":7}', "line 2: model_id must be a string"),
        ('{"key":[1]}', "line 2: key must be a string"),
        ('{"model_id":"\\ud800"}', "line 2: "),
        ("[" * 100_000, "line 2"),
    ],
)
def test_the_first_bad_line_is_named(line: str, said: str) -> None:
    with pytest.raises(BadUsage, match="line 2") as refusal:
        registrations.read(f'{{"model_id":"good"}}\n{line}\n{{')
    assert str(refusal.value).startswith(said)


def test_batches_are_bounded_in_number_and_bytes_and_lose_nothing() -> None:
    many = [registrations.Item(model_id=str(n), type="t") for n in range(2_500)]
    assert [len(batch) for batch in registrations.batches(many)] == [1_000, 1_000, 500]
    large = [registrations.Item(model_id=str(n), key="k" * (3 << 20)) for n in range(3)]
    assert [len(batch) for batch in registrations.batches(large)] == [1, 1, 1]
    sent = [item for batch in registrations.batches(many + large) for item in batch]
    assert sent == many + large
    assert list(registrations.batches([])) == []
