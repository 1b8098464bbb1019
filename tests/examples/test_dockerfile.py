"""The image's recipe, compared with the Makefile's (docs/CONTRIBUTING.md: how it is built)."""

import json
import re
from pathlib import Path

from modelmesh.observe import spec
from modelmesh.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def instructions() -> list[tuple[str, str]]:
    """(instruction, its arguments), continued lines joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def arguments(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def makefile_variable(name: str) -> str:
    match = re.search(rf"^{name} := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert match is not None
    return match[1].replace("$(BIN)", ".venv/bin")


def test_it_installs_by_the_makefiles_commands() -> None:
    steps = [step.strip() for run in arguments("RUN") for step in run.split("&&")]
    assert [step for step in steps if "pip" in step] == [
        f"{makefile_variable('INSTALL')} -r requirements/run.txt",
        makefile_variable("PROJECT"),
    ]


def test_nothing_else_is_fetched() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "://" not in text
    assert not re.search(r"\b(apt|apk|curl|wget|ADD)\b", text)


def test_the_base_is_one_slim_image_by_tag() -> None:
    (base,) = arguments("FROM")
    assert re.fullmatch(r"python:3\.1[123]-slim", base)


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    allowed = [
        line[1:].rstrip("/")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    sources = [name for copy in arguments("COPY") for name in copy.split()[:-1]]
    assert sorted(sources) == sorted(allowed)
    assert all((ROOT / name).exists() for name in sources)


def test_what_the_project_installs_is_copied() -> None:
    packages = re.search(r"^packages = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.M)
    assert packages is not None
    sources = [name for copy in arguments("COPY") for name in copy.split()[:-1]]
    assert set(json.loads(packages[1])) <= set(sources)


def test_it_runs_as_nobody_and_writes_only_to_its_volume() -> None:
    (user,) = arguments("USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    assert arguments("VOLUME") == ["/data"]
    assert any("MM_DATA_DIR=/data" in values for values in arguments("ENV"))


def test_it_serves_on_the_documented_ports() -> None:
    defaults = Settings()
    ports = {defaults.grpc_port, defaults.rest_port, int(defaults.probe_port)}
    ports.add(spec.parse(defaults.metrics).port or 0)
    assert {int(port) for port in arguments("EXPOSE")[0].split()} == ports
    assert json.loads(arguments("ENTRYPOINT")[0])[-1] == "serve"
    assert arguments("HEALTHCHECK") == []
    assert any("MM_BIND_HOST=0.0.0.0" in values for values in arguments("ENV"))
