"""Models that attack their host, in a real daemon, with ten innocent ones in the same host.

Each case asserts in this order: the deed was done in the very process that the ten lived in; it bit
(that process is gone, or hung, or has a child that it should not have); whoever asked was told the
truth; and the ten, asked 200 times a second all the while, did not have one failed or wrong answer
(`house.disturbed` sees to the last, in every case).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.app.client import until
from tests.app.daemon import Child, child
from tests.faults.house import House, children, ends, strays
from tests.faults.neighbours import ALL, Neighbours
from tests.runtime.misdeeds import crash_now

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


@pytest.fixture
def house(daemon: Child, neighbours: Neighbours, tmp_path: Path) -> House:
    return House(daemon, neighbours, tmp_path)


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
def test_a_load_that_ends_its_host(crime: Crime, house: House) -> None:
    villain = house.villain(f"load-{crime}", at_load=crime.deed)
    with house.disturbed(moves=True) as home:
        assert villain.load() == "LOADING_FAILED"
        assert villain.acted_in == [home]
        ends(home)
        if "keeper" in crime.how:
            ends(villain.keeper)
    said = f"crashed its host while loading ({crime.how})"
    assert villain.errors == [said]
    assert villain.row.reason == said


@pytest.mark.parametrize("crime", CRIMES, ids=str)
def test_a_predict_that_ends_its_host(crime: Crime, house: House) -> None:
    villain = house.villain(f"predict-{crime}", at_predict=crime.deed)
    with house.disturbed(moves=True) as home:
        refused = villain.refused()
        assert villain.acted_in == [home], "once, and never repeated"
        ends(home)
        if "keeper" in crime.how:
            ends(villain.keeper)
    said = f"the model crashed its host ({crime.how})"
    assert (refused.code, refused.reason, refused.message) == ("INTERNAL", "WORKER_CRASHED", said)
    assert refused.retry_s is None
    assert villain.state == "NOT_LOADED"
    assert villain.errors == [said]


# --- what holds the host

LATE_LOAD = f"the model did not load within {TIMEOUT_S:g} s, so its host was ended"
LATE_PREDICT = f"the model did not answer within {TIMEOUT_S:g} s, so its host was ended"
HANGS = ["hang", "spin"]
HIDDEN_HANGS = ["hang_unnoted", "hang_under_many_names"]  # the journal says nothing, or nonsense


@pytest.mark.parametrize("deed", HANGS)
def test_a_load_that_never_ends(deed: str, house: House) -> None:
    villain = house.villain(f"load-{deed}", at_load=deed)
    with house.disturbed(moves=True) as home:
        refused = villain.refused()
        assert villain.acted_in == [home]
        ends(home)
    assert refused.why == ("DEADLINE_EXCEEDED", "LOAD_TIMEOUT")
    assert villain.errors == [refused.message] == [LATE_LOAD]


@pytest.mark.parametrize("deed", HANGS)
def test_a_predict_that_never_ends(deed: str, house: House) -> None:
    villain = house.villain(f"predict-{deed}", at_predict=deed)
    with house.disturbed(moves=True) as home:
        refused = villain.refused()
        assert villain.acted_in == [home]
        ends(home)
    assert refused.why == ("DEADLINE_EXCEEDED", "PREDICT_TIMEOUT")
    assert villain.errors == [refused.message] == [LATE_PREDICT]


@pytest.mark.parametrize("deed", HIDDEN_HANGS)
def test_a_load_that_never_ends_and_hides_it(deed: str, house: House) -> None:
    """Nobody can tell who it was; so it is tried again, alone, and then it is certain."""
    villain = house.villain(f"load-{deed}", at_load=deed)
    with house.disturbed(moves=True) as home:
        assert villain.load() == "LOADING_FAILED"
        first, second = villain.acted_in
        assert first == home
        assert second != house.home()
        ends(first)
        ends(second)
        until(house.is_whole)  # those who were suspected with it are back
    assert villain.errors == [LATE_LOAD]


@pytest.mark.parametrize("deed", HIDDEN_HANGS)
def test_a_predict_that_never_ends_and_hides_it(deed: str, house: House) -> None:
    """The call is not made again, but the next one is made alone: then it is certain who it was."""
    villain = house.villain(f"predict-{deed}", at_predict=deed)
    with house.disturbed(moves=True) as home:
        refused = villain.refused()
        assert villain.acted_in == [home], "once, and never repeated"
        ends(home)
        assert refused.why == ("DEADLINE_EXCEEDED", "PREDICT_TIMEOUT")
        assert villain.refused() == refused
        assert len(villain.acted_in) == 2
        assert villain.acted_in[1] != house.home()
        until(house.is_whole)  # those who were suspected with it are back
    assert villain.errors == [refused.message] == [LATE_PREDICT]


# --- what leaves something behind


def test_a_load_that_forks_and_returns_keeps_the_host_to_itself(house: House) -> None:
    villain = house.villain("load-forks", at_load="leave_children")
    with house.disturbed(moves=True) as home:
        assert villain.load() == "LOADED"
        assert villain.acted_in == [home]
        (left,) = children(home)
        assert villain.lives_in() == home
    assert (villain.row.tier, villain.row.reason) == ("process", "left a child behind")
    villain.leave()
    ends(home)
    ends(left)


def test_a_load_whose_copy_returns_too(house: House) -> None:
    """A bare fork: the copy comes back out of the load and would serve, had it still a link."""
    villain = house.villain("load-copies", at_load="fork_and_return")
    with house.disturbed(moves=True) as home:
        assert villain.load() == "LOADED"
        assert villain.acted_in == [home]
        assert villain.lives_in() == home
        until(lambda: house.home() != home)
    villain.leave()
    ends(home)


def test_a_predict_that_forks_and_returns(house: House) -> None:
    villain = house.villain("predict-forks", at_predict="leave_children")
    with house.disturbed() as home:
        assert villain.lives_in() == home
        assert villain.acted_in == [home]
        assert children(home)


@pytest.mark.parametrize("moment", ["load", "predict"])
def test_a_thread_that_crashes_late(moment: str, house: House) -> None:
    villain = house.villain(f"{moment}-late", **{f"at_{moment}": "crash_late"})
    with house.disturbed(moves=True) as home:
        assert villain.lives_in() == home
        while house.home() == home:  # it waits 2 s to be set aside for the thread, then gives up
            assert villain.lives_in() == home
        assert set(villain.acted_in) == {home}
        crash_now(home)
        ends(home)
        until(lambda: villain.state == "NOT_LOADED")
    (said,) = villain.errors
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
def test_a_load_that_fails_where_it_is(misuse: Misuse, house: House) -> None:
    villain = house.villain(f"load-{misuse}", at_load=misuse.deed)
    stays = misuse.attempts == 1  # a load that raises costs no host
    with house.disturbed(moves=False if stays else None) as home:
        refused = villain.refused()
        assert villain.acted_in[0] == home
        assert len(set(villain.acted_in)) == misuse.attempts, "no memory: once more, with all of it"
    assert refused.why == ("FAILED_PRECONDITION", misuse.load_reason)
    assert refused.message.startswith(misuse.said)
    assert villain.errors == [refused.message]


@pytest.mark.parametrize("misuse", MISUSES, ids=str)
def test_a_predict_that_fails_where_it_is(misuse: Misuse, house: House) -> None:
    villain = house.villain(f"predict-{misuse}", at_predict=misuse.deed)
    with house.disturbed(moves=False) as home:
        refused = villain.refused()
        assert villain.acted_in == [home]
    assert refused.why == ("INTERNAL", "MODEL_ERROR")
    assert refused.message.startswith(misuse.said)
    assert villain.state == "LOADED"


@pytest.mark.parametrize("moment", ["load", "predict"])
def test_what_prints_much(moment: str, house: House) -> None:
    """A gigabyte: nobody waits for it to be logged, and the log stays readable."""
    villain = house.villain(f"{moment}-prints", **{f"at_{moment}": "print_gigabyte"})
    daemon = house.daemon
    dropped, logged = dropped_bytes(daemon), sum(map(len, daemon.process.lines))
    with house.disturbed() as home:
        assert villain.lives_in() == home
        assert villain.acted_in == [home]
        until(lambda: dropped_bytes(daemon) > dropped)
    assert sum(map(len, daemon.process.lines)) - logged < 1 << 20
    daemon.unregister(villain.model_id)


def dropped_bytes(daemon: Child) -> int:
    """What the daemon says it did not keep of what models print."""
    told = daemon.process.events("a model prints too much")
    return sum(line["dropped_bytes"] for line in told)


# --- and again, and again


def test_a_model_that_crashes_again_and_again_ends_in_quarantine(house: House) -> None:
    villain = house.villain("recidivist", at_load="segfault")
    with house.disturbed(moves=True) as first:
        assert villain.load() == "LOADING_FAILED"
        ends(first)
        second = house.home()
        for _ in range(2):
            assert villain.load() == "LOADING_FAILED"
        refused = villain.refused()
    assert len(villain.acted_in) == 3, "the fourth attempt was not made"
    assert villain.acted_in[0] == first
    assert second not in villain.acted_in, "later attempts had a host to themselves"
    assert house.home() == second
    assert refused.why == ("FAILED_PRECONDITION", "LOAD_FAILED")
    answer = house.daemon.rest("POST", "/v2/repository/models/recidivist/load")
    assert answer.status == 422
    assert len(villain.acted_in) == 3, "not even an operator's attempt"
    (said,) = villain.errors
    assert said == answer.document["error"]
    assert "3 hosts lost within 900 s; the last time it crashed its host while loading" in said


def test_a_model_that_crashes_at_every_predict_ends_in_quarantine(house: House) -> None:
    villain = house.villain("poison", at_predict="segfault")
    with house.disturbed(moves=True):
        refusals = [villain.refused().why for _ in range(4)]
    crashed = ("INTERNAL", "WORKER_CRASHED")
    assert refusals == [crashed, crashed, crashed, ("FAILED_PRECONDITION", "QUARANTINED")]
    assert len(set(villain.acted_in)) == 3, "each time another process"
    assert villain.state == "LOADING_FAILED"
    assert villain.errors[0].startswith("quarantined for ")


# --- and at the end of it all


def test_nobody_escapes(daemon: Child) -> None:
    """Whatever the tests above have left behind: each host has its keeper, and no host has a child.

    A copy of a host that got away would bear a host's name, and have another parent.
    """
    for model_id in daemon.loaded() - set(ALL):
        daemon.unload(model_id)
    until(lambda: strays(daemon.process.family()) == [])
