"""`modelmesh simulate`: what it prints, and the status it ends with."""

import pytest

from modelmesh.cli.main import main
from modelmesh.simulation.plants import PLANTS


def test_a_search_prints_outcomes_faults_and_baselines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--seeds", "3", "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    for words in ("3 seeds", "OK ", "this fleet", "with LRU", "naive", "faults that struck"):
        assert words in printed
    assert "no violation" in printed


def test_a_seed_is_replayed_event_by_event(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--seed", "1"]) == 0
    printed = capsys.readouterr().out
    assert " is made" in printed
    assert "digest" in printed


def test_a_plant_that_is_found_is_a_success(capsys: pytest.CaptureFixture[str]) -> None:
    seed = str(PLANTS["forward-twice"].seed)
    found = ["simulate", "--plant", "forward-twice", "--first-seed", seed, "--seeds", "1"]
    assert main([*found, "--jobs", "1"]) == 0
    assert "is found by seed" in capsys.readouterr().out


def test_a_plant_that_is_not_found_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    """A world of three seconds has no time for a second attempt."""
    missed = ["simulate", "--plant", "failure-forgotten", "--seeds", "1", "--minutes", "0.05"]
    assert main([*missed, "--jobs", "1"]) == 1
    assert "was not found" in capsys.readouterr().out


def test_a_violation_is_a_failure_and_says_how_to_replay(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Replayed with the plant, whose violations count as any."""
    seed = str(PLANTS["forward-twice"].seed)
    assert main(["simulate", "--plant", "forward-twice", "--seed", seed]) == 1
    assert "violated: " in capsys.readouterr().out


def test_an_unknown_plant_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--plant", "tulip"]) == 2
    assert "tulip" in capsys.readouterr().err


def test_several_processes_play_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for jobs in ("1", "2"):
        assert main(["simulate", "--seeds", "4", "--jobs", jobs]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
