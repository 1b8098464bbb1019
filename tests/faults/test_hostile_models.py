"""Models that attack their host, in a real daemon, with ten innocent ones in the same host.

Each case asserts in this order: the deed was done in the very process that the ten lived in; it bit
(that process is gone, or hung, or has a child that it should not have); whoever asked was told the
truth; and the ten, asked 200 times a second all the while, did not have one failed or wrong answer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.app.client import until
from tests.app.daemon import Child, child
from tests.faults.neighbours import ALL, Neighbours
from tests.faults.suspects import File

TIMEOUT_S = 6.0
CAPACITY_BYTES = 64 << 20


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    settings = {
        "MM_SHARED_HOSTS": "1",
        "SHUTDOWN_TIMEOUT_MS": "2000",
        "MM_CAPACITY_BYTES": str(CAPACITY_BYTES),
        "MM_SET_ASIDE_MS": "1000",  # more than a busy machine ever keeps an innocent waiting
        "MM_LOAD_TIMEOUT_SECS": str(TIMEOUT_S),
        "MM_PREDICT_TIMEOUT_SECS": str(TIMEOUT_S),
    }
    with child(tmp_path_factory.mktemp("registry"), **settings) as daemon:
        yield daemon
        assert daemon.process.status is None, "the daemon itself died"


@pytest.fixture(scope="module")
def neighbours(daemon: Child, tmp_path_factory: pytest.TempPathFactory) -> Neighbours:
    return Neighbours(daemon, tmp_path_factory.mktemp("neighbours"))


def ends(pid: int) -> None:
    """Wait until the process is gone (whoever has to bury it may take a while)."""
    until(lambda: state_of(pid) in "XZ")


def state_of(pid: int) -> str:
    """The kernel's letter; X: there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def children(pid: int) -> list[int]:
    """The processes right below this one."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(each) for task in tasks for each in (task / "children").read_text().split()]


# --- what ends the host at once


@dataclass(frozen=True)
class Crime:
    """A deed that costs a host, and how its victim is described."""

    deed: str
    how: str

    def __str__(self) -> str:
        return self.deed


CRIMES = [
    Crime("exit_quietly", "exit status 3"),
    Crime("segfault", "signal 11"),
    Crime("abort", "signal 6"),
    Crime("kill_itself", "signal 9"),
    Crime("kill_parent", "killed together with its keeper"),
    Crime("flee", "killed together with its keeper"),
    Crime("close_descriptors", "signal 9"),
    Crime("close_everything", "signal 9"),
]


@pytest.mark.parametrize("crime", CRIMES, ids=str)
def test_a_load_that_ends_its_host(
    crime: Crime, daemon: Child, neighbours: Neighbours, tmp_path: Path
) -> None:
    file = File.write(tmp_path / "m.pkl", at_load=crime.deed)
    model_id = f"load-{crime}"
    daemon.register(model_id, "sklearn", str(file.path))
    with neighbours.busy():
        home = neighbours.home()
        assert daemon.load(model_id) == "LOADING_FAILED"
        assert file.acted_in == [home]
        ends(home)
        if "keeper" in crime.how:
            ends(file.parents[0])
    assert neighbours.home() != home
    neighbours.assert_unharmed()
    said = f"crashed its host while loading ({crime.how})"
    assert list(daemon.status(model_id).errors) == [said]
    assert daemon.models()[model_id].reason == said


@pytest.mark.parametrize("crime", CRIMES, ids=str)
def test_a_predict_that_ends_its_host(
    crime: Crime, daemon: Child, neighbours: Neighbours, tmp_path: Path
) -> None:
    file = File.write(tmp_path / "m.pkl", at_predict=crime.deed)
    model_id = f"predict-{crime}"
    daemon.register(model_id, "sklearn", str(file.path))
    assert daemon.load(model_id) == "LOADED"
    with neighbours.busy():
        home = neighbours.home()
        refused = daemon.refused(model_id)
        assert file.acted_in == [home], "once, and never repeated"
        ends(home)
        if "keeper" in crime.how:
            ends(file.parents[0])
    said = f"the model crashed its host ({crime.how})"
    assert (refused.code, refused.reason, refused.message) == ("INTERNAL", "WORKER_CRASHED", said)
    assert refused.retry_s is None
    assert neighbours.home() != home
    neighbours.assert_unharmed()
    assert daemon.state(model_id) == "NOT_LOADED"
    assert list(daemon.status(model_id).errors) == [said]


# --- what holds the host


@pytest.mark.parametrize("deed", ["hang", "spin"])
def test_a_load_that_never_ends(
    deed: str, daemon: Child, neighbours: Neighbours, tmp_path: Path
) -> None:
    file = File.write(tmp_path / "m.pkl", at_load=deed)
    model_id = f"load-{deed}"
    daemon.register(model_id, "sklearn", str(file.path))
    with neighbours.busy():
        home = neighbours.home()
        refused = daemon.refused(model_id)
        assert file.acted_in == [home]
        ends(home)
    assert (refused.code, refused.reason) == ("DEADLINE_EXCEEDED", "LOAD_TIMEOUT")
    assert neighbours.home() != home
    neighbours.assert_unharmed()
    (said,) = daemon.status(model_id).errors
    assert (
        said
        == refused.message
        == f"the model did not load within {TIMEOUT_S:g} s, so its host was ended"
    )


@pytest.mark.parametrize("deed", ["hang", "spin"])
def test_a_predict_that_never_ends(
    deed: str, daemon: Child, neighbours: Neighbours, tmp_path: Path
) -> None:
    file = File.write(tmp_path / "m.pkl", at_predict=deed)
    model_id = f"predict-{deed}"
    daemon.register(model_id, "sklearn", str(file.path))
    assert daemon.load(model_id) == "LOADED"
    with neighbours.busy():
        home = neighbours.home()
        refused = daemon.refused(model_id)
        assert file.acted_in == [home]
        ends(home)
    said = f"the model did not answer within {TIMEOUT_S:g} s, so its host was ended"
    assert (refused.code, refused.reason, refused.message) == (
        "DEADLINE_EXCEEDED",
        "PREDICT_TIMEOUT",
        said,
    )
    assert neighbours.home() != home
    neighbours.assert_unharmed()
    assert list(daemon.status(model_id).errors) == [said]


# --- what leaves something behind


def test_a_load_that_forks_and_returns_keeps_the_host_to_itself(
    daemon: Child, neighbours: Neighbours, tmp_path: Path
) -> None:
    file = File.write(tmp_path / "m.pkl", at_load="leave_children")
    daemon.register("load-forks", "sklearn", str(file.path))
    with neighbours.busy():
        home = neighbours.home()
        assert daemon.load("load-forks") == "LOADED"
        assert file.acted_in == [home]
        (left,) = children(home)
        assert daemon.infer("load-forks")["output-0"] == home
        assert neighbours.home() != home
    neighbours.assert_unharmed()
    row = daemon.models()["load-forks"]
    assert (row.tier, row.reason) == ("process", "left a child behind")
    daemon.unload("load-forks")
    ends(home)
    ends(left)


def test_a_load_whose_copy_returns_too(
    daemon: Child, neighbours: Neighbours, tmp_path: Path
) -> None:
    """A bare fork: the copy comes back out of the load and would serve, had it still a link."""
    file = File.write(tmp_path / "m.pkl", at_load="fork_and_return")
    daemon.register("load-copies", "sklearn", str(file.path))
    with neighbours.busy():
        home = neighbours.home()
        assert daemon.load("load-copies") == "LOADED"
        assert file.acted_in == [home]
        assert daemon.infer("load-copies")["output-0"] == home
        until(lambda: neighbours.home() != home)
    neighbours.assert_unharmed()
    daemon.unload("load-copies")
    ends(home)


def test_a_predict_that_forks_and_returns(
    daemon: Child, neighbours: Neighbours, tmp_path: Path
) -> None:
    file = File.write(tmp_path / "m.pkl", at_predict="leave_children")
    daemon.register("predict-forks", "sklearn", str(file.path))
    assert daemon.load("predict-forks") == "LOADED"
    with neighbours.busy():
        home = neighbours.home()
        assert daemon.infer("predict-forks")["output-0"] == home
        assert file.acted_in == [home]
        assert children(home)
    neighbours.assert_unharmed()


@pytest.mark.parametrize("moment", ["load", "predict"])
def test_a_thread_that_crashes_late(
    moment: str, daemon: Child, neighbours: Neighbours, tmp_path: Path
) -> None:
    deed = {f"at_{moment}": "crash_later"}
    file = File.write(tmp_path / "m.pkl", **deed)
    model_id = f"{moment}-late"
    daemon.register(model_id, "sklearn", str(file.path))
    with neighbours.busy():
        home = neighbours.home()
        assert daemon.infer(model_id)["output-0"] == home
        assert file.acted_in == [home]
        ends(home)
        until(lambda: daemon.state(model_id) == "NOT_LOADED")
    assert neighbours.home() != home
    neighbours.assert_unharmed()
    (said,) = daemon.status(model_id).errors
    assert "signal 11" in said


# --- what is survived by the host itself


@dataclass(frozen=True)
class Misuse:
    """A deed that its host survives, and what is said of it."""

    deed: str
    said: str
    load_reason: str = "LOAD_FAILED"
    attempts: int = 1  # at a load

    def __str__(self) -> str:
        return self.deed


MISUSES = [
    Misuse("exit_in_python", "SystemExit : 3"),
    Misuse("allocate", "MemoryError : ", "TOO_LARGE", 2),
    Misuse("fill_memory", "MemoryError : Unable to allocate 32.0 MiB", "TOO_LARGE", 2),
    Misuse("raise_unprintable", "Unprintable : an exception that cannot be printed"),
]


@pytest.mark.parametrize("misuse", MISUSES, ids=str)
def test_a_load_that_fails_where_it_is(
    misuse: Misuse, daemon: Child, neighbours: Neighbours, tmp_path: Path
) -> None:
    file = File.write(tmp_path / "m.pkl", at_load=misuse.deed)
    model_id = f"load-{misuse}"
    daemon.register(model_id, "sklearn", str(file.path))
    with neighbours.busy():
        home = neighbours.home()
        refused = daemon.refused(model_id)
    assert file.acted_in[0] == home
    assert len(set(file.acted_in)) == misuse.attempts, "out of memory: once more, with all of it"
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", misuse.load_reason)
    assert refused.message.startswith(misuse.said)
    if misuse.attempts == 1:
        assert neighbours.home() == home, "a load that raises costs no host"
    neighbours.assert_unharmed()
    assert list(daemon.status(model_id).errors) == [refused.message]


@pytest.mark.parametrize("misuse", MISUSES, ids=str)
def test_a_predict_that_fails_where_it_is(
    misuse: Misuse, daemon: Child, neighbours: Neighbours, tmp_path: Path
) -> None:
    file = File.write(tmp_path / "m.pkl", at_predict=misuse.deed)
    model_id = f"predict-{misuse}"
    daemon.register(model_id, "sklearn", str(file.path))
    assert daemon.load(model_id) == "LOADED"
    with neighbours.busy():
        home = neighbours.home()
        refused = daemon.refused(model_id)
        assert file.acted_in == [home]
    assert (refused.code, refused.reason) == ("INTERNAL", "MODEL_ERROR")
    assert refused.message.startswith(misuse.said)
    assert neighbours.home() == home
    neighbours.assert_unharmed()
    assert daemon.state(model_id) == "LOADED"


@pytest.mark.parametrize("moment", ["load", "predict"])
def test_what_prints_much(
    moment: str, daemon: Child, neighbours: Neighbours, tmp_path: Path
) -> None:
    """A gigabyte: nobody waits for it to be logged, and the log stays readable."""
    file = File.write(tmp_path / "m.pkl", **{f"at_{moment}": "print_gigabyte"})
    model_id = f"{moment}-prints"
    daemon.register(model_id, "sklearn", str(file.path))
    dropped, logged = dropped_bytes(daemon), sum(map(len, daemon.process.lines))
    with neighbours.busy():
        home = neighbours.home()
        assert daemon.infer(model_id)["output-0"] == home
        assert file.acted_in == [home]
        until(lambda: dropped_bytes(daemon) > dropped)
    assert sum(map(len, daemon.process.lines)) - logged < 1 << 20
    neighbours.assert_unharmed()
    daemon.unregister(model_id)


def dropped_bytes(daemon: Child) -> int:
    """What the daemon says it did not keep of what models print."""
    told = daemon.process.events("a model prints too much")
    return sum(line["dropped_bytes"] for line in told)


# --- and again, and again


def test_a_model_that_crashes_again_and_again_ends_in_quarantine(
    daemon: Child, neighbours: Neighbours, tmp_path: Path
) -> None:
    file = File.write(tmp_path / "m.pkl", at_load="segfault")
    daemon.register("recidivist", "sklearn", str(file.path))
    with neighbours.busy():
        first = neighbours.home()
        assert daemon.load("recidivist") == "LOADING_FAILED"
        ends(first)
        second = neighbours.home()
        for _ in range(2):
            assert daemon.load("recidivist") == "LOADING_FAILED"
        refused = daemon.refused("recidivist")
    assert len(file.acted_in) == 3, "the fourth attempt was not made"
    assert file.acted_in[0] == first
    assert second not in file.acted_in, "later attempts had a host to themselves"
    assert neighbours.home() == second
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "LOAD_FAILED")
    answer = daemon.rest("POST", "/v2/repository/models/recidivist/load")
    assert answer.status == 422
    assert len(file.acted_in) == 3, "not even an operator's attempt"
    (said,) = daemon.status("recidivist").errors
    assert said == answer.document["error"]
    assert "3 hosts lost within 900 s; the last time it crashed its host while loading" in said
    neighbours.assert_unharmed()


def test_a_model_that_crashes_at_every_predict_ends_in_quarantine(
    daemon: Child, neighbours: Neighbours, tmp_path: Path
) -> None:
    file = File.write(tmp_path / "m.pkl", at_predict="segfault")
    daemon.register("poison", "sklearn", str(file.path))
    with neighbours.busy():
        refusals = [daemon.refused("poison") for _ in range(4)]
    codes = [(refused.code, refused.reason) for refused in refusals]
    crashed = ("INTERNAL", "WORKER_CRASHED")
    assert codes == [crashed, crashed, crashed, ("FAILED_PRECONDITION", "QUARANTINED")]
    assert len(set(file.acted_in)) == 3, "each time another process"
    assert daemon.state("poison") == "LOADING_FAILED"
    assert daemon.status("poison").errors[0].startswith("quarantined for ")
    neighbours.assert_unharmed()


# --- and at the end of it all


def test_nobody_escapes(daemon: Child) -> None:
    """Whatever the tests above have left behind: each host has its keeper, and no host has a child.

    A copy of a host that got away would bear a host's name, and have another parent.
    """
    for model_id in daemon.loaded() - set(ALL):
        daemon.unload(model_id)
    until(lambda: strays(daemon.process.family()) == [])


def strays(family: dict[int, str]) -> list[int]:
    """Hosts that are not the child of a keeper."""
    return [
        pid
        for pid, name in family.items()
        if name.startswith("mm-host") and not family.get(parent(pid), "").startswith("mm-keeper")
    ]


def parent(pid: int) -> int:
    """0: the process is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
