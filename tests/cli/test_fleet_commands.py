"""The commands that are about a fleet, against a daemon alone; and what they print of a fleet."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from modelmesh.cli import showing
from modelmesh.pb import admin_pb2
from tests.cli.processes import Served, _clean_environment, daemon


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with daemon(tmp_path_factory.mktemp("data")) as there:
        yield there


def test_a_policy_is_set_and_shown(served: Served) -> None:
    served.run("models", "register", "m", "--type", "dummy")
    said = served.run("models", "policy", "m", "--pin", "--priority", "-2")
    assert (said.status, said.out) == (0, "m: 0 to any number copies, priority -2, pinned\n")
    said = served.run("models", "policy", "m", "--unpin", "--min-copies", "1", "--max-copies", "3")
    assert said.out == "m: 1 to 3 copies, priority -2\n"
    document = served.run("models", "policy", "m", "--json").document
    assert document == {
        "model_id": "m", "min_copies": 1, "max_copies": 3, "pinned": False, "priority": -2,
    }  # fmt: skip
    row = served.run("models", "list", "--prefix", "m", "--json").document["models"][0]
    assert document.items() <= row.items()


@pytest.mark.parametrize(
    ("flags", "status", "why"),
    [
        (("--min-copies", "2"), 1, "a daemon alone holds one copy"),
        (("--priority", "21"), 1, "priority must be from -20 to 20"),
        (("--max-copies", "-1"), 2, "copies must not be negative"),
        (("--pin", "--unpin"), 2, "not allowed with"),
        (("--priority", "high"), 2, "invalid int value"),
    ],
)
def test_a_policy_that_makes_no_sense(
    served: Served, flags: tuple[str, ...], status: int, why: str
) -> None:
    served.run("models", "register", "m", "--type", "dummy")
    refused = served.run("models", "policy", "m", *flags)
    assert (refused.status, refused.out) == (status, "")
    assert why in refused.err
    assert served.run("models", "policy", "nobody").status == 1


def test_a_daemon_alone_is_one_instance(served: Served) -> None:
    (one,) = served.run("instances", "--json").document["instances"]
    assert one.keys() == {
        *("instance_id", "address", "zone", "location", "labels", "capacity_bytes", "used_bytes"),
        *("models", "loading", "calls_per_minute", "draining", "health"),
    }
    assert (one["health"], one["address"]) == ("here", "")
    assert one["capacity_bytes"] > 0
    assert served.run("instances").out.splitlines()[0].startswith("INSTANCE")


def test_there_is_no_restore_to_accept(served: Served) -> None:
    assert served.run("accept-restore").out == "nothing had been kept\n"
    assert served.run("accept-restore", "--json").document == {"dropped": 0}


def watching(served: Served, *flags: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        (sys.executable, "-m", "modelmesh", "models", "watch", *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**_clean_environment(), "MM_ADDRESS": served.grpc},
    )


def test_a_watch_prints_a_line_for_each_change(served: Served) -> None:
    with watching(served, "--prefix", "w-", "--json", "--events", "2") as watch:
        assert watch.stdout is not None
        assert json.loads(watch.stdout.readline()) == {"event": "WATCHING"}
        served.run("models", "register", "other", "--type", "dummy")
        served.run("models", "register", "w-1", "--type", "dummy")
        created = json.loads(watch.stdout.readline())
        assert (created["event"], created["model"]["model_id"]) == ("CREATED", "w-1")
        served.run("models", "unregister", "w-1")
        gone = json.loads(watch.stdout.readline())
        assert (gone["event"], gone["model"]["model_id"]) == ("GONE", "w-1")
        assert watch.wait(60) == 0


def test_a_watch_ends_on_ctrl_c(served: Served) -> None:
    with watching(served) as watch:
        assert watch.stdout is not None
        assert watch.stdout.readline() == "watching\n"
        watch.send_signal(signal.SIGINT)
        assert watch.wait(60) == 130


# --- what is printed of a fleet


def test_a_listing_of_a_fleet_says_where() -> None:
    rows = [
        admin_pb2.Model(model_id="m", type="t", state="LOADED", instances=["a", "b"]),
        admin_pb2.Model(model_id="n", type="t", state="NOT_LOADED"),
    ]
    text = showing.models_text({"models": [showing.model(row) for row in rows]})
    head, first, second = (line.split() for line in text.splitlines())
    assert head == ["MODEL", "TYPE", "STATE", "WHERE", "SIZE", "TIER", "USED", "WHY"]
    assert first == ["m", "t", "LOADED", "a", "b", "never"]
    assert second == ["n", "t", "NOT_LOADED", "never"]


def test_events_and_instances_as_text() -> None:
    model = admin_pb2.Model(model_id="m\n", state="LOADED", instances=["a", "b"])
    changed = admin_pb2.ModelEvent(kind=admin_pb2.ModelEvent.CHANGED, model=model)
    assert showing.event_text(showing.event(changed)) == r"changed m\n LOADED on a b"
    gone = admin_pb2.ModelEvent(kind=admin_pb2.ModelEvent.GONE, model={"model_id": "m"})
    assert showing.event_text(showing.event(gone)) == "gone m"
    instance = admin_pb2.ListInstancesResponse.Instance(
        instance_id="a", health="suspect", draining=True, address="h:1", zone="z", models=2,
        used_bytes=1024, capacity_bytes=2048, calls_per_minute=7, labels=["x", "y"],
    )  # fmt: skip
    text = showing.instances_text({"instances": [showing.instance(instance)]})
    assert text.splitlines()[1].split() == [
        "a", "suspect,", "leaving", "h:1", "z", "2", "1.0", "KiB", "2.0", "KiB", "7", "x", "y",
    ]  # fmt: skip
