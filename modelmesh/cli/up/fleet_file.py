"""`fleet.json`: who runs where, for programs. It exists while all have been ready and the command
runs; a reader sees one state or the next, never half of one.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from modelmesh.cli.up.plan import Plan

NAME: Final = "fleet.json"


def document(
    plan: Plan, etcd_url: str, etcd_pid: int | None, pids: Mapping[str, int]
) -> dict[str, Any]:
    """The public contract. `etcd_pid` None: an etcd that is not ours."""
    pods = [
        {
            "id": pod.id,
            "pid": pids[pod.id],
            "grpc": pod.grpc,
            "rest": pod.rest,
            "metrics": pod.metrics,
        }
        for pod in plan.pods
    ]
    return {"etcd": {"url": etcd_url, "pid": etcd_pid}, "pods": pods}


class FleetFile:
    """The file in one data folder."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / NAME
        self._written: dict[str, Any] | None = None

    def write(self, now: dict[str, Any]) -> None:
        """Make this what readers see, if it is not already; raises OSError."""
        if now == self._written:
            return
        beside = self.path.with_suffix(".tmp")
        beside.write_text(json.dumps(now) + "\n")
        os.replace(beside, self.path)
        self._written = now

    def remove(self) -> None:
        """Nobody runs: the file of a fleet that has ended would name strangers' pids."""
        self.path.unlink(missing_ok=True)
        self._written = None
