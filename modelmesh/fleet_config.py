"""What a member of a fleet is made with: its own facts, and the doors to the others. Data."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from modelmesh.peers.door import Peers
from modelmesh.policy.constraints import Constraints
from modelmesh.registry.tables import TabledStore

# What a later version may write that this one does not know: for tests of a fleet of both.
LATER_FIELDS: Final[Mapping[str, object]] = {"later": {"than": "this version"}}
LATER_HEADERS: Final = (("mm-hop-later", "1"),)


@dataclass(frozen=True, slots=True)
class MemberConfig:
    """What a member takes from the settings."""

    instance_id: str
    lease_s: float
    load_timeout_s: float
    failure_expiry_s: float
    max_load_failures: int
    default_model_size_bytes: int
    version: int = 0  # of this program, growing
    scaleup_rpm: int = 2000
    bandwidth_pct: int = 90
    log_each_invoke: bool = False
    log_level: str = ""  # "": whoever made this process decides
    zone: str = ""
    location: str = ""
    labels: tuple[str, ...] = ()
    constraints: Constraints | None = None
    skew: bool = False  # behave as a later version may


@dataclass(slots=True)
class FleetDoors:
    """The doors through which the others are reached.

    `answers`: whether the store answers. `look(key)` reads one key into the table. `on_answers`
    tells of every change of `answers`. `accept_restore()`: what a restored store lacks shall be
    gone; how much of it was kept until now.
    """

    store: TabledStore
    peers: Peers
    answers: Callable[[], bool]
    look: Callable[[str], Awaitable[object]]
    on_answers: Callable[[Callable[[bool], None]], Callable[[], None]]
    on_restored: Callable[[Callable[[], None]], Callable[[], None]]
    accept_restore: Callable[[], int] = lambda: 0
