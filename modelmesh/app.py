"""The composition root: one daemon, put together room by room, started and stopped in order.

    hosts begun -> store -> runtime -> cache -> serving -> faces -> ports -> static models -> ready

A daemon says ready only when its static models are there. On SIGTERM or SIGINT it stops being
ready, takes no new connections, lets running calls end within its bound, and leaves no process
behind. Nothing but wiring belongs here: no decision, no parsing.
"""

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from random import Random
from typing import Protocol

import structlog
import uvloop

from modelmesh import __version__
from modelmesh.api.asking import Tasks
from modelmesh.api.dataplane import parse as parse_dataplane
from modelmesh.api.grpc_port import STREAMING, GrpcPort
from modelmesh.api.operations import Operations
from modelmesh.api.rest import rest_handler
from modelmesh.api.status_codes import handler_with
from modelmesh.assembly import (
    dataplane,
    fleet_doors,
    grpc_limits,
    http_limits,
    member_config,
    open_store,
    runtime_of,
    static_models,
)
from modelmesh.daemon import Daemon, Doors
from modelmesh.errors import MeshError
from modelmesh.observe import collector, logs, spec
from modelmesh.observe.metrics import Gauges, Metrics
from modelmesh.observe.tasks import logged, stop
from modelmesh.peers.port import QUICK
from modelmesh.policy.constraints import parse as parse_constraints
from modelmesh.registry.tables import TabledStore
from modelmesh.runtime.door import Runtime
from modelmesh.runtime.hosts import HostedRuntime
from modelmesh.serving import static
from modelmesh.serving.gauges import read_gauges
from modelmesh.serving.instance import Instance
from modelmesh.serving.parts import Parts
from modelmesh.settings import Settings
from modelmesh.storage.local import LocalStorage
from modelmesh.storage.storages import Storages
from modelmesh.tasks.files import ConfigFile
from modelmesh.wire.grpcio import GrpcServer
from modelmesh.wire.http1 import Http1Server
from modelmesh.wire.kinds import MODEL_INFER

log = structlog.get_logger("app")

# How long a new member waits, at most, for those who leave to hand over what they have.
_CLEAR_S = 120.0
# Of the time that a stop may take: for handing copies over, while everything is served still.
_HAND_OVER_SHARE = 2 / 3


def wall_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class App:
    """One daemon. Make it on its loop; `start` it once, `stop` it once."""

    def __init__(
        self,
        settings: Settings,
        reading: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`reading`: around the first reading of the registry."""
        self.settings = settings
        self._reading = reading
        self.metrics_spec = spec.parse(settings.metrics)
        self.instance_id = settings.instance_id or (settings.pod_name or socket.gethostname())[-12:]
        self._store: TabledStore | None = None
        self._daemon: Daemon | None = None
        self._begun: HostedRuntime | None = None  # and not yet the daemon's to end
        self._grpc: GrpcServer | None = None
        self._peers: GrpcServer | None = None
        self._grpc_port: GrpcPort | None = None
        self._operations: Operations | None = None
        self._rest_tasks: Tasks | None = None
        self._http: dict[str, Http1Server] = {}
        self._following: list[asyncio.Task[None]] = []
        self._why_not_ready = "starting"

    @property
    def ports(self) -> dict[str, int]:
        """The ports bound, by what they serve."""
        servers = {"grpc": self._grpc, "peer": self._peers}
        grpc = {name: server.port for name, server in servers.items() if server is not None}
        return grpc | {name: server.port for name, server in self._http.items()}

    @property
    def instance(self) -> Instance:
        assert self._daemon is not None, "not started"
        return self._daemon.instance

    # --- start

    async def start(self) -> None:
        """Everything up, in order. Raises MeshError or OSError; then `stop` cleans up."""
        settings = self.settings
        models_to_have = static_models(settings)
        runtime = self._begin_runtime()
        with self._reading():
            self._store = await open_store(settings)
        daemon = self._daemon = self._make_daemon(self._store, runtime)
        self._follow_constraints(daemon)
        self._begun = None
        await daemon.start()
        await self._open_ports(daemon)
        await self._join(daemon)
        await static.register(models_to_have, daemon.management, daemon.vmodels, wall_ms())
        self._why_not_ready = ""
        if self._grpc_port is not None:
            self._grpc_port.changed()
        log.info("ready", **self.ports, version=__version__, instance=self.instance_id)

    def _begin_runtime(self) -> Runtime:
        """Hosts take seconds to import what models need: let them, while the registry is read."""
        runtime = runtime_of(self.settings)
        if isinstance(runtime, HostedRuntime):
            runtime.begin()
            self._begun = runtime
        return runtime

    def _make_daemon(self, store: TabledStore, runtime: Runtime) -> Daemon:
        settings = self.settings
        doors = Doors(
            store,
            runtime,
            Storages([LocalStorage()]),
            # The loop's own clock, but finer: uvloop tells whole milliseconds.
            time.monotonic,
            wall_ms,
            Random(),
            fleet_doors(settings, self.instance_id, store),
        )
        metrics = Metrics(
            per_model=self.metrics_spec.per_model, fq_names=self.metrics_spec.fq_names
        )
        return Daemon(settings, doors, member_config(settings, self.instance_id), metrics)

    def _follow_constraints(self, daemon: Daemon) -> None:
        if daemon.member is None:
            return
        view = daemon.member.view

        def apply(text: str) -> None:
            view.fits = parse_constraints(text)

        self._follow(self.settings.type_constraints_path, "type constraints", apply)

    def _follow(self, path: str, what: str, apply: Callable[[str], None]) -> None:
        """Read this file now, and whenever it changes."""
        if path:
            file = ConfigFile(path, what, apply)
            file.load()
            self._following.append(file.watch())

    async def _join(self, daemon: Daemon) -> None:
        """Open the peer port and be one of the fleet, if there is one."""
        settings, port = self.settings, daemon.peer_port
        if port is None:
            return
        host = settings.peer_host or settings.host
        # As the public port; but a call carries its hops beside its caller's headers.
        limits = grpc_limits(settings)
        limits = replace(limits, metadata_bytes=2 * limits.metadata_bytes)
        self._peers = GrpcServer(port, frozenset(), limits, QUICK)
        await self._peers.start(host, settings.peer_port)
        await daemon.join(settings.peer_address or f"{host}:{self._peers.port}")
        self._why_not_ready = "another instance is leaving"
        await daemon.until_clear(_CLEAR_S)

    async def _open_ports(self, daemon: Daemon) -> None:
        settings, parts, management = self.settings, daemon.parts, daemon.management
        grpc_port = self._grpc_port = GrpcPort(
            daemon.named,
            management,
            daemon.vmodels,
            lambda: not self._why_not_ready,
            wall_ms,
            multi_parallelism=settings.multi_parallelism,
            first=daemon.be_sure,
        )
        grpc_port.permit(dataplane(settings))
        self._follow(
            settings.dataplane_config_path,
            "dataplane configuration",
            lambda text: grpc_port.permit(parse_dataplane(text)),
        )
        operations = self._operations = Operations(
            parts.metrics, lambda: self._gauges(parts), lambda: self._why_not_ready
        )
        codes = handler_with(settings.status_codes)
        scrape = operations.scrape if self.metrics_spec.port is not None else None
        self._rest_tasks = rest_tasks = Tasks(first=daemon.be_sure)
        rest = codes(rest_handler(daemon.named, management, rest_tasks, scrape))
        limits = http_limits(settings)
        await self._listen("rest", Http1Server(rest, limits), settings.rest_port)
        if self.metrics_spec.port is not None:
            server = Http1Server(operations.metrics_port(), limits)
            await self._listen("metrics", server, self.metrics_spec.port)
        if settings.probe_port.upper() != "NONE":
            server = Http1Server(operations.probe_port(), limits)
            await self._listen("probe", server, int(settings.probe_port))
        self._grpc = GrpcServer(
            codes(grpc_port.handler), STREAMING, grpc_limits(settings), frozenset([MODEL_INFER])
        )
        await self._grpc.start(settings.host, settings.grpc_port)

    async def _listen(self, name: str, server: Http1Server, port: int) -> None:
        await server.start(self.settings.host, port)
        self._http[name] = server

    def _gauges(self, parts: Parts) -> Gauges:
        assert self._daemon is not None, "not started"
        return read_gauges(parts, self._daemon.fleet_gauges(), time.time())

    async def until_replaced(self) -> str:
        """Until somebody else is this instance; why."""
        assert self._daemon is not None, "not started"
        return await self._daemon.until_replaced()

    # --- stop

    async def stop(self) -> None:
        """Drain within the bound, then close everything; safe after a start that failed."""
        self._why_not_ready = "shutting down"
        await stop(*self._following)
        grace_s = self.settings.shutdown_timeout_s
        end = time.monotonic() + grace_s
        if self._daemon is not None:
            await logged(self._daemon.hand_over(grace_s * _HAND_OVER_SHARE), "hand over")
        await self._drain_ports(max(end - time.monotonic(), 1.0))
        for tasks in (self._grpc_port, self._operations, self._rest_tasks):
            if tasks is not None:
                await tasks.close()
        if self._daemon is not None:
            await self._daemon.stop(max(end - time.monotonic(), 0.0))
        elif self._store is not None:
            await self._store.close()
        if self._begun is not None:
            await self._begun.close(0.0)
        log.info("stopped")

    async def _drain_ports(self, grace_s: float) -> None:
        """The public ports first, then the peers' (who serve those that were sent here a moment
        ago); metrics and probes answer until the calls have ended."""
        if self._grpc_port is not None:
            self._grpc_port.drain()
        public = [self._http.get("rest"), self._grpc]
        await drain_in_turn([public, [self._peers]], grace_s)
        await asyncio.gather(
            *(self._http[name].drain(1.0) for name in ("metrics", "probe") if name in self._http)
        )


class Drains(Protocol):
    """A server: takes nothing new, and waits for what it has, within this bound."""

    async def drain(self, grace_s: float) -> None: ...


async def drain_in_turn(stages: Sequence[Sequence[Drains | None]], grace_s: float) -> None:
    """One stage after the other, all of them within the one bound."""
    loop = asyncio.get_running_loop()
    end = loop.time() + grace_s
    for servers in stages:
        left_s = max(end - loop.time(), 0.0)
        await asyncio.gather(*(each.drain(left_s) for each in servers if each is not None))


def run(settings: Settings, without_effect: Mapping[str, str]) -> int:
    """Run one daemon until a signal ends it; its exit status (1: it could not start).

    `without_effect`: variables that the operator set and that can mean nothing here, each with why.
    """
    logs.configure(settings.log_level, settings.log_format)
    for name, why in without_effect.items():
        log.warning("a variable has no effect", variable=name, why=why)
    try:
        return uvloop.run(_main(settings))
    except KeyboardInterrupt:
        return 0


async def _main(settings: Settings) -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        app = App(settings, reading=collector.uncollected)
    except ValueError as error:
        return _refused(str(error))
    starting = loop.create_task(app.start(), name="start")
    ending = loop.create_task(stopped.wait(), name="signal")
    why = ""
    try:
        await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        await starting
        why = await _until_asked_or_replaced(app, ending)
    except asyncio.CancelledError:
        pass
    except MeshError as error:
        why = error.failure.message
    except OSError as error:
        why = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    finally:
        ending.cancel()
        await app.stop()
    return _refused(why) if why else 0


async def _until_asked_or_replaced(app: App, asked: asyncio.Task[bool]) -> str:
    """Why the daemon ends by itself; "" if it was asked to."""
    replaced = asyncio.get_running_loop().create_task(app.until_replaced(), name="replaced")
    try:
        await asyncio.wait({asked, replaced}, return_when=asyncio.FIRST_COMPLETED)
        return replaced.result() if replaced.done() else ""
    finally:
        replaced.cancel()


def _refused(why: str) -> int:
    """The last line that an operator reads."""
    print(f"modelmesh: {why}", file=sys.stderr)
    return 1
