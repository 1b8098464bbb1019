"""docs/SETTINGS.md, generated from settings.py (`make docs`; `make check` fails when it is stale).

Each row names the test in which changing the setting changes behaviour.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from modelmesh.settings import NO_EFFECT, NO_PROPERTIES, NOT_YET, OBEYED, fields

TARGET = Path(__file__).resolve().parents[2] / "docs" / "SETTINGS.md"

_HEAD = """# Settings

Generated from `modelmesh/settings.py` by `make docs`; do not edit. A flag of `modelmesh serve` wins
over its variable, a variable over the default. The last column is the test in which changing the
value changes what the daemon does.

| flag | variable | default | unit | what and why | shown by |
|---|---|---|---|---|---|
"""

# What becomes of the variables of ModelMesh and KServe that are no settings.
_OTHERS = (
    (
        "Known, but not supported yet",
        "A start with one of these set stops with one sentence; none is silently ignored.",
        NOT_YET,
    ),
    (
        "ModelMesh's system properties",
        "Among the arguments of `CUSTOM_JVM_ARGS` (`-Dname=value`) each of these stops the start"
        " with one\nsentence, as does any other property of ModelMesh there, and a variable of that"
        " name.",
        NO_PROPERTIES,
    ),
    (
        "Without effect",
        "What tunes ModelMesh's Java machine has nothing to tune here. The start goes on and logs"
        " one warning for\neach: to refuse these would stop whoever brings a manifest along, and"
        " nothing could be set in their place.",
        NO_EFFECT,
    ),
    ("Obeyed by others", "The daemon has nothing to do for these.", OBEYED),
)


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
    return _HEAD + "".join(rows) + "".join(_table(*other) for other in _OTHERS)


def _table(title: str, text: str, rows: Mapping[str, str]) -> str:
    head = f"\n## {title}\n\n{text}\n\n| variable | why |\n|---|---|\n"
    return head + "".join(f"| `{name}` | {why} |\n" for name, why in rows.items())


def main() -> None:
    page = settings_page()
    if "--check" in sys.argv:
        if not TARGET.exists() or TARGET.read_text() != page:
            raise SystemExit("docs/SETTINGS.md is stale, run `make docs`")
        return
    TARGET.write_text(page)


if __name__ == "__main__":
    main()
