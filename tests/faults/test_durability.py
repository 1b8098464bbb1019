"""What was acknowledged is there: the daemon is killed with -9 in the midst of 2,000 registrations.

Each round kills at another instant, drawn from a seed that is part of the test's name: when so many
registrations have been acknowledged. The daemon that comes up on the same folder must have every
one of them, unaltered, from this round and from those before.
"""

import random
import signal
import threading
from pathlib import Path
from typing import Any, Final

import pytest

from modelmesh.pb import admin_pb2 as admin_pb
from modelmesh.pb import model_mesh_pb2 as mesh_pb
from tests.app.daemon import FREE_PORTS, Child, child, process

REGISTRATIONS: Final = 2000
AT_A_TIME: Final = 1000  # a daemon answers 1,024 management calls at once, and refuses more
ROUNDS: Final = 3
PATIENCE_S: Final = 60.0


class Registering:
    """Many registrations under way, and which of them were acknowledged."""

    def __init__(self, daemon: Child, prefix: str, kill_after: int) -> None:
        self._daemon = daemon
        self._prefix = prefix
        self._kill_after = kill_after
        self._slots = threading.Semaphore(AT_A_TIME)
        self._lock = threading.Lock()
        self.killed = threading.Event()
        self.acknowledged: dict[str, str] = {}

    def run(self) -> None:
        """Send them all, as fast as places become free; the daemon is killed on the way."""
        futures = []
        for number in range(REGISTRATIONS):
            self._slots.acquire(timeout=PATIENCE_S)
            model_id, key = f"{self._prefix}-{number}", f'{{"size_bytes": {number}}}'
            info = mesh_pb.ModelInfo(type="dummy", key=key)
            request = mesh_pb.RegisterModelRequest(modelId=model_id, modelInfo=info)
            future = self._daemon.mesh.registerModel.future(request, timeout=PATIENCE_S)
            future.add_done_callback(lambda done, m=model_id, k=key: self._done(m, k, done))
            futures.append(future)
        for future in futures:
            future.exception()

    def _done(self, model_id: str, key: str, future: Any) -> None:
        with self._lock:
            if future.exception() is None:
                self.acknowledged[model_id] = key
            if len(self.acknowledged) >= self._kill_after and not self.killed.is_set():
                self.killed.set()
                self._daemon.process.signal(signal.SIGKILL)
        self._slots.release()


@pytest.mark.timeout(300)  # four starts and 6,000 registrations, on a busy machine too
@pytest.mark.parametrize("seed", [1])
def test_no_acknowledged_registration_is_lost(seed: int, tmp_path: Path) -> None:
    chosen = random.Random(seed)
    acknowledged: dict[str, str] = {}
    for number in range(ROUNDS):
        with process(**FREE_PORTS, MM_DATA_DIR=str(tmp_path)) as started:
            daemon = Child(started)
            assert_all_there(daemon, acknowledged)
            # So early that some are unsent: the daemon cannot have answered all of them by then.
            kill_after = chosen.randrange(1, REGISTRATIONS - AT_A_TIME)
            registering = Registering(daemon, f"round-{number}", kill_after)
            registering.run()
            daemon.close()
            assert started.wait() == -signal.SIGKILL
        assert kill_after <= len(registering.acknowledged) < REGISTRATIONS, "killed on the way"
        acknowledged |= registering.acknowledged
    with child(tmp_path, SHUTDOWN_TIMEOUT_MS="2000") as daemon:
        assert_all_there(daemon, acknowledged)


def assert_all_there(daemon: Child, acknowledged: dict[str, str]) -> None:
    request = admin_pb.ListModelsRequest(page_size=10_000)
    found = {
        row.model_id: row.key for row in daemon.admin.ListModels(request, timeout=PATIENCE_S).models
    }
    assert acknowledged.items() <= found.items()
