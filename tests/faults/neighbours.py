"""Ten models in one shared host that must not notice what happens to an eleventh.

They are asked some 200 times a second, in bursts of one request each, and every answer is checked:
nine dummies tell their name and a sum that only their own request has, the tenth tells the process
that it lives in.
"""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.app.client import Client, answer_of
from tests.faults.suspects import File

BURST_S: Final = 0.05  # ten requests each: 200 a second
PATIENCE_S: Final = 40.0

_DUMMIES: Final = tuple(f"neighbour-{n}" for n in range(9))
_WITNESS: Final = "neighbour-witness"
ALL: Final = (*_DUMMIES, _WITNESS)


class Neighbours:
    """The ten models, registered and loaded."""

    def __init__(self, daemon: Client, folder: Path) -> None:
        self._daemon = daemon
        self._numbers = itertools.count(1)
        daemon.dummies(*_DUMMIES)
        daemon.register(_WITNESS, "sklearn", str(File.write(folder / "witness.pkl").path))
        for model_id in ALL:
            assert daemon.load(model_id) == "LOADED"

    def home(self) -> int:
        """The process that they live in now."""
        return int(self._daemon.infer(_WITNESS)["output-0"])

    def assert_unharmed(self) -> None:
        """Registered and loaded, all of them, and each answers for itself."""
        rows = self._daemon.models()
        states = {model_id: rows[model_id].state for model_id in ALL}
        assert states == dict.fromkeys(ALL, "LOADED")
        for model_id in ALL:
            self._check(model_id, 1.0, self._daemon.begin(model_id, 1.0))

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Under load while the body runs: no answer fails, none is wrong."""
        stop, failures = threading.Event(), list[str]()
        thread = threading.Thread(target=self._keep_asking, args=(stop, failures), name="traffic")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(2 * PATIENCE_S)
        assert not thread.is_alive()
        assert failures == []

    def _keep_asking(self, stop: threading.Event, failures: list[str]) -> None:
        asked: list[tuple[str, float, Any]] = []
        while not stop.wait(BURST_S):
            asked += self._burst()
        for question in asked + self._burst():
            try:
                self._check(*question)
            except Exception as error:
                failures.append(f"{question[0]}: {error!r}")

    def _burst(self) -> list[tuple[str, float, Any]]:
        return [
            (model_id, number, self._daemon.begin(model_id, number, timeout_s=PATIENCE_S))
            for model_id, number in zip(ALL, map(float, self._numbers), strict=False)
        ]

    def _check(self, model_id: str, number: float, future: Any) -> None:
        answer = answer_of(future.result())
        if model_id == _WITNESS:
            assert answer["output-0"] > 0
        else:
            assert answer.outputs == {"model": model_id, "sum": number}
