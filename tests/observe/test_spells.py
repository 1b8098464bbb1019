"""What goes wrong for long is said once."""

import structlog
from structlog.testing import capture_logs

from modelmesh.observe.spells import Spell


def test_a_trouble_that_lasts_is_said_when_it_begins_and_when_it_comes_again() -> None:
    with capture_logs() as lines:
        spell = Spell(structlog.get_logger("observe"), "away")
        for n in range(3):
            spell.goes_on(attempt=n)
        spell.over()
        spell.over()
        spell.goes_on(attempt=9)
    said = [(line["event"], line["attempt"]) for line in lines if line["log_level"] == "warning"]
    assert said == [("away", 0), ("away", 9)]
