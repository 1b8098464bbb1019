"""`modelmesh vmodels` against a real daemon."""

from collections.abc import Iterator

import pytest

from tests.cli.processes import Served, daemon


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with daemon(tmp_path_factory.mktemp("data")) as there:
        yield there


def test_a_name_from_its_first_model_to_its_end(served: Served) -> None:
    first = served.run(
        "vmodels", "set", "v", "m1", "--type", "dummy", "--auto-delete", "--sync", "--json",
        "--owner", "me",
    )  # fmt: skip
    assert first.status == 0
    assert first.document["state"] == "DEFINED"
    assert first.document["active"]["status"] == "LOADED"
    assert first.document.keys() == {
        "vmodel_id", "state", "active_model_id", "target_model_id", "owner", "active", "target",
    }  # fmt: skip
    moved = served.run("vmodels", "set", "v", "m2", "--type", "dummy", "--sync", "--expect", "m1")
    assert moved.status == 0
    assert moved.out.startswith("DEFINED\nactive: m2 LOADED\n")
    assert served.run("models", "status", "m1").out == "NOT_FOUND\n"
    got = served.run("vmodels", "get", "v", "--json")
    assert (got.document["active_model_id"], got.document["owner"]) == ("m2", "me")
    assert served.run("vmodels", "get", "v", "--owner", "you").status == 1
    listed = served.run("vmodels", "list", "--json")
    assert listed.document["vmodels"] == [
        {
            "vmodel_id": "v", "active_model_id": "m2", "target_model_id": "m2", "owner": "me",
            "state": "DEFINED", "reason": "",
        }
    ]  # fmt: skip
    assert "m2" in served.run("vmodels", "list", "--prefix", "v").out
    assert served.run("vmodels", "delete", "v").out == "not defined now\n"
    gone = served.run("vmodels", "get", "v")
    assert (gone.status, gone.out) == (1, "NOT_FOUND\n")
    assert served.run("vmodels", "delete", "v").status == 0


def test_what_does_not_come_about_fails(served: Served) -> None:
    served.run("vmodels", "set", "w", "good", "--type", "dummy", "--sync")
    bad = served.run(
        "vmodels", "set", "w", "bad", "--type", "dummy", "--key", '{"load_error":"no colour"}',
        "--sync",
    )  # fmt: skip
    assert bad.status == 1
    assert bad.out.startswith("TRANSITION_FAILED\nactive: good LOADED\n")
    assert bad.err.startswith("modelmesh: model's fault: good still answers: ")
    assert "no colour" in bad.err
    refused = served.run("vmodels", "set", "w", "good", "--expect", "other")
    assert (refused.status, refused.out) == (1, "")
    assert "FAILED_PRECONDITION" in refused.err
    assert served.run("vmodels", "set", "new", "good", "--update-only").status == 1
    assert served.run("vmodels", "set", "w", "x", "--path", "/p").status == 2
