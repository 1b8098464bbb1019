"""Model files that are wrong, and a registry without room: said clearly, at nobody else's cost."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import grpc
import pytest

from tests.app.daemon import Child, child
from tests.faults.neighbours import Neighbours
from tests.faults.suspects import File


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    folder = tmp_path_factory.mktemp("registry")
    settings = {"MM_SHARED_HOSTS": "1", "MM_SET_ASIDE_MS": "20000", "SHUTDOWN_TIMEOUT_MS": "2000"}
    with child(folder, **settings) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def neighbours(daemon: Child, tmp_path_factory: pytest.TempPathFactory) -> Neighbours:
    return Neighbours(daemon, tmp_path_factory.mktemp("neighbours"))


# --- files


def _corrupt(place: Path) -> Path:
    File.write(place / "m.pkl")
    whole = (place / "m.pkl").read_bytes()
    (place / "m.pkl").write_bytes(whole[:-20] + b"\xff" * 10)
    return place / "m.pkl"


def _cut_off(place: Path) -> Path:
    File.write(place / "m.pkl")
    os.truncate(place / "m.pkl", 30)
    return place / "m.pkl"


def _empty(place: Path) -> Path:
    (place / "m.joblib").touch()
    return place / "m.joblib"


def _no_pickle(place: Path) -> Path:
    (place / "m.joblib").write_bytes(os.urandom(1000))
    return place / "m.joblib"


def _no_estimator(place: Path) -> Path:
    (place / "m.pkl").write_bytes(b"(lp0\n.")  # an empty list
    return place / "m.pkl"


def _two_models(place: Path) -> Path:
    File.write(place / "a.pkl")
    File.write(place / "b.pkl")
    return place


def _empty_folder(place: Path) -> Path:
    return place


def _fifo(place: Path) -> Path:
    os.mkfifo(place / "m.pkl")
    return place / "m.pkl"


def _fifo_in_a_folder(place: Path) -> Path:
    os.mkfifo(place / "m.pkl")
    return place


def _circle(place: Path) -> Path:
    (place / "m.pkl").symlink_to(place / "m.pkl")
    return place / "m.pkl"


def _device(place: Path) -> Path:
    return Path("/dev/zero")


def _never_there(place: Path) -> Path:
    return place / "m.pkl"


WRONG_FILES: Final[list[tuple[Callable[[Path], Path], str]]] = [
    (_corrupt, "m.pkl is not a readable joblib or pickle file ("),
    (_cut_off, "m.pkl is not a readable joblib or pickle file ("),
    (_empty, "m.joblib is not a readable joblib or pickle file (EOFError"),
    (_no_pickle, "m.joblib is not a readable joblib or pickle file ("),
    (_no_estimator, "m.pkl holds a list, which cannot predict"),
    (_two_models, "More than one model file"),
    (_empty_folder, "Missing Model File: no .joblib"),
    (_fifo, "neither a file nor a folder"),
    (_fifo_in_a_folder, "Missing Model File: no .joblib"),
    (_circle, "Too many levels of symbolic links"),
    (_device, "neither a file nor a folder"),
    (_never_there, "No such file or directory"),
]


@pytest.mark.parametrize(
    ("make", "said"), WRONG_FILES, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_file_that_is_no_model(
    make: Callable[[Path], Path], said: str, daemon: Child, neighbours: Neighbours, tmp_path: Path
) -> None:
    path = make(tmp_path)
    model_id = make.__name__
    assert daemon.register(model_id, "sklearn", str(path)) == "NOT_LOADED"
    with neighbours.busy():
        home = neighbours.home()
        refused = daemon.refused(model_id)
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "LOAD_FAILED")
    assert said in refused.message
    assert refused.retry_s is None
    assert daemon.predict(model_id).status == 422
    status = daemon.status(model_id)
    assert daemon.state(model_id) == "LOADING_FAILED"
    assert set(status.errors) == {refused.message}
    assert neighbours.home() == home, "no file costs a host"
    neighbours.assert_unharmed()


def test_a_file_that_vanishes_between_registration_and_load(
    daemon: Child, neighbours: Neighbours, tmp_path: Path
) -> None:
    file = File.write(tmp_path / "m.pkl")
    daemon.register("vanishes", "sklearn", str(file.path))
    file.path.rename(tmp_path / "elsewhere.pkl")
    refused = daemon.refused("vanishes")
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "LOAD_FAILED")
    assert "No such file or directory" in refused.message
    assert "vanishes" in daemon.models(), "the registration stays"
    (tmp_path / "elsewhere.pkl").rename(file.path)
    assert daemon.infer("vanishes")["output-0"] == neighbours.home(), "as soon as it is there again"
    assert list(daemon.status("vanishes").errors) == []


def test_a_file_that_vanishes_while_it_is_loaded_is_not_missed(
    daemon: Child, neighbours: Neighbours, tmp_path: Path
) -> None:
    file = File.write(tmp_path / "m.pkl")
    daemon.register("loaded", "sklearn", str(file.path))
    home = daemon.infer("loaded")["output-0"]
    file.path.unlink()
    assert daemon.infer("loaded")["output-0"] == home
    daemon.unload("loaded")
    assert "No such file or directory" in daemon.refused("loaded").message


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_a_file_that_cannot_be_read(daemon: Child, tmp_path: Path) -> None:
    file = File.write(tmp_path / "m.pkl")
    file.path.chmod(0)
    daemon.register("unreadable", "sklearn", str(file.path))
    refused = daemon.refused("unreadable")
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "LOAD_FAILED")
    assert "Permission denied" in refused.message
    file.path.chmod(0o600)
    assert daemon.infer("unreadable")["output-0"]


# --- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], check=False)
    if done.returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_refuses_registrations_and_loses_none(small_disk: Path, tmp_path: Path) -> None:
    settings = {"MM_SHARED_HOSTS": "1", "MM_SET_ASIDE_MS": "20000", "SHUTDOWN_TIMEOUT_MS": "2000"}
    ballast = small_disk / "ballast"
    with child(small_disk, **settings) as daemon:
        neighbours = Neighbours(daemon, tmp_path)
        before = set(daemon.models())
        with neighbours.busy():
            fill(ballast)
            assert os.statvfs(small_disk).f_bfree == 0
            acknowledged, code, message = register_until_refused(daemon)
            assert code == "UNAVAILABLE"
            assert "full" in message
            neighbours.assert_unharmed()
        assert set(daemon.models()) == before | acknowledged
        ballast.unlink()
        assert daemon.register("after", "dummy") == "NOT_LOADED", "as soon as there is room"
        acknowledged.add("after")
    with child(small_disk, **settings) as daemon:
        assert set(daemon.models()) == before | acknowledged


def fill(path: Path) -> None:
    """Write until there is no room."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def register_until_refused(daemon: Child) -> tuple[set[str], str, str]:
    """Whom the registry still took, and how it refused the next."""
    acknowledged: set[str] = set()
    for number in range(1000):
        model_id = f"late-{number}"
        try:
            daemon.register(model_id, "dummy", key="x" * 10_000)
        except grpc.RpcError as error:
            return acknowledged, error.code().name, error.details() or ""
        acknowledged.add(model_id)
    raise AssertionError("the disk was never full")
