"""Settings into the parts of one daemon: which store, which runtime, which limits.

Each function reads what its room needs from the settings, so that rooms never see them whole.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import structlog

from modelmesh import __version__
from modelmesh.api.dataplane import Dataplane
from modelmesh.api.dataplane import parse as parse_dataplane
from modelmesh.errors import Code, Failure, MeshError, invalid
from modelmesh.fleet_config import LATER_HEADERS, FleetDoors, MemberConfig
from modelmesh.observe import machine
from modelmesh.peers.channels import grpc_peers
from modelmesh.peers.door import Peers
from modelmesh.policy.constraints import Constraints
from modelmesh.policy.constraints import parse as parse_constraints
from modelmesh.registry.etcd.config import parse as parse_etcd
from modelmesh.registry.etcd.store import EtcdStore
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.mirror import Mirror
from modelmesh.registry.sqlite import SqliteStore
from modelmesh.registry.store import INSTANCES
from modelmesh.registry.tables import TabledStore
from modelmesh.runtime.door import Runtime, RuntimeStatus
from modelmesh.runtime.external import ExternalConfig, ExternalRuntime
from modelmesh.runtime.hosts import HostedRuntime, HostsConfig
from modelmesh.runtime.inline import InlineRuntime
from modelmesh.runtime.limiter import inflight_limit
from modelmesh.runtime.zygote import ZygoteConfig
from modelmesh.serving import static
from modelmesh.settings import Settings
from modelmesh.wire.grpcio import GrpcLimits
from modelmesh.wire.http1 import Http1Limits

_CAPACITY_SHARE = 0.7  # of memory: hosts' bases, bodies and the daemon itself need the rest
_MOST_SHARED_HOSTS = 8
_ANY = ("0.0.0.0", "::", "[::]")  # every address of this machine: to listen at, not to call
_HOST_OF_ITS_OWN_BYTES = 3 << 20  # a process host with a model of nothing (3.6 MiB were measured)


log = structlog.get_logger("app")


async def open_store(settings: Settings) -> TabledStore:
    """The registry named by KV_STORE, or SQLite in the data folder."""
    kind, _, where = settings.kv_store.partition(":")
    if kind == "memory":
        return MemoryStore()
    if kind == "etcd":
        return await _open_etcd(settings, where)
    if kind not in ("", "sqlite"):
        message = f"KV_STORE={kind}: is not supported; these are: etcd:WHERE, memory, sqlite:PATH"
        raise invalid(message)
    path = Path(where) if where else Path(settings.data_dir) / "registry.db"
    return await SqliteStore.open(_in_folder(str(path.parent), path.name))


def _in_folder(folder: str, name: str) -> str:
    """A file of ours there; the folder is made if need be."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"the data folder {folder} cannot be made: {error.strerror}"
        raise MeshError(Failure(Code.FAILED_PRECONDITION, message)) from error
    return str(Path(folder) / name)


async def _open_etcd(settings: Settings, where: str) -> Mirror:
    read = partial(
        parse_etcd,
        where,
        settings.service_name,
        _read_file,
        store_prefix=settings.kvstore_prefix,
    )
    config = read()
    log.info("registry", etcd=config.endpoints, below=config.root)
    if hint := doubt_of_address(settings, config.endpoints):
        log.warning("others may not reach this daemon", hint=hint)
    snapshot = _in_folder(settings.data_dir, "registry.snapshot")
    store = await EtcdStore.open(config, reread=read)
    return await Mirror.open(store, Random(), snapshot_path=snapshot, confirm=DirectHealth())


def doubt_of_address(settings: Settings, endpoints: Sequence[str]) -> str:
    """Why others may not reach the peer port under the address that is published, or "".

    INVALID_ARGUMENT where nobody can: whoever calls 0.0.0.0 reaches himself.
    """
    host = settings.peer_host or settings.host
    if settings.peer_address or not (host in _ANY or _is_loopback(host)):
        return ""
    if host in _ANY:
        name = "WKUBE_POD_IPADDR" if settings.peer_host else "MM_BIND_HOST"
        raise invalid(
            f"{name}={host} is no address at which other daemons could call this one:"
            " set WKUBE_POD_IPADDR (or MM_PEER_ADDRESS) to one"
        )
    if all(_is_loopback(endpoint.rpartition(":")[0]) for endpoint in endpoints):
        return ""
    return f"etcd is elsewhere, but {host} is published: set WKUBE_POD_IPADDR or MM_PEER_ADDRESS"


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host in ("::1", "[::1]")


def _number(version: str) -> int:
    """1.2.3 as 1002003: records compare versions as numbers."""
    number = 0
    for part in version.split(".")[:3]:
        number = number * 1000 + int(part)
    return number


class DirectHealth:
    """Tells a mirror which instances that its store suddenly lacks are gone in truth: those that
    do not answer. Of anything else it cannot tell."""

    peers: Peers | None = None  # until there are any, nobody can be asked

    async def __call__(self, prefix: str, names: Sequence[str]) -> Collection[str] | None:
        if prefix != INSTANCES or self.peers is None:
            return None
        answers = await asyncio.gather(*(self.peers.ask_health(name) for name in names))
        return [name for name, alive in zip(names, answers, strict=True) if not alive]


def _read_file(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def fleet_doors(settings: Settings, instance_id: str, store: TabledStore) -> FleetDoors | None:
    """How the others are reached; None where the store is this daemon's alone."""
    if not isinstance(store, Mirror):
        return None
    peers = grpc_peers(
        instance_id,
        message_bytes=settings.max_message_bytes,
        further=LATER_HEADERS if settings.skew else (),
    )
    if isinstance(store.confirm, DirectHealth):
        store.confirm.peers = peers
    return FleetDoors(
        store,
        peers,
        lambda: store.answers,
        store.look,
        store.availability.subscribe,
        store.subscribe_restored,
        store.accept_restore,
    )


def member_config(settings: Settings, instance_id: str) -> MemberConfig:
    """What a member of a fleet takes from the settings."""
    return MemberConfig(
        instance_id=instance_id,
        skew=settings.skew,
        lease_s=settings.lease_s,
        load_timeout_s=settings.load_timeout_s,
        failure_expiry_s=settings.load_failure_expiry_s,
        max_load_failures=settings.max_load_failures,
        default_model_size_bytes=settings.default_model_size_bytes,
        version=_number(__version__),
        scaleup_rpm=settings.scaleup_rpm,
        bandwidth_pct=settings.bandwidth_pct,
        log_each_invoke=settings.log_each_invoke,
        log_level=settings.log_level,
        zone=settings.zone,
        location=settings.location,
        labels=tuple(each.strip() for each in settings.labels.split(",") if each.strip()),
        constraints=_constraints(settings),
    )


def _constraints(settings: Settings) -> Constraints | None:
    """Those of the variable; a file's are read when the daemon is made."""
    if not settings.type_constraints:
        return None
    try:
        return parse_constraints(settings.type_constraints)
    except ValueError as error:
        raise invalid(f"MM_TYPE_CONSTRAINTS: {error}") from None


def dataplane(settings: Settings) -> Dataplane:
    """What callers may use, as the variable says; a file is read when the port is made."""
    try:
        return parse_dataplane(settings.dataplane_config)
    except ValueError as error:
        raise invalid(f"MM_DATAPLANE_CONFIG: {error}") from None


def runtime_of(settings: Settings) -> Runtime:
    """An external runtime if one is named; our own hosts, or this process, otherwise."""
    if _is_external(settings):
        return ExternalRuntime(external_config(settings))
    if settings.tier == "inline":
        return InlineRuntime(hosts_config(settings))
    return HostedRuntime(hosts_config(settings))


def hosts_config(settings: Settings) -> HostsConfig:
    """What our own hosts take from the settings."""
    shared = settings.shared_hosts or min(max(machine.cores() - 1, 1), _MOST_SHARED_HOSTS)
    return HostsConfig(
        tier=settings.tier,
        shared_hosts=shared,
        shared_file_bytes=settings.shared_file_bytes,
        set_aside_s=settings.set_aside_s,
        load_timeout_s=settings.load_timeout_s,
        predict_timeout_s=settings.predict_timeout_s,
        load_concurrency=settings.load_concurrency,
        quarantine_crashes=settings.quarantine_crashes,
        load_failure_expiry_s=settings.load_failure_expiry_s,
        default_model_size_bytes=settings.default_model_size_bytes,
        capacity_bytes=settings.capacity_bytes or _share_bytes(settings),
        zygote=ZygoteConfig(
            runtimes=settings.runtimes,
            model_threads=settings.model_threads,
            start_s=settings.runtime_start_s,
            options={"predict_proba": "true"} if settings.predict_proba else {},
        ),
    )


def external_config(settings: Settings) -> ExternalConfig:
    """What a model server in its own container takes from the settings."""
    return ExternalConfig(
        runtime_port=settings.runtime_port,
        runtime_socket=settings.runtime_socket,
        serving_port=settings.serving_port,
        serving_socket=settings.serving_socket,
        start_s=settings.runtime_start_s,
        load_timeout_s=settings.load_timeout_s,
        predict_timeout_s=settings.predict_timeout_s,
        default_model_size_bytes=settings.default_model_size_bytes,
        max_message_bytes=settings.max_message_bytes,
        max_inflight_per_model=settings.max_inflight_per_model,
    )


def capacity_bytes(settings: Settings, status: RuntimeStatus) -> int:
    """Memory for models: the operator's number, the runtime's, or a share of the machine's less
    what the hosts take without any model. Raises MeshError where no model would find room."""
    if settings.capacity_bytes:
        capacity, whence = settings.capacity_bytes, "MM_CAPACITY_BYTES gives"
    elif status.capacity_bytes:
        capacity, whence = status.capacity_bytes, "the runtime's capacity gives"
    else:
        share = _share_bytes(settings)
        capacity = share - status.base_bytes
        whence = f"{share} bytes of memory less {status.base_bytes} of hosts without a model leave"
    least = _least_bytes(settings, status)
    if capacity < least:
        message = (
            f"{whence} {max(capacity, 0)} bytes to models, too few for one of unknown size"
            f" ({least} bytes); give more, or lower MM_DEFAULT_MODEL_SIZE_BYTES"
        )
        raise MeshError(Failure(Code.FAILED_PRECONDITION, message))
    return capacity


def _least_bytes(settings: Settings, status: RuntimeStatus) -> int:
    """What one model takes about which nothing is known: with less a daemon would only refuse."""
    alone = settings.tier == "process" and not _is_external(settings)
    return status.default_model_size_bytes + (_HOST_OF_ITS_OWN_BYTES if alone else 0)


def _is_external(settings: Settings) -> bool:
    return bool(settings.runtime_port or settings.runtime_socket)


def _share_bytes(settings: Settings) -> int:
    """The part of the memory here that hosts and their models may take."""
    here = machine.memory_bytes()
    return int(min(settings.memory_limit_bytes or here, here) * _CAPACITY_SHARE)


def inflight_rule(settings: Settings, runtime: Runtime) -> Callable[[str], int]:
    """Calls in flight that one copy takes, by model id."""
    external = isinstance(runtime, ExternalRuntime)
    if settings.max_inflight_per_model or not external:
        limit = inflight_limit(settings.max_inflight_per_model, 0, external=external)
        return lambda _model_id: limit

    def of(model_id: str) -> int:
        loaded = runtime.describe(model_id)
        return inflight_limit(0, loaded.max_concurrency if loaded else 0, external=True)

    return of


def static_models(settings: Settings) -> list[static.StaticModel]:
    """The models to be had from the start."""
    if settings.auto_register_path:
        try:
            return static.parse(Path(settings.auto_register_path).read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise invalid(f"MM_AUTO_REGISTER_MODELS_PATH cannot be read: {error}") from error
    return static.parse(settings.auto_register) if settings.auto_register else []


def grpc_limits(settings: Settings) -> GrpcLimits:
    """Limits of the public gRPC port."""
    age_s = settings.max_connection_age_s or settings.shutdown_timeout_s / 2
    return GrpcLimits(
        message_bytes=settings.max_message_bytes,
        metadata_bytes=settings.max_headers_bytes,
        max_connection_age_s=max(age_s, 0.0),
        max_connection_age_grace_s=settings.max_connection_age_grace_s,
    )


def http_limits(settings: Settings) -> Http1Limits:
    """Limits of the HTTP ports."""
    return replace(
        Http1Limits(),
        header_bytes=settings.max_headers_bytes,
        body_bytes=settings.max_message_bytes,
        head_s=settings.http_header_s,
        idle_s=settings.http_idle_s,
        calls=settings.max_concurrent_calls,
    )
