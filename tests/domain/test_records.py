"""Records keep ModelMesh's field names and what they do not know."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.domain.records import ModelRecord


def test_the_field_names_are_modelmeshs() -> None:
    record = ModelRecord("rt:sklearn", "/models/a", '{"bucket":"b"}', 2, True, 123)
    assert json.loads(record.to_json()) == {
        "type": "rt:sklearn",
        "mPath": "/models/a",
        "encKey": '{"bucket":"b"}',
        "refs": 2,
        "autoDel": True,
        "lu": 123,
    }


def test_defaults_are_left_out() -> None:
    assert ModelRecord("dummy").to_json() == b'{"type":"dummy"}'


def test_a_record_of_modelmesh_reads_back_with_what_we_do_not_know() -> None:
    value = b'{"type":"t","mPath":null,"instanceIds":{"i":5},"actionable":true}'
    record = ModelRecord.from_json(value)
    assert (record.path, record.unknown) == ("", {"actionable": True})
    assert record.instance_ids == {"i": 5}
    assert json.loads(record.to_json()) == {
        "type": "t",
        "instanceIds": {"i": 5},
        "actionable": True,
    }


@given(st.text(min_size=1), st.text(), st.text(), st.integers(0, 5), st.integers(0, 2**53))
def test_round_trip(kind: str, path: str, key: str, refs: int, used: int) -> None:
    record = ModelRecord(kind, path, key, refs, last_used_ms=used)
    assert ModelRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize("value", [b"[]", b"1", b"{", b"", b'"x"'])
def test_what_is_no_record_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|Expecting"):
        ModelRecord.from_json(value)


def test_a_copy_is_claimed_loaded_and_goes() -> None:
    record = ModelRecord("dummy").claimed("a", 5)
    assert (record.instance_ids, record.loaded_in) == ({"a": 5}, {})
    record = record.loaded("a", 9)
    assert (record.instance_ids, record.loaded_in) == ({"a": 5}, {"a": 9})
    assert record.claimed("a", 12).loaded_in == {}, "a new claim is not loaded yet"
    assert record.without_copy("a") == ModelRecord("dummy")
    assert record.without_copy("b") is record


def test_what_was_unloaded_is_kept_out_until_somebody_asks_for_it() -> None:
    record = ModelRecord("dummy", kept_out=True)
    assert json.loads(record.to_json()) == {"type": "dummy", "keptOut": True}
    assert ModelRecord.from_json(record.to_json()) == record
    assert not record.claimed("a", 5).kept_out
    assert not record.loaded("a", 5).kept_out, "an unclaimed load"
    late = replace(ModelRecord("dummy").claimed("a", 5), kept_out=True)
    assert late.loaded("a", 6).kept_out, "a load that was claimed before"


def test_a_failure_is_written_as_modelmesh_does_and_forgotten_by_a_load() -> None:
    record = ModelRecord("dummy").claimed("a", 5).failed("a", 7, "no such file")
    assert json.loads(record.to_json()) == {
        "type": "dummy",
        "failedIn": {"a": 7},
        "fails": {"a": {"msg": "no such file"}},
    }
    assert record.failure_message("a") == "no such file"
    assert record.without_failure("a") == ModelRecord("dummy")
    assert record.claimed("a", 8).loaded("a", 9).failed_in == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "dummy", "mPath": "/ä/\u2028", "later": [1.5, None, {"x": True}]},
        {"type": "dummy", "refs": 1 << 80, "later": -(1 << 90)},
        {"type": "dummy", "instanceIds": {"a": 1}, "fails": {"a": {"msg": "ö\ud800"}}},
        {"type": 7, "mPath": [1], "autoDel": "yes", "priority": 0.5},  # by whoever wrote it
    ],
)
def test_a_record_is_written_as_json_dumps_writes_it(fields: dict[str, Any]) -> None:
    value = json.dumps(fields, separators=(",", ":")).encode()
    written = ModelRecord.from_json(value).to_json()
    assert json.loads(written) == fields
    assert sorted(written) == sorted(value)  # the order of fields is ours, their bytes are not


def test_what_is_no_number_in_json_stays_as_it_came() -> None:
    value = b'{"type":"dummy","later":NaN}'
    assert sorted(ModelRecord.from_json(value).to_json()) == sorted(value)
