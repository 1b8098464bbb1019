"""What is started: the command line, environment and log of each child. Pure.

A daemon is configured by its environment alone, and gets this command's own beneath it: who sets
MM_LOG_LEVEL for `modelmesh up` sets it for all. What makes a pod that pod (its id, its ports, its
place) is not the environment's to say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelmesh.cli.up.plan import Plan, Pod

HOST: Final = "127.0.0.1"
ETCD: Final = "etcd"
_MIB: Final = 1 << 20
_SIZED_BY: Final = ("MM_CAPACITY_BYTES", "MEM_LIMIT_MB")


@dataclass(frozen=True, slots=True)
class Child:
    """One process to keep: it is ready when `GET ready_path` at `port` answers 200."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    port: int
    ready_path: str


@dataclass(frozen=True, slots=True)
class Common:
    """What all daemons of a fleet share. `capacity_bytes` 0: each has its part of the memory."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    data_dir: Path
    etcd_url: str
    capacity_bytes: int
    memory_bytes: int


def etcd_child(
    plan: Plan, argv: Sequence[str], environment: Mapping[str, str], data_dir: Path
) -> Child:
    """Our own etcd, whose command line somebody else knows."""
    log = data_dir / f"{ETCD}.log"
    return Child(ETCD, tuple(argv), environment, log, plan.etcd_client, "/health")


def daemons(plan: Plan, common: Common) -> list[Child]:
    """One child for each pod of the plan."""
    return [_daemon(pod, len(plan.pods), common) for pod in plan.pods]


def _daemon(pod: Pod, pods: int, common: Common) -> Child:
    own = {
        "MM_INSTANCE_ID": pod.id,
        "MM_SVC_GRPC_PORT": str(pod.grpc),
        "MM_REST_PORT": str(pod.rest),
        "MM_METRICS": f"prometheus:port={pod.metrics};scheme=http",
        "MM_PEER_PORT": str(pod.peer),
        "MM_PROBE_PORT": "NONE",  # /ready is on the metrics port too
        "MM_DATA_DIR": str(common.data_dir / pod.id),
        "KV_STORE": f"etcd:{common.etcd_url}",
        **_memory(pods, common),
    }
    log = common.data_dir / f"{pod.id}.log"
    environment = {**common.environment, **own}
    return Child(pod.id, tuple(common.argv), environment, log, pod.metrics, "/ready")


def _memory(pods: int, common: Common) -> dict[str, str]:
    if common.capacity_bytes:
        return {"MM_CAPACITY_BYTES": str(common.capacity_bytes)}
    if any(common.environment.get(name) for name in _SIZED_BY):
        return {}
    # Each would take most of the machine: it does not know that it has neighbours.
    return {"MEM_LIMIT_MB": str(max(common.memory_bytes // pods // _MIB, 1))}
