"""Local paths: what a URI means, where links lead, what a disk may do to us."""

import asyncio
import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.errors import Code, MeshError, Reason
from modelmesh.storage.door import LocalModel
from modelmesh.storage.local import FETCHES, LocalStorage
from modelmesh.storage.paths import local_path, scheme_of
from modelmesh.storage.storages import Storages


async def refusal(storage: LocalStorage, path: str) -> MeshError:
    with pytest.raises(MeshError) as caught:
        await storage.fetch("m", path, "")
    assert caught.value.failure.reason is Reason.LOAD_FAILED
    return caught.value


# --- what a path means


@pytest.mark.parametrize(
    ("path", "local"),
    [
        ("/a/b", "/a/b"),
        ("a/b", "a/b"),
        ("./a:/b", "./a:/b"),
        ("50%", "50%"),
        ("file:///a/b", "/a/b"),
        ("FILE:///a", "/a"),
        ("file://localhost/a", "/a"),
        ("file://LOCALHOST/a", "/a"),
        ("file:/a/b", "/a/b"),
        ("file:///a%20b%2Fc", "/a b/c"),
        ("file:///%F0%9F%A6%8A", "/🦊"),
    ],
)
def test_a_path_means_a_place(path: str, local: str) -> None:
    assert scheme_of(path) == "file"
    assert local_path(path) == local


@pytest.mark.parametrize(
    "path",
    [
        "file://",
        "file://host/a",
        "file://host",
        "file://user@localhost/a",
        "file:///a%",
        "file:///a%zz",
        "file:///a%00b",
        "file:///%2e%2e/etc/passwd",
        "file:///a/%2E%2E",
        "file:///a?version=1",
        "file:///a#b",
        "file:///%ff",
    ],
)
def test_a_uri_that_means_no_place_is_refused(path: str) -> None:
    with pytest.raises(MeshError) as caught:
        LocalStorage().check(path)
    assert caught.value.failure.code is Code.INVALID_ARGUMENT


@given(st.text())
def test_whatever_comes_is_checked_or_refused(path: str) -> None:
    if "\0" in path or ".." in path.split("/"):
        with pytest.raises(MeshError):
            LocalStorage().check(path)
        return
    with contextlib.suppress(MeshError):
        LocalStorage().check(path)
        assert "\0" not in local_path(path)
        assert ".." not in local_path(path).split("/")


# --- what lies there


async def test_a_relative_path_starts_where_the_daemon_works(tmp_path: Path) -> None:
    (tmp_path / "iris").write_bytes(b"xy")
    with working_in(tmp_path):
        found = await LocalStorage().fetch("m", "iris", "")
    assert found == LocalModel(str(tmp_path / "iris"), 2)


class working_in:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        self._before = os.getcwd()
        os.chdir(self._folder)

    def __exit__(self, *error: object) -> None:
        os.chdir(self._before)


async def test_links_are_followed_and_keep_their_names(tmp_path: Path) -> None:
    """The layout of a model hub's cache: names that are links to blobs."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    (blobs / "folder").mkdir(parents=True)
    snapshot.mkdir()
    (blobs / "1f2e").write_bytes(b"x" * 100)
    (blobs / "folder" / "a").write_bytes(b"x" * 10)
    (snapshot / "model.joblib").symlink_to(blobs / "1f2e")
    (snapshot / "more").symlink_to(blobs / "folder")
    (snapshot / "circle").symlink_to(snapshot)
    (snapshot / "self").symlink_to(snapshot / "self")
    (snapshot / "nowhere").symlink_to(tmp_path / "nowhere")
    os.mkfifo(snapshot / "pipe")
    storage = LocalStorage()
    assert await storage.fetch("m", str(snapshot), "") == LocalModel(str(snapshot), 110)
    link = str(snapshot / "model.joblib")
    assert await storage.fetch("m", link, "") == LocalModel(link, 100)
    assert "links" in str(await refusal(storage, str(snapshot / "self")))


@pytest.mark.parametrize("kind", ["pipe", "device"])
async def test_what_is_neither_file_nor_folder_is_refused(tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = {"pipe": str(tmp_path / "pipe"), "device": os.devnull}[kind]
    error = await refusal(LocalStorage(), path)
    assert error.failure.code is Code.FAILED_PRECONDITION
    assert path in str(error)


async def test_a_folder_with_too_many_files_is_refused(tmp_path: Path) -> None:
    for n in range(11):
        (tmp_path / str(n)).touch()
    assert "more than 10" in str(await refusal(LocalStorage(most_entries=10), str(tmp_path)))
    assert (await LocalStorage(most_entries=11).fetch("m", str(tmp_path), "")).size_bytes == 0


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may reach (pytest's own is for the user who runs it)."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


class as_nobody:
    """Run as a user for whom permissions count."""

    def __enter__(self) -> None:
        self._before = os.geteuid()
        if self._before == 0:
            os.seteuid(65534)

    def __exit__(self, *error: object) -> None:
        os.seteuid(self._before)


@pytest.mark.parametrize("what", ["file", "folder", "unsearchable"])
async def test_what_may_not_be_read_is_refused(open_folder: Path, what: str) -> None:
    (open_folder / "file").write_bytes(b"x")
    (open_folder / "folder").mkdir()
    (open_folder / "unsearchable").mkdir()
    (open_folder / "file").chmod(0)
    (open_folder / "folder").chmod(0)
    (open_folder / "unsearchable").chmod(0o644)
    with as_nobody():
        error = await refusal(LocalStorage(), str(open_folder / what))
    (open_folder / "folder").chmod(0o700)
    (open_folder / "unsearchable").chmod(0o700)
    assert error.failure.code is Code.FAILED_PRECONDITION
    assert "Permission denied" in str(error)
    assert str(open_folder / what) in str(error)


async def test_what_may_not_be_read_inside_is_left_to_the_runtime(open_folder: Path) -> None:
    (open_folder / "model").write_bytes(b"x" * 10)
    (open_folder / "lost+found").mkdir(mode=0)
    with as_nobody():
        found = await LocalStorage().fetch("m", str(open_folder), "")
    (open_folder / "lost+found").chmod(0o700)
    assert found.size_bytes == 10


# --- a root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a model, beside a secret, and links out of it and within it."""
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "model").write_bytes(b"x" * 5)
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "rooted").write_bytes(b"a name that starts alike")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to(tmp_path)
    (root / "within").symlink_to(root / "model")
    (root / "folder" / "out").symlink_to(tmp_path / "secret")
    return root


@pytest.mark.parametrize(
    "path", ["out", "up/secret", "up", "folder", "../secret", "/etc", "ROOTed"]
)
async def test_nothing_outside_the_root_is_found(root: Path, path: str) -> None:
    path = path.replace("ROOT", str(root))
    with pytest.raises(MeshError) as caught:
        await LocalStorage(root=str(root)).fetch("m", path, "")
    assert caught.value.failure.reason is Reason.LOAD_FAILED or ".." in path
    assert caught.value.failure.code in (Code.FAILED_PRECONDITION, Code.INVALID_ARGUMENT)


async def test_what_is_inside_the_root_is_found(root: Path) -> None:
    storage = LocalStorage(root=str(root))
    for path in ("model", str(root / "model"), f"file://{root}/model", "within", "up/root/model"):
        assert (await storage.fetch("m", path, "")).size_bytes == 5
    link = root.parent / "link"
    link.symlink_to(root)
    assert (await LocalStorage(root=str(link)).fetch("m", "model", "")).size_bytes == 5


# --- a disk that hangs


class HungDisk(LocalStorage):
    """A storage whose looks at the disk wait for a gate, as a dead file server makes them."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s=timeout_s)
        self.gate, self.full = threading.Event(), threading.Event()
        self.looks: list[str] = []

    def _find(self, path: str) -> LocalModel:
        self.looks.append(path)
        if len(self.looks) == FETCHES:
            self.full.set()
        assert self.gate.wait(60)
        return super()._find(path)


async def test_a_hung_disk_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"x")
    storage = HungDisk(timeout_s=0.05)
    paths = [str(tmp_path / "m")] * (FETCHES + 2)
    errors = await asyncio.gather(*(refusal(storage, path) for path in paths))
    assert {error.failure.code for error in errors} == {Code.UNAVAILABLE}
    assert all(error.failure.retry_after_s is not None for error in errors)
    assert storage.full.wait(30)  # threads may be late
    assert len(storage.looks) == FETCHES  # a hung look keeps its place: threads are bounded
    storage.gate.set()
    async with asyncio.timeout(30):
        while True:
            try:
                assert (await storage.fetch("m", paths[0], "")).size_bytes == 1
                break
            except MeshError:
                continue


# --- the dispatcher


class Recorded:
    """Another scheme, and what was asked of it."""

    schemes = ("s3", "gs")

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def check(self, path: str) -> None:
        self.calls.append(("check", path))

    async def fetch(self, model_id: str, path: str, key: str) -> LocalModel:
        self.calls.append(("fetch", model_id, path, key))
        return LocalModel("/cache", 1)

    async def release(self, model_id: str) -> None:
        self.calls.append(("release", model_id))


async def test_each_scheme_goes_to_its_storage(tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"xy")
    remote = Recorded()
    storages = Storages([LocalStorage(), remote])
    assert storages.schemes == ("file", "s3", "gs")
    storages.check("S3://bucket/key")
    assert await storages.fetch("a", "gs://bucket/key", "k") == LocalModel("/cache", 1)
    assert (await storages.fetch("b", str(tmp_path / "local"), "")).size_bytes == 2
    for model_id in ("a", "a", "b", "never"):
        await storages.release(model_id)
    assert remote.calls == [
        ("check", "S3://bucket/key"),
        ("fetch", "a", "gs://bucket/key", "k"),
        ("release", "a"),
    ]
    with pytest.raises(MeshError) as caught:
        storages.check("hdfs://x")
    assert "file://, s3://, gs://" in str(caught.value)
