"""Log lines of a process of their own: one event per line."""

import subprocess
import sys

import orjson

SCRIPT = """
import structlog
from modelmesh.observe import logs
logs.configure({level!r}, {form!r})
log = structlog.get_logger("room")
log.debug("too quiet", n=1)
log.info("it happened", n=2, path="/a b")
try:
    raise ValueError("boom")
except ValueError:
    log.exception("it broke")
"""


def _lines(level: str, form: str) -> list[str]:
    script = SCRIPT.format(level=level, form=form)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_lines_carry_room_level_event_and_keys() -> None:
    first, second = (orjson.loads(line) for line in _lines("info", "auto"))
    assert (first["event"], first["room"], first["level"]) == ("it happened", "room", "info")
    assert (first["n"], first["path"]) == (2, "/a b")
    assert "ValueError: boom" in second["exception"]


def test_text_is_for_people_and_the_level_filters() -> None:
    lines = _lines("error", "text")
    assert "it broke" in lines[0]
    assert not any("it happened" in line for line in lines)
