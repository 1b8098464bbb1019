"""docs/SETTINGS.md, generated from settings.py (`make docs`; `make check` fails when it is stale).

Each row names the test in which changing the setting changes behaviour.
"""

import sys
from pathlib import Path

from modelmesh.settings import NOT_YET, fields

TARGET = Path(__file__).resolve().parents[2] / "docs" / "SETTINGS.md"

_HEAD = """# Settings

Generated from `modelmesh/settings.py` by `make docs`; do not edit. A flag of `modelmesh serve` wins
over its variable, a variable over the default. The last column is the test in which changing the
value changes what the daemon does.

| flag | variable | default | unit | what and why | shown by |
|---|---|---|---|---|---|
"""

_TAIL = """
## Known, but not supported yet

A start with one of these set stops with one sentence; none is silently ignored.

| variable | why |
|---|---|
"""


def settings_page() -> str:
    """The whole page."""
    rows = []
    for field in fields():
        meta = field.metadata
        cells = (
            f"`--{field.name.replace('_', '-')}`",
            f"`{meta['env']}`",
            f"`{field.default}`" if field.default != "" else "",
            meta["unit"].replace("|", "\\|"),
            meta["why"].replace("|", "\\|"),
            f"`{meta['test'].removeprefix('tests/')}`",
        )
        rows.append("| " + " | ".join(cells) + " |\n")
    unsupported = [f"| `{name}` | {why} |\n" for name, why in NOT_YET.items()]
    return _HEAD + "".join(rows) + _TAIL + "".join(unsupported)


def main() -> None:
    page = settings_page()
    if "--check" in sys.argv:
        if not TARGET.exists() or TARGET.read_text() != page:
            raise SystemExit("docs/SETTINGS.md is stale, run `make docs`")
        return
    TARGET.write_text(page)


if __name__ == "__main__":
    main()
