"""Instances, vmodels, and who is first when nobody can be asked."""

import json
from collections import Counter

from modelmesh.domain.fleet import rendezvous
from modelmesh.domain.instances import InstanceRecord, units_of
from modelmesh.domain.vmodels import VModelRecord


def test_an_instance_record_has_modelmeshs_names_and_units() -> None:
    record = InstanceRecord(5, labels=("a", "b"), capacity_units=units_of(8193), draining=True)
    assert json.loads(record.to_json()) == {
        "startTime": 5,
        "labels": ["a", "b"],
        "cap": 2,
        "shutdown": True,
        "protocol": 1,
    }
    assert (record.capacity_bytes, record.free_bytes) == (16384, 16384)
    assert InstanceRecord.from_json(record.to_json()) == record


def test_an_instance_record_keeps_what_it_does_not_know() -> None:
    record = InstanceRecord.from_json(b'{"startTime":1,"later":{"x":1}}')
    assert json.loads(record.to_json())["later"] == {"x": 1}


def test_a_vmodel_record_has_modelmeshs_names_and_keeps_the_rest() -> None:
    value = b'{"o":"me","amid":"a","tmid":"b","later":1}'
    record = VModelRecord.from_json(value)
    assert (record.owner, record.active_id, record.target_id) == ("me", "a", "b")
    assert record.transitioning
    assert json.loads(record.to_json()) == json.loads(value)


def test_rendezvous_is_the_same_in_any_order_and_spreads_models_evenly() -> None:
    ids = ["a", "b", "c", "d"]
    assert rendezvous("m", ids) == rendezvous("m", ids[::-1])
    first = Counter(rendezvous(f"model-{n}", ids)[0] for n in range(4000))
    assert all(800 < first[each] < 1200 for each in ids)


def test_rendezvous_moves_only_the_models_of_who_leaves() -> None:
    before = {n: rendezvous(f"model-{n}", ["a", "b", "c"])[0] for n in range(300)}
    after = {n: rendezvous(f"model-{n}", ["a", "b"])[0] for n in range(300)}
    assert all(after[n] == where for n, where in before.items() if where != "c")
