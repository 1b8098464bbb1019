"""One daemon for all tests of bad input: it must outlive every one of them."""

from collections.abc import Iterator

import joblib
import pytest
from sklearn import datasets, svm

from tests.app.daemon import child
from tests.faults.scene import Scene


@pytest.fixture(scope="session")
def shared_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("scene")
    joblib.dump(
        svm.SVC(gamma="scale").fit(*datasets.load_iris(return_X_y=True)), folder / "iris.joblib"
    )
    settings = {"MM_SHARED_HOSTS": "1", "MM_SET_ASIDE_MS": "20000", "SHUTDOWN_TIMEOUT_MS": "2000"}
    with child(folder, **settings) as daemon:
        yield Scene(daemon, folder / "iris.joblib")


@pytest.fixture
def scene(shared_scene: Scene) -> Iterator[Scene]:
    """The daemon with ten loaded models; afterwards nothing of it may be lost."""
    yield shared_scene
    shared_scene.assert_nothing_lost()
