"""What every storage promises (modelmesh/storage/door.py), over every implementation."""

import asyncio
from pathlib import Path

import pytest

from modelmesh.errors import Code, Fault, MeshError, Reason
from modelmesh.storage.door import LocalModel
from tests.storage.doors import DOORS, Door


@pytest.fixture(params=list(DOORS))
def door(request: pytest.FixtureRequest, tmp_path: Path) -> Door:
    return DOORS[request.param](tmp_path)


def content(path: str) -> bytes:
    """What a host would read."""
    return Path(path).read_bytes()


async def test_a_file_is_found_and_measured(door: Door) -> None:
    path = door.put("iris.joblib", {"": b"x" * 1000})
    door.storage.check(path)
    model = await door.storage.fetch("iris", path, "")
    assert model.size_bytes == 1000
    assert Path(model.path).is_absolute()
    assert Path(model.path).name == "iris.joblib"
    assert content(model.path) == b"x" * 1000


async def test_a_folder_is_found_and_measured(door: Door) -> None:
    path = door.put("iris", {"a": b"x" * 10, "b/c": b"y" * 20, "b/empty": b""})
    model = await door.storage.fetch("iris", path, "")
    assert model.size_bytes == 30
    assert content(f"{model.path}/b/c") == b"y" * 20


@pytest.mark.parametrize("name", ["with space", "50%", "a?b#c", "🦊", "a:b", "line\nbreak", "a..b"])
async def test_names_may_be_odd(door: Door, name: str) -> None:
    path = door.put(name, {"": b"x"})
    door.storage.check(path)
    assert (await door.storage.fetch("odd", path, "")).size_bytes == 1


async def test_a_model_that_needs_no_files_has_none(door: Door) -> None:
    door.storage.check("")
    assert await door.storage.fetch("dummy", "", '{"size_bytes":1}') == LocalModel("", 0)


async def test_files_that_vanished_are_said_to_be_gone(door: Door) -> None:
    path = door.put("iris", {"": b"x"})
    await door.storage.fetch("iris", path, "")
    door.remove("iris")
    assert not (door.folder / "iris").exists()
    with pytest.raises(MeshError) as caught:
        await door.storage.fetch("iris", path, "")
    failure = caught.value.failure
    assert failure.code is Code.FAILED_PRECONDITION
    assert failure.reason is Reason.LOAD_FAILED
    assert failure.fault is Fault.MODEL
    assert failure.retry_after_s is None
    assert path in failure.message
    door.put("iris", {"": b"xy"})
    assert (await door.storage.fetch("iris", path, "")).size_bytes == 2


@pytest.mark.parametrize("path", ["nope://a/b", "NOPE://a", "s3-typo:/bucket/key", "git+ssh://h/x"])
async def test_an_unknown_scheme_is_refused_by_name(door: Door, path: str) -> None:
    with pytest.raises(MeshError) as checked:
        door.storage.check(path)
    with pytest.raises(MeshError) as fetched:
        await door.storage.fetch("x", path, "")
    for caught in (checked, fetched):
        assert caught.value.failure.code is Code.INVALID_ARGUMENT
        for scheme in door.storage.schemes:
            assert f"{scheme}://" in caught.value.failure.message


@pytest.mark.parametrize("name", ["a\0b", "../b", "a/../b", "a/..", "half\ud800", "x" * 5000])
async def test_what_could_never_be_fetched_is_refused(door: Door, name: str) -> None:
    path = door.put("a", {"": b"x"})
    bad = path[: -len("a")] + name
    with pytest.raises(MeshError) as caught:
        door.storage.check(bad)
    assert caught.value.failure.code is Code.INVALID_ARGUMENT
    with pytest.raises(MeshError):
        await door.storage.fetch("bad", bad, "")


async def test_release_takes_whatever_comes(door: Door) -> None:
    path = door.put("iris", {"": b"x"})
    await door.storage.release("never fetched")
    for _ in range(2):
        await door.storage.fetch("iris", path, "")
        await door.storage.release("iris")
        await door.storage.release("iris")


async def test_many_are_fetched_at_once(door: Door) -> None:
    paths = [door.put(f"m{n}", {"": b"x" * n}) for n in range(50)]
    models = await asyncio.gather(
        *(door.storage.fetch(f"m{n}", path, "") for n, path in enumerate(paths))
    )
    assert [model.size_bytes for model in models] == list(range(50))
