"""A shared host with ten innocents in it, for scenarios in which a villain moves in.

    villain = house.villain("m", at_load="segfault")
    with house.disturbed(moves=True) as home:
        ...  # what the villain does in the process `home`, and what is said of it

While the body runs, the ten are asked 200 times a second, and every answer has to come and to be
right. After it they are loaded still, each answers for itself, and they have moved to another
process or not, as said.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.app.client import Refused, until
from tests.app.daemon import Child
from tests.faults.neighbours import ALL, Neighbours
from tests.faults.suspects import File


class House:
    """The daemon, the ten, and a place for villains' files."""

    def __init__(self, daemon: Child, neighbours: Neighbours, folder: Path) -> None:
        self.daemon = daemon
        self._neighbours = neighbours
        self._folder = folder

    def villain(self, model_id: str, at_load: str = "", at_predict: str = "") -> "Villain":
        """A registered model that does a deed; one that does it at predictions is loaded."""
        file = File.write(self._folder / "m.pkl", at_load, at_predict)
        self.daemon.register(model_id, "sklearn", str(file.path))
        villain = Villain(self.daemon, model_id, file)
        if at_predict:
            assert villain.load() == "LOADED"
        return villain

    def home(self) -> int:
        """The process that the ten live in now."""
        return self._neighbours.home()

    def is_whole(self) -> bool:
        """Whether all ten live in shared hosts."""
        rows = self.daemon.models()
        return all(rows[model_id].tier == "shared" for model_id in ALL)

    @contextmanager
    def disturbed(self, *, moves: bool | None = None) -> Iterator[int]:
        """The ten are unharmed by the body; `moves`: they live elsewhere then (None: either)."""
        with self._neighbours.busy():
            home = self.home()
            yield home
        assert moves is None or (self.home() != home) is moves
        self._neighbours.assert_unharmed()


class Villain:
    """A model that does what it should not, as callers and operators see it."""

    def __init__(self, daemon: Child, model_id: str, file: File) -> None:
        self._daemon = daemon
        self._file = file
        self.model_id = model_id

    def load(self) -> str:
        """The state after an attempt."""
        return self._daemon.load(self.model_id)

    def refused(self) -> Refused:
        """How a request is refused."""
        return self._daemon.refused(self.model_id)

    def lives_in(self) -> int:
        """The process that answers a request."""
        return int(self._daemon.infer(self.model_id)["output-0"])

    def leave(self) -> None:
        self._daemon.unload(self.model_id)

    @property
    def acted_in(self) -> list[int]:
        """The processes in which it has begun its deed, in order."""
        return self._file.acted_in

    @property
    def keeper(self) -> int:
        """The parent of the process in which it acted first."""
        return self._file.parents[0]

    @property
    def state(self) -> str:
        return self._daemon.state(self.model_id)

    @property
    def errors(self) -> list[str]:
        """What its status tells."""
        return list(self._daemon.status(self.model_id).errors)

    @property
    def row(self) -> Any:
        """Its row in the operator's table."""
        return self._daemon.models()[self.model_id]


# --- processes


def ends(pid: int) -> None:
    """Wait until the process is gone (whoever has to bury it may take a while)."""
    until(lambda: state_of(pid) in "XZ")


def state_of(pid: int) -> str:
    """The kernel's letter; X: there is no such process."""
    stat = stat_of(pid)
    return stat[0] if stat else "X"


def children(pid: int) -> list[int]:
    """The processes right below this one."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(each) for task in tasks for each in (task / "children").read_text().split()]


def strays(family: dict[int, str]) -> list[int]:
    """Hosts that are not the child of a keeper."""
    return [
        pid
        for pid, name in family.items()
        if name.startswith("mm-host") and not family.get(parent(pid), "").startswith("mm-keeper")
    ]


def parent(pid: int) -> int:
    """0: the process is gone."""
    stat = stat_of(pid)
    return int(stat[1]) if stat else 0


def stat_of(pid: int) -> list[str]:
    """What the kernel tells of a process, behind its name; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
