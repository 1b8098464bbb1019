"""A fleet of real daemons over a real etcd, to be mistreated: started, killed, stopped, paused.

Every daemon has a loopback address of its own, where it listens at ModelMesh's ports: a daemon that
comes back is at the same place, and nobody's outgoing connection takes its ports meanwhile. With
`linked=True` everything that daemons say, to etcd and to each other, goes through links of the
fault proxy, one per daemon, which tell callers apart.

What is true is read where nobody can be wrong about it: registrations and copies from etcd, through
its JSON gateway; what was loaded, from the log of the daemon that loaded it.
"""

import base64
import itertools
import json
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from modelmesh.domain.instances import InstanceRecord
from modelmesh.domain.records import ModelRecord
from modelmesh.pb import admin_pb2
from tests.app.client import CALL_S, Client, tells_of_the_store, until
from tests.app.daemon import START_S, Process
from tests.fleet.proxy import Address, Link, Proxy
from tests.registry.etcd_server import EtcdServer

# The contract's bounds, times five: the machine may be busy with others.
PATIENCE_S: Final = 60.0
PORTS: Final = {"grpc": 8033, "rest": 8008, "metrics": 2112, "probe": 8089, "peer": 8034}
_ETCD_PORT: Final = 2379
_STOP_S: Final = 120.0
_WIDTH: Final = 400
_DAILY: Final = ('"model loaded"', '"model unloads"')
# What a daemon says when it loses sight of a peer or of the store, and when it is back.
_LOST: Final = ("peer does not answer", "the registry's store does not answer")
_FOUND: Final = ("peer answers again", "the registry's store answers again")

_LOOK_S: Final = 0.2
_pause = threading.Event()  # never set

_addresses = (
    f"127.{1 + os.getpid() % 250}.{1 + os.getpid() // 250 % 250}.{n}" for n in itertools.count(1)
)


class Member:
    """One place in the fleet: an identity, an address, and the daemons that lived there."""

    def __init__(
        self,
        instance_id: str,
        host: str,
        environment: Mapping[str, str],
        within: Sequence[str] = (),
    ) -> None:
        self.instance_id = instance_id
        self.host = host
        self.environment = dict(environment)
        self._within = within
        self.lives: list[Process] = []
        self.client: Client

    @property
    def process(self) -> Process:
        return self.lives[-1]

    @property
    def target(self) -> str:
        return f"{self.host}:{PORTS['grpc']}"

    @property
    def runs(self) -> bool:
        return bool(self.lives) and self.process.status is None

    def launch(self, **settings: str) -> None:
        """Start a daemon here; it is not ready yet."""
        self.environment |= settings
        self.lives.append(Process(self.environment, self._within))
        self.client = Client(PORTS, self.host)

    def ready(self) -> None:
        """Wait until it is. One that meets an etcd that stands still does not start, and is started
        once more."""
        for _ in range(3):
            until(lambda: self.process.events("ready") or not self.runs, START_S * 2)
            if self.process.events("ready"):
                return
            self.process.wait()
            if not tells_of_the_store("".join(self.process.lines[-1:])):
                break
            self.client.close()
            self.launch()
        raise AssertionError(f"it does not start: {self.process.lines[-20:]}")

    def kill(self) -> None:
        """kill -9; it is gone when this returns."""
        self.process.signal(signal.SIGCONT)
        self.process.signal(signal.SIGKILL)
        assert self.process.wait() == -signal.SIGKILL
        self.client.close()

    def pause(self) -> None:
        self.process.signal(signal.SIGSTOP)
        until(lambda: _state_of(self.process.pid) == "T")

    def resume(self) -> None:
        self.process.signal(signal.SIGCONT)

    def stop(self) -> None:
        """SIGTERM; it ends well."""
        self.process.signal(signal.SIGTERM)
        assert self.process.wait(_STOP_S) == 0, self.process.lines[-20:]
        self.client.close()

    def restart(self, **settings: str) -> None:
        """Stop it if it runs, and start another one in its place."""
        if self.runs:
            self.stop()
        self.launch(**settings)
        self.ready()

    def said(self, event: str, **fields: object) -> list[dict[str, Any]]:
        """Lines of its log so far, over all its lives, in which these fields stand."""
        return [
            line
            for life in self.lives
            for line in life.events(event)
            if all(line.get(name) == value for name, value in fields.items())
        ]

    def loads(self, model_id: str = "") -> int:
        """How often a model was loaded here."""
        return len(self.said("model loaded", **({"model": model_id} if model_id else {})))

    def doubts(self, **fields: object) -> int:
        """How often it has lost sight of a peer, or of the store."""
        return sum(len(self.said(event, **fields)) for event in _LOST)

    def is_sure(self, **fields: object) -> bool:
        """Whether it sees now all that it has lost sight of."""
        return self.doubts(**fields) == sum(len(self.said(event, **fields)) for event in _FOUND)

    def complaints(self, most: int = 30) -> list[str]:
        """The last lines of its logs, those that only tell of daily life left out."""
        lines = [line[:_WIDTH] for life in self.lives for line in life.lines]
        return [line for line in lines if not any(each in line for each in _DAILY)][-most:]

    def end(self) -> None:
        """By force, whatever state it is in."""
        if self.lives:
            if self.runs:
                self.client.close()
                self.process.signal(signal.SIGCONT)
            self.process.end()


class Fleet:
    """Members by their ids. Made by `fleet_of`."""

    def __init__(self, etcd: EtcdServer, folder: Path, proxy: Proxy | None, **settings: str):
        self.etcd = etcd
        self.name = f"fleet-{uuid4().hex[:8]}"
        self.members: dict[str, Member] = {}
        self.settings = settings
        self.etcd_links: dict[str, Link] = {}
        self.peer_links: dict[str, Link] = {}
        self._proxy = proxy
        self._folder = folder / self.name
        self._folder.mkdir(parents=True)

    def __getitem__(self, instance_id: str) -> Member:
        return self.members[instance_id]

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members.values())

    @property
    def targets(self) -> list[str]:
        return [member.target for member in self]

    @property
    def any(self) -> Client:
        """A caller of one that runs."""
        return next(member.client for member in self if member.runs)

    # --- members

    def start(self, *instance_ids: str, **settings: str) -> None:
        """Start these, at once, and wait until all are ready."""
        for instance_id in instance_ids:
            self.add(instance_id, **settings).launch()
        for instance_id in instance_ids:
            self[instance_id].ready()
        comes_true(self.sees_itself)

    def add(
        self, instance_id: str, host: str = "", within: Sequence[str] = (), **settings: str
    ) -> Member:
        """A place for a daemon, where nothing runs yet."""
        host = host or next(_addresses)
        environment = {
            "KV_STORE": f"etcd:{self.etcd.address}",
            "MM_SERVICE_NAME": self.name,
            "MM_INSTANCE_ID": instance_id,
            "MM_BIND_HOST": host,
            "MM_DATA_DIR": str(self._folder / instance_id),
            "MM_SHARED_HOSTS": "1",
            "MM_TIER": "shared",
            "MM_CAPACITY_BYTES": "100000000",
            **self.settings,
            **settings,
        }
        if self._proxy is not None:
            environment |= self._link(instance_id, host, self._proxy)
        member = self.members[instance_id] = Member(instance_id, host, environment, within)
        return member

    def _link(self, instance_id: str, host: str, proxy: Proxy) -> dict[str, str]:
        """Put links before its etcd and before its peer port."""
        where, _, port = self.etcd.address.partition(":")
        to_etcd = proxy.link((where, int(port)), next(_addresses), _ETCD_PORT)
        to_peers = proxy.link((host, PORTS["peer"]), next(_addresses), PORTS["peer"], who=self._who)
        self.etcd_links[instance_id], self.peer_links[instance_id] = to_etcd, to_peers
        return {
            "KV_STORE": "etcd:{}:{}".format(*to_etcd.address),
            "MM_PEER_ADDRESS": "{}:{}".format(*to_peers.address),
        }

    def _who(self, address: Address) -> str:
        """Which member a connection comes from."""
        pids = {member.process.pid: member.instance_id for member in self if member.lives}
        return owner_of(address, pids)

    def sees_itself(self) -> bool:
        """Whether all that run have published themselves."""
        return {m.instance_id for m in self if m.runs} <= set(self.instances())

    def end(self) -> None:
        with ThreadPoolExecutor(len(self.members) or 1) as pool:
            list(pool.map(Member.end, self))

    def tell(self) -> None:
        """What their logs say: shown where a test has failed."""
        for member in self:
            print(f"--- {member.instance_id} at {member.host}", *member.complaints(), sep="\n")

    # --- models

    def dummies(self, *model_ids: str, **behaviour: object) -> None:
        """Register many at any daemon; all that run know them when this returns."""
        self.register(model_ids, "dummy", json.dumps(behaviour))

    def register(self, model_ids: Sequence[str], kind: str, key: str) -> None:
        for chunk in _chunks(model_ids, 5000):
            items = [
                admin_pb2.RegisterModelsRequest.Item(model_id=each, type=kind, key=key)
                for each in chunk
            ]
            request = admin_pb2.RegisterModelsRequest(models=items)
            comes_true(lambda request=request: self._registers(request))  # type: ignore[misc]
        comes_true(lambda: self.all_know(model_ids))

    def _registers(self, request: admin_pb2.RegisterModelsRequest) -> bool:
        """Whether all of them are registered; not, where the store was still for a moment."""
        answer = self.any.admin.RegisterModels(request, timeout=CALL_S * 2)
        errors = [result.error for result in answer.results if result.error]
        assert all(map(tells_of_the_store, errors)), errors
        return not errors

    def said(self, event: str) -> list[dict[str, Any]]:
        """What all of them have said of it so far."""
        return [line for member in self for line in member.said(event)]

    def loads(self, model_id: str = "") -> int:
        """How often the model (or any) was loaded, in the whole fleet."""
        return sum(member.loads(model_id) for member in self)

    def doubts(self) -> int:
        """How often one of them has lost sight of another one, or of the store. While that lasts
        a model may be loaded more often than it need be, and rightly."""
        return sum(member.doubts() for member in self)

    def is_sure(self) -> bool:
        """Whether everybody sees everybody, and the store."""
        return all(member.is_sure() for member in self)

    def all_know(self, model_ids: Iterable[str]) -> bool:
        """Whether every daemon that runs knows these models."""
        wanted = set(model_ids)
        return all(wanted <= member.client.models().keys() for member in self if member.runs)

    # --- what etcd has

    @property
    def root(self) -> str:
        return f"/tas-runtime/{self.name}/"

    def models(self) -> dict[str, ModelRecord]:
        """Every registration by its id."""
        return {
            key.rpartition("/")[2]: ModelRecord.from_json(value)
            for key, value in self.stored("registry/").items()
        }

    def instances(self) -> dict[str, InstanceRecord]:
        return {
            key.rpartition("/")[2]: InstanceRecord.from_json(value)
            for key, value in self.stored("instances/").items()
        }

    def holders(self, model_id: str) -> set[str]:
        """Where the record says that the model is loaded, or coming."""
        record = self.models().get(model_id)
        return set(record.instance_ids) if record is not None else set()

    def leases(self) -> list[str]:
        """Those under which the daemons exist."""
        return [row["lease"] for row in self._rows("instances/")]

    def stored(self, below: str) -> dict[str, bytes]:
        """Keys and values below this part of the fleet's root."""
        return {
            base64.b64decode(row["key"]).decode(): base64.b64decode(row.get("value", ""))
            for row in self._rows(below)
        }

    def _rows(self, below: str) -> list[dict[str, str]]:
        """As etcd gives them."""
        start = (self.root + below).encode()
        end = start[:-1] + bytes([start[-1] + 1])
        document = {"key": _base64(start), "range_end": _base64(end)}
        return list(self.etcd.ask("kv/range", document).get("kvs", []))

    def store(self, below: str, value: bytes) -> None:
        """Write a key, past all daemons."""
        key = (self.root + below).encode()
        self.etcd.ask("kv/put", {"key": _base64(key), "value": _base64(value)})

    def settled(self) -> bool:
        """Whether the records say of those that run what is true: who is named has it, loaded, and
        nobody has one that no record names. (What they say of others binds nobody.)"""
        recorded = {member.instance_id: set[str]() for member in self if member.runs}
        for model_id, record in self.models().items():
            for instance_id in recorded.keys() & record.instance_ids.keys():
                if instance_id not in record.loaded_in:
                    return False
                recorded[instance_id].add(model_id)
        return all(
            len(models) == loaded_in(self[instance_id].client)
            for instance_id, models in recorded.items()
        )


def comes_true(condition: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """As `until`, with fewer looks: these cost the machine more than they tell."""
    until(lambda: condition() or _pause.wait(_LOOK_S), within_s)


def loaded_in(client: Client) -> int:
    """How many models that daemon holds, by its own account."""
    return int(client.metrics()["modelmesh_instance_models_total"])


@contextmanager
def fleet_of(
    etcd: EtcdServer,
    folder: Path,
    *instance_ids: str,
    linked: bool = False,
    quiet: bool = False,
    **settings: str,
) -> Iterator[Fleet]:
    """A ready fleet with these members; nothing of it is left afterwards.

    `quiet`: nothing is said of what their logs say.
    """
    proxy = Proxy() if linked else None
    fleet = Fleet(etcd, folder, proxy, **settings)
    try:
        fleet.start(*instance_ids)
        yield fleet
    finally:
        fleet.end()
        if not quiet:
            fleet.tell()
        if proxy is not None:
            proxy.close()


def owner_of(address: Address, names: Mapping[int, str]) -> str:
    """The name of the process (by pid) that has this end of a loopback connection; else ""."""
    inode = _inode_of(address)
    for pid, name in names.items():
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):  # closed meanwhile
                if os.readlink(descriptor) == f"socket:[{inode}]":
                    return name
    return ""


def _inode_of(address: Address) -> str:
    host, port = address
    number = int.from_bytes(bytes(map(int, host.split("."))), "little")
    wanted = f"{number:08X}:{port:04X}"
    for table in ("tcp", "tcp6"):  # gRPC's sockets are of the newer kind, with mapped addresses
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[1].endswith(wanted):
                return columns[9]
    return "?"


def _state_of(pid: int) -> str:
    """The kernel's letter for what a process does."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _base64(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _chunks(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
