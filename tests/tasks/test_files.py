"""Configuration files that change while the daemon runs."""

import asyncio
import os
from pathlib import Path

import pytest

from modelmesh.errors import Code, MeshError
from modelmesh.observe.tasks import stop
from modelmesh.tasks.files import MOST_BYTES, ConfigFile


class Rules:
    """What was read; the word `bad` makes no sense."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.second = asyncio.Event()

    def __call__(self, text: str) -> None:
        if "bad" in text:
            raise ValueError("bad is bad")
        self.read.append(text)
        if len(self.read) == 2:
            self.second.set()


@pytest.fixture
def rules() -> Rules:
    return Rules()


def following(path: Path, rules: Rules) -> ConfigFile:
    file = ConfigFile(str(path), "rules", rules)
    file.load()
    return file


def put(path: Path, text: str) -> None:
    """Another file in the old one's place, as an editor does it."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


async def test_what_is_the_same_is_not_read_again(tmp_path: Path, rules: Rules) -> None:
    path = tmp_path / "f"
    path.write_text("one")
    file = following(path, rules)
    await file.look()
    put(path, "two")
    await file.look()
    await file.look()
    assert rules.read == ["one", "two"]


async def test_a_file_that_is_written_in_place_is_seen(tmp_path: Path, rules: Rules) -> None:
    path = tmp_path / "f"
    path.write_text("one")
    file = following(path, rules)
    path.write_text("two")
    os.utime(path, ns=(0, 7))  # whatever the clock of the file system can tell apart
    await file.look()
    assert rules.read == ["one", "two"]


async def test_a_mounted_config_map_that_is_swapped_is_seen(tmp_path: Path, rules: Rules) -> None:
    """As kubelet does it: file -> ..data/file, ..data -> a folder, and ..data is renamed over."""
    for name, text in (("..one", "one"), ("..two", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rules.json").write_text(text)
        os.utime(tmp_path / name / "rules.json", ns=(7, 7))
    (tmp_path / "..data").symlink_to("..one")
    path = tmp_path / "rules.json"
    path.symlink_to("..data/rules.json")
    file = following(path, rules)
    (tmp_path / "..data_tmp").symlink_to("..two")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    await file.look()
    assert rules.read == ["one", "two"]


async def test_what_makes_no_sense_or_is_gone_changes_nothing(tmp_path: Path, rules: Rules) -> None:
    path = tmp_path / "f"
    path.write_text("one")
    file = following(path, rules)
    for break_it in (
        lambda: put(path, "bad"),
        path.unlink,
        lambda: path.write_bytes(b"\xff"),
        lambda: put(path, "x" * (MOST_BYTES + 1)),
    ):
        break_it()
        await file.look()
        await file.look()
        assert rules.read == ["one"]
    put(path, "one")  # what was there before the trouble
    await file.look()
    assert rules.read == ["one", "one"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file or directory"),
        (b"bad", "bad is bad"),
        (b"\xff", "it is not UTF-8"),
        (b"x" * (MOST_BYTES + 1), "it has more than 1,048,576 bytes"),
    ],
)
def test_at_the_start_it_has_to_be_right(
    tmp_path: Path, rules: Rules, content: bytes | None, why: str
) -> None:
    path = tmp_path / "f"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MeshError) as failed:
        following(path, rules)
    failure = failed.value.failure
    assert (failure.code, failure.message) == (Code.FAILED_PRECONDITION, f"rules {path}: {why}")


async def test_a_watch_looks_again_until_it_is_stopped(tmp_path: Path, rules: Rules) -> None:
    path = tmp_path / "f"
    path.write_text("one")
    task = following(path, rules).watch(period_s=0.01)
    put(path, "two")
    await asyncio.wait_for(rules.second.wait(), 10)
    assert rules.read == ["one", "two"]
    await stop(task)
    assert task.cancelled()
