"""The implementations of the Storage door, as the contract suite sees them.

A further scheme is a subclass of `Door` and a name in `DOORS`: how to put a model's files there,
what path names them, and how they vanish.
"""

import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from urllib.parse import quote

from modelmesh.storage.door import Storage
from modelmesh.storage.local import LocalStorage
from modelmesh.storage.storages import Storages

Files = dict[str, bytes]  # relative name: content; the one name "" is a single file


class Door(ABC):
    """One storage and the place behind it."""

    storage: Storage

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def put(self, name: str, files: Files) -> str:
        """Lay a model's files down; the path under which it would be registered."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """The files vanish."""


class LocalDoor(Door):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.storage = LocalStorage()

    def put(self, name: str, files: Files) -> str:
        for each, content in files.items():
            place = self.folder / name / each if each else self.folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        return str(self.folder / name)

    def remove(self, name: str) -> None:
        place = self.folder / name
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()


class FileUriDoor(LocalDoor):
    def put(self, name: str, files: Files) -> str:
        return "file://" + quote(super().put(name, files))


class RootDoor(LocalDoor):
    """Paths relative to a root."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.storage = LocalStorage(root=str(folder))

    def put(self, name: str, files: Files) -> str:
        super().put(name, files)
        return name


class DispatchedDoor(FileUriDoor):
    """The same through the dispatcher."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.storage = Storages([LocalStorage()])


DOORS: dict[str, type[Door]] = {
    "local": LocalDoor,
    "file": FileUriDoor,
    "root": RootDoor,
    "dispatched": DispatchedDoor,
}
