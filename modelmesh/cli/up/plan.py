"""Which port is whose, from one number: so that a person can guess them and a second fleet can be
put beside the first. Pure.

    P, P+1                  etcd: clients, peers
    P+4, +5, +6, +7         pod a: gRPC, REST, metrics, other daemons
    P+8 ...                 pod b, and so on: all within P to P+99
"""

import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

# Far from ModelMesh's 8033, 8008, 8089 and 2112 and from etcd's 2379, so that `make run` and a
# local etcd may run beside it; below 32768, where kernels begin to hand out ports to anybody.
BASE_PORT: Final = 18000
SPAN: Final = 100
PODS: Final = 3  # the fewest among which two can leave and somebody still answers
_PORTS_EACH: Final = 4
MOST_PODS: Final = SPAN // _PORTS_EACH - 1  # etcd has the first four
_LAST_PORT: Final = 65535


class BadPlan(ValueError):
    """One sentence that says why there can be no such fleet."""


@dataclass(frozen=True, slots=True)
class Pod:
    """One daemon's name and ports."""

    id: str
    grpc: int
    rest: int
    metrics: int
    peer: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole fleet's ports."""

    etcd_client: int
    etcd_peer: int
    pods: tuple[Pod, ...]

    def ports(self, *, own_etcd: bool) -> Iterator[tuple[int, str]]:
        """Every port that must be free, with what it is for."""
        if own_etcd:
            yield self.etcd_client, "etcd"
            yield self.etcd_peer, "etcd's peers"
        for pod in self.pods:
            yield pod.grpc, f"gRPC of {pod.id}"
            yield pod.rest, f"REST of {pod.id}"
            yield pod.metrics, f"metrics of {pod.id}"
            yield pod.peer, f"other daemons at {pod.id}"


def plan(pods: int, base_port: int = BASE_PORT) -> Plan:
    """The ports of so many pods; raises BadPlan."""
    if not 1 <= pods <= MOST_PODS:
        raise BadPlan(f"--pods must be from 1 to {MOST_PODS}, not {pods}")
    if not 1 <= base_port <= _LAST_PORT - SPAN + 1:
        most = _LAST_PORT - SPAN + 1
        raise BadPlan(f"--base-port must be from 1 to {most}, not {base_port}")
    firsts = range(base_port + _PORTS_EACH, base_port + SPAN, _PORTS_EACH)
    named = zip(string.ascii_lowercase, firsts, strict=False)
    every = tuple(Pod(name, port, port + 1, port + 2, port + 3) for name, port in named)
    return Plan(base_port, base_port + 1, every[:pods])
