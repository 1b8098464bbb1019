"""Admissions that wait for room: requests before background loads, each in order of arrival."""

from collections.abc import Iterator
from itertools import chain

from modelmesh.cache.copy import Wanted


class Queue:
    """One place for each model."""

    def __init__(self) -> None:
        self._requests: dict[str, Wanted] = {}
        self._background: dict[str, Wanted] = {}

    def __len__(self) -> int:
        return len(self._requests) + len(self._background)

    def __contains__(self, model_id: str) -> bool:
        return model_id in self._requests or model_id in self._background

    def __iter__(self) -> Iterator[Wanted]:
        return chain(self._requests.values(), self._background.values())

    def after_adding(self, wanted: Wanted) -> tuple[list[Wanted], int]:
        """The queue as `add` would leave it, and the place of this model in it."""
        requests, background = list(self._requests.values()), list(self._background.values())
        if not self._has_place(wanted):
            background = [each for each in background if each.model_id != wanted.model_id]
            (background if wanted.background else requests).append(wanted)
        queue = requests + background
        place = next(i for i, each in enumerate(queue) if each.model_id == wanted.model_id)
        return queue, place

    def add(self, wanted: Wanted) -> None:
        """Queue it at the end of its class. A request moves up what waits in the background."""
        if not self._has_place(wanted):
            self._background.pop(wanted.model_id, None)
            line = self._background if wanted.background else self._requests
            line[wanted.model_id] = wanted

    def remove(self, model_id: str) -> bool:
        """Whether it was there."""
        line = self._requests if model_id in self._requests else self._background
        return line.pop(model_id, None) is not None

    def _has_place(self, wanted: Wanted) -> bool:
        if wanted.model_id in self._requests:
            return True
        return wanted.background and wanted.model_id in self._background
