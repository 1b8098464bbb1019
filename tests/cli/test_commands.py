"""The command line against a real daemon."""

import json
from collections.abc import Iterator
from pathlib import Path

import joblib
import pytest
from sklearn.dummy import DummyRegressor

from tests.cli.processes import Served, daemon

ODD = "ask me/..%"  # a name that only survives a URL when it is quoted
V1 = '{"instances":[[1,2],[3,4]]}'
V2 = '{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP64","data":[1,2]}]}'


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with daemon(tmp_path_factory.mktemp("data")) as there:
        yield there


def test_a_model_from_registration_to_unregistration(served: Served) -> None:
    registered = served.run("models", "register", "one", "--type", "dummy")
    assert (registered.status, registered.out, registered.err) == (0, "NOT_LOADED\n", "")
    assert served.run("models", "register", "one", "--type", "dummy").status == 0

    loaded = served.run("models", "register", "one", "--type", "dummy", "--sync", "--json")
    assert loaded.document["status"] == "LOADED"
    status = served.run("models", "status", "one", "--json")
    assert status.document.keys() == {"model_id", "status", "errors", "copies"}
    assert status.document["copies"][0].keys() == {"location", "status", "time_ms"}

    assert served.run("models", "unload", "one").out == "unloaded\n"
    again = served.run("models", "unload", "one", "--json")
    assert again.document == {"model_id": "one", "was_loaded": False}
    assert served.run("models", "status", "one").out.startswith("NOT_LOADED")

    assert served.run("models", "unregister", "one").out == "not registered now\n"
    gone = served.run("models", "status", "one", "--json")
    assert (gone.status, gone.document["status"]) == (1, "NOT_FOUND")
    assert served.run("models", "unregister", "one").status == 0


def test_other_attributes_are_refused_in_one_line(served: Served) -> None:
    served.run("models", "register", "same", "--type", "dummy")
    other = served.run("models", "register", "same", "--type", "dummy", "--key", '{"load_s":1}')
    assert (other.status, other.out) == (1, "")
    assert other.err == (
        "modelmesh: caller's fault: Model already exists with different attribute values"
        " (ALREADY_EXISTS; a retry will not help)\n"
    )


def test_a_load_that_fails_fails_sync_and_says_whose_fault(served: Served) -> None:
    key = '{"load_error":"no such colour"}'
    failed = served.run("models", "register", "bad", "--type", "dummy", "--key", key, "--sync")
    assert failed.status == 1
    assert failed.out.startswith("LOADING_FAILED\n")
    assert failed.err.startswith("modelmesh: model's fault: registered, but not loaded: ")
    assert "no such colour" in failed.err
    status = served.run("models", "status", "bad", "--json")
    assert (status.status, status.document["status"]) == (0, "LOADING_FAILED")


def test_load_tries_a_repaired_file_at_once(served: Served, tmp_path: Path) -> None:
    """Without it, a model that failed as often as it may waits for the failures to expire."""
    file = tmp_path / "model.joblib"
    file.write_bytes(b"no model")
    served.run("models", "register", "broken", "--type", "sklearn", "--path", str(file))
    for _ in range(3):
        failed = served.run("models", "load", "broken")
        assert (failed.status, failed.out) == (1, "")
        assert failed.err.startswith(
            "modelmesh: model's fault: model file model.joblib is not a readable joblib or pickle"
        )
        assert failed.err.endswith("(FAILED_PRECONDITION LOAD_FAILED; a retry will not help)\n")
        assert failed.err.count("\n") == 1
    for _ in range(3):
        served.run("infer", "broken", "--file", "-", stdin=V1)

    joblib.dump(DummyRegressor().fit([[1, 2]], [3.0]), file)
    assert served.run("infer", "broken", "--file", "-", stdin=V1).status == 1, "remembered"
    assert served.run("models", "load", "broken").out.startswith("LOADED\n")
    done = served.run("infer", "broken", "--file", "-", stdin=V1)
    assert done.document["predictions"] == [3.0, 3.0]

    loaded = served.run("models", "load", "broken", "--json")
    assert (loaded.status, loaded.document["status"]) == (0, "LOADED")
    assert loaded.document.keys() == {"model_id", "status", "errors", "copies"}


def test_load_of_what_is_not_registered_is_refused(served: Served) -> None:
    refused = served.run("models", "load", "nobody")
    assert (refused.status, refused.out) == (1, "")
    assert "NOT_FOUND" in refused.err


def test_many_from_a_file_and_each_refusal_by_name(served: Served, tmp_path: Path) -> None:
    lines = [{"model_id": f"bulk-{n:04}", "type": "dummy"} for n in range(1_200)]
    lines[7]["type"] = "nope"
    file = tmp_path / "models.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    done = served.run("models", "register", "--file", str(file))
    assert done.status == 1
    rows = done.out.splitlines()
    assert rows[0].split() == ["MODEL", "CODE", "ERROR"]
    assert rows[1].split()[:2] == ["bulk-0007", "INVALID_ARGUMENT"]
    assert rows[2:] == ["1199 registered, 1 refused"]

    lines[7]["type"] = "dummy"
    text = "\n".join(json.dumps(line) for line in lines)
    again = served.run("models", "register", "--file", "-", "--json", stdin=text)
    assert (again.status, again.document["registered"], again.document["refused"]) == (0, 1200, 0)
    assert again.document["results"][7] == {"model_id": "bulk-0007", "error": "", "code": ""}
    _listing_by_pages(served)


def _listing_by_pages(served: Served) -> None:
    page = served.run("models", "list", "--prefix", "bulk-", "--page-size", "500")
    assert len(page.out.splitlines()) == 501
    assert page.err.startswith("more: --all, or --page-token ")
    token = page.err.split()[-1]
    rest = ("--page-size", "1000", "--page-token", token, "--json")
    document = served.run("models", "list", "--prefix", "bulk-", *rest).document
    assert [model["model_id"] for model in document["models"]] == [
        f"bulk-{n:04}" for n in range(500, 1200)
    ]
    assert document["next_page_token"] == ""
    everything = served.run("models", "list", "--prefix", "bulk-", "--all", "--json")
    assert len(everything.document["models"]) == 1200


def test_a_file_with_a_bad_line_registers_nothing(served: Served) -> None:
    text = '{"model_id":"half-1","type":"dummy"}\n{"model_id":"half-2","typo":"dummy"}'
    refused = served.run("models", "register", "--file", "-", stdin=text)
    assert (refused.status, refused.out) == (2, "")
    assert "line 2: 'typo' is none of" in refused.err
    assert served.run("models", "list", "--prefix", "half", "--json").document["models"] == []


def test_the_listing_shows_where_a_model_is(served: Served) -> None:
    served.run("models", "register", "模型 🙂", "--type", "dummy", "--sync")
    listing = served.run("models", "list", "--prefix", "模").out.splitlines()
    assert listing[0].split() == ["MODEL", "TYPE", "STATE", "SIZE", "TIER", "USED", "WHY"]
    assert listing[1].startswith("模型 🙂  dummy  LOADED")
    model = served.run("models", "list", "--prefix", "模", "--json").document["models"][0]
    assert model.keys() == {
        *("model_id", "type", "path", "key", "state", "size_bytes", "last_used_ms"),
        *("tier", "reason", "warnings", "in_use", "instances"),
        *("min_copies", "max_copies", "pinned", "priority"),
    }
    assert (model["state"], model["tier"]) == ("LOADED", "shared")


def test_explain_says_what_a_request_would_meet(served: Served) -> None:
    served.run("models", "register", "why", "--type", "dummy", "--sync")
    said = served.run("models", "explain", "why").out.splitlines()
    assert said[0].startswith("LOADED: serve_here")
    assert said[1].startswith("memory: ")
    document = served.run("models", "explain", "why", "--json").document
    assert document.keys() == {
        *("model_id", "state", "decision", "reason", "eviction_order"),
        *("capacity_bytes", "reserved_bytes", "debt_bytes"),
    }
    first = document["eviction_order"][0]
    assert first.keys() == {"model_id", "worth", "size_bytes", "verdict"}
    assert served.run("models", "explain", "nobody").status == 1


@pytest.mark.parametrize("flags", [(), ("--v1",)])
def test_infer_over_v1(served: Served, flags: tuple[str, ...]) -> None:
    served.run("models", "register", ODD, "--type", "dummy")
    done = served.run("infer", ODD, "--file", "-", *flags, stdin=V1)
    assert (done.status, done.err) == (0, "")
    assert done.document["predictions"] == [{"model": ODD, "sum": 10.0}]


@pytest.mark.parametrize("flags", [(), ("--v2",)])
def test_infer_over_v2(served: Served, flags: tuple[str, ...]) -> None:
    served.run("models", "register", ODD, "--type", "dummy")
    done = served.run("infer", ODD, "--file", "-", *flags, stdin=V2)
    assert (done.status, done.err) == (0, "")
    outputs = {output["name"]: output["data"] for output in done.document["outputs"]}
    assert (done.document["model_name"], outputs["sum"]) == (ODD, [3.0])


def test_infer_says_what_went_wrong(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text(V1)
    unknown = served.run("infer", "nobody", "--file", str(file))
    assert (unknown.status, unknown.out) == (1, "")
    assert unknown.err == (
        "modelmesh: caller's fault: Model with name nobody does not exist."
        " (NOT_FOUND; a retry will not help)\n"
    )
    key = '{"predict_error":"out of ink"}'
    served.run("models", "register", "dry", "--type", "dummy", "--key", key)
    failed = served.run("infer", "dry", "--file", str(file), "--json")
    assert failed.status == 1
    assert json.loads(failed.err)["error"] == {
        "fault": "model",
        "message": json.loads(failed.err)["error"]["message"],
        "code": "INTERNAL",
        "reason": "MODEL_ERROR",
        "retry_after_s": None,
    }
    assert "out of ink" in failed.err
