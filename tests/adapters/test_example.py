"""The runtime in docs/RUNTIMES.md is complete, short, and works."""

import json
from pathlib import Path

import numpy as np
import pytest

from modelmesh.errors import Code, Reason
from runtime_adapters import finding
from tests.adapters.hostile import OtherDummy
from tests.adapters.support import Bench, infer, inferred, v1

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "examples" / "polynomial_runtime.py"
NAMED = "examples.polynomial_runtime:PolynomialRuntime"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    runtimes, missing = finding.find(NAMED, {})
    assert missing == {}
    (tmp_path / "square.json").write_text(json.dumps([1, 0, 2]))
    bench = Bench(runtimes.runtime_for("polynomial"))
    assert bench.load("m", "polynomial", tmp_path).failure is None
    return bench


def test_it_answers_over_every_protocol(bench: Bench) -> None:
    text, binary = bench.run(v1("m", [1, 2.5]), infer("m", [[3.0]]))
    assert json.loads(text)["predictions"] == np.polyval([1, 0, 2], [1, 2.5]).tolist()
    assert inferred(binary) == {"y": [11.0]}


def test_its_refusals_are_told_apart(bench: Bench, tmp_path: Path) -> None:
    (refused,) = bench.run(v1("m", ["a"]))
    assert (refused.code, refused.message) == (Code.INVALID_ARGUMENT, "x must be numbers")
    empty = tmp_path / "empty.json"
    empty.write_text("[]")
    failure = bench.load("n", "polynomial", empty).failure
    assert failure is not None
    assert (failure.reason, failure.message) == (
        Reason.LOAD_FAILED,
        "a polynomial needs coefficients",
    )


def test_the_page_shows_it_whole_and_it_is_short() -> None:
    source = SOURCE.read_text()
    assert len(source.splitlines()) < 40
    assert (
        source[source.index("class PolynomialRuntime") :] in (ROOT / "docs/RUNTIMES.md").read_text()
    )


# --- being found


def test_our_own_runtimes_are_found_by_entry_point() -> None:
    runtimes, missing = finding.find("", {})
    assert missing == {}
    assert {"dummy", "sklearn"} <= set(runtimes.types)


def test_a_named_runtime_goes_before_one_that_was_found() -> None:
    runtimes, _ = finding.find("tests.adapters.hostile:OtherDummy", {"who": "me"})
    found = runtimes.runtime_for("dummy")
    assert isinstance(found, OtherDummy)
    assert found.options == {"who": "me"}


@pytest.mark.parametrize(
    "named",
    ["no.such.module:Class", "examples.polynomial_runtime:No", "json:JSONDecoder", "json", ":X"],
)
def test_a_named_runtime_that_cannot_be_had_stops_the_start(named: str) -> None:
    with pytest.raises(ValueError, match=f"{named}"):
        finding.find(named, {})
