"""The pages for people: links lead somewhere, and what the README shows is what is there."""

import re
from pathlib import Path

import pytest

from examples import quickstart
from modelmesh.errors import Code, Reason
from modelmesh.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_readme_shows_what_the_quickstart_prints() -> None:
    readme = (ROOT / "README.md").read_text()
    defaults = Settings()
    printed = quickstart.TO_TRY.format(
        model=quickstart.MODEL,
        v1=quickstart.V1,
        v2=quickstart.V2,
        bin=".venv/bin",
        rest=defaults.rest_port,
        grpc=defaults.grpc_port,
        metrics=2112,
    )
    lines = [line.strip() for line in printed.splitlines() if line.startswith("  ")]
    assert len(lines) == 4
    assert [line for line in lines[:3] if line not in readme] == []


def test_the_status_contract_names_every_code_and_reason_that_exists() -> None:
    """But for OK and the codes that we never give."""
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    contract = page.partition("## Status contract")[2].partition("\n## ")[0]
    foreign = {Code.OK, Code.UNKNOWN, Code.PERMISSION_DENIED, Code.UNAUTHENTICATED}
    foreign |= {Code.OUT_OF_RANGE}
    names = {code.name for code in set(Code) - foreign} | {reason.value for reason in Reason} - {""}
    assert {name for name in names if name not in contract} == set()
