"""The daemon's end of the zygote: start it, ask it for hosts, notice its death, start it again.

The daemon execs, and never forks itself: it has threads and an event loop. What it asks for comes
back as a pid with a pidfd (so that no signal ever reaches a recycled pid) and, when the host ends,
its wait status. The zygote's death costs no host: their keepers live on, and the next spawn starts
another zygote. The environment of zygote and hosts is an allow-list: models are code, and the
daemon's environment holds secrets.

Protocol: runtime_adapters/zygote.py.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from modelmesh.errors import Code, Failure, Fault, MeshError

log = structlog.get_logger("runtime")

MESSAGE_BYTES: Final = 1 << 16
END_S: Final = 5.0

# What a host may know of the daemon's environment.
PASSED_ON: Final = frozenset(
    {"PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"}
    | {"MALLOC_ARENA_MAX"}  # the C library's own, which ModelMesh's users know
)


@dataclass(frozen=True, slots=True)
class ZygoteConfig:
    """`runtimes` as in MM_RUNTIMES; `options` are the operator's settings for runtimes."""

    runtimes: str = ""
    model_threads: int = 1
    start_s: float = 60.0
    spawn_s: float = 10.0  # a fork takes milliseconds: a zygote that takes longer hangs
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """What hosts of this zygote can run."""

    types: tuple[str, ...]
    quick_types: frozenset[str]  # never worth a process of their own


class HostProcess:
    """A host as a process: its pid, a pidfd, and what became of it."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        # the wait status; None if nobody could tell
        self.status: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    def kill(self) -> None:
        """End it now; its keeper ends what it leaves behind."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Let go of the pidfd."""
        os.close(self.pidfd)

    def disown(self) -> None:
        """Nobody wants it any more."""
        self.kill()
        self.close()

    def tell(self, status: int | None) -> None:
        """It has ended so."""
        if not self.status.done():
            self.status.set_result(status)


def how_it_ended(status: int | None) -> str:
    """A wait status in words."""
    if status is None:
        return "killed together with its keeper"
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return f"exit status {os.waitstatus_to_exitcode(status)}"


def host_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of zygote and hosts.

    One thread for every numeric library: a zygote with more could not fork. Hosts may have more.
    """
    passed = {
        name: value
        for name, value in environment.items()
        if name in PASSED_ON or name.startswith("LC_")
    }
    return passed | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONMALLOC": "malloc",  # so that a model's weight is what the allocator says
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


class _Generation:
    """One zygote process, and the hosts born of it, which may outlive it."""

    def __init__(self, config: ZygoteConfig) -> None:
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self.dead = False
        self._end: asyncio.Future[None] = self._loop.create_future()
        self._spawn_s = config.spawn_s
        self._births: dict[int, asyncio.Future[HostProcess]] = {}
        self._living: dict[int, HostProcess] = {}
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        what = json.dumps(
            {
                "runtimes": config.runtimes,
                "options": dict(config.options),
                "threads": config.model_threads,
            }
        )
        with theirs:
            fd = str(theirs.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "runtime_adapters.zygote", fd, what],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=host_environment(os.environ),
            )
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(self._pidfd, self._zygote_ended)
        self._loop.add_reader(self._control.fileno(), self._read)

    async def spawn(
        self, host: int, fds: tuple[int, int, int], data_limit_bytes: int, options: dict[str, Any]
    ) -> HostProcess:
        """A host with these descriptors (link, journal, output), which the caller closes."""
        birth: asyncio.Future[HostProcess] = self._loop.create_future()
        self._births[host] = birth
        request = {"host": host, "data_limit_bytes": data_limit_bytes, "options": options}
        try:
            socket.send_fds(self._control, [json.dumps(request).encode()], fds)
            async with asyncio.timeout(self._spawn_s):
                return await birth
        except TimeoutError:
            await self._kill()  # it hangs; its hosts live on, and the next spawn starts another
            raise no_host(f"the zygote gave no host in {self._spawn_s:g} s") from None
        except OSError as error:
            raise no_host(f"the zygote gave no host: {error}") from None
        except asyncio.CancelledError:
            if not birth.cancelled() and birth.exception() is None:
                birth.result().disown()  # born in the moment that who asked for it went
            raise
        finally:
            self._births.pop(host, None)

    def _read(self) -> None:
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 1)
            except BlockingIOError:
                return
            except OSError:
                message, fds = b"", []
            if not message:
                self._loop.remove_reader(self._control.fileno())
                self._orphan()
                return
            self._take(json.loads(message), fds)

    def _take(self, message: dict[str, Any], fds: list[int]) -> None:
        if "ready" in message:
            _resolve(self.ready, message["ready"])
        elif "failed" in message:
            _refuse(self.ready, no_host(f"the zygote did not start: {message['failed']}"))
        elif "pid" in message:
            self._born(message["host"], HostProcess(message["pid"], fds[0]))
        elif "error" in message:
            _refuse(self._births.get(message["host"]), no_host(message["error"]))
        else:  # `status`, or `keeper_lost`
            process = self._living.pop(message["host"], None)
            if process is not None:
                process.tell(message.get("status"))
            self._close_if_over()

    def _born(self, host: int, process: HostProcess) -> None:
        birth = self._births.get(host)
        if birth is None or birth.done():  # who asked has gone
            process.disown()
            return
        self._living[host] = process
        birth.set_result(process)

    def _zygote_ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.dead = True
        self._end.set_result(None)
        code = self._process.wait()
        failure = no_host(f"the zygote has ended ({code})")
        _refuse(self.ready, failure)
        for birth in self._births.values():
            _refuse(birth, failure)
        self._close_if_over()

    def _close_if_over(self) -> None:
        if self.over:
            self._close_control()

    @property
    def over(self) -> bool:
        """Dead, and so are all its hosts."""
        return self.dead and not self._living

    def _orphan(self) -> None:
        """No keeper is left to tell how these ended."""
        living, self._living = self._living, {}
        for process in living.values():
            process.tell(None)
        self._close_if_over()

    def _close_control(self) -> None:
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()

    async def close(self) -> None:
        """Hang up: the zygote exits, and keepers end what hosts are left.

        One that is not ready, or that hangs, would not notice: it is ended by force.
        """
        self._close_control()
        self._orphan()
        if self.ready.done():
            await asyncio.wait([self._end], timeout=END_S)
        if not self.dead:
            await self._kill()

    async def _kill(self) -> None:
        self._process.kill()
        await asyncio.wait([self._end], timeout=END_S)


class ZygoteClient:
    """Where hosts come from. One zygote at a time; the next one starts when it is needed."""

    def __init__(self, config: ZygoteConfig) -> None:
        self._config = config
        self._now: _Generation | None = None
        self._before: list[_Generation] = []
        self._closed = False

    @property
    def pid(self) -> int:
        """The zygote's pid (0: none runs)."""
        return self._now.pid if self._now and not self._now.dead else 0

    def begin(self) -> None:
        """Start a zygote and wait for nothing; what fails, `start` tells."""
        with suppress(MeshError):
            self._living()

    async def start(self) -> RuntimeFacts:
        """Start a zygote unless one runs. UNAVAILABLE if it will not."""
        ready = await self._ready(self._living())
        for name, why in ready["missing"].items():
            log.warning("a runtime cannot be imported", runtime=name, why=why)
        log.info("zygote ready", pid=self.pid, types=ready["types"], **ready["versions"])
        return RuntimeFacts(tuple(ready["types"]), frozenset(ready["quick_types"]))

    async def spawn(
        self, host: int, fds: tuple[int, int, int], data_limit_bytes: int, options: dict[str, Any]
    ) -> HostProcess:
        """A host from the running zygote, or from the next one if this one dies over it."""
        generation = self._living()
        try:
            await self._ready(generation)
            return await generation.spawn(host, fds, data_limit_bytes, options)
        except MeshError:
            if not generation.dead:
                raise
        generation = self._living()
        await self._ready(generation)
        return await generation.spawn(host, fds, data_limit_bytes, options)

    def _living(self) -> _Generation:
        if self._closed:
            raise no_host("the runtime is closed")
        if self._now is None or self._now.dead:
            if self._now is not None:
                log.warning("zygote died, starting another", pid=self._now.pid)
                self._before = [each for each in self._before if not each.over] + [self._now]
            try:
                self._now = _Generation(self._config)
            except OSError as error:
                raise no_host(f"no zygote can be started: {error}") from None
        return self._now

    async def _ready(self, generation: _Generation) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._config.start_s):
                return await asyncio.shield(generation.ready)
        except TimeoutError:
            raise no_host(f"the zygote was not ready in {self._config.start_s} s") from None

    async def close(self) -> None:
        """End the zygote, and with it every host that is left."""
        self._closed = True
        for generation in [*self._before, *([self._now] if self._now else [])]:
            await generation.close()
        self._before, self._now = [], None


def no_host(message: str) -> MeshError:
    """No process to run a model in, for now."""
    return MeshError(
        Failure(Code.UNAVAILABLE, message, Fault.CAPACITY, retry_after_s=1.0, executed=False)
    )


def _resolve(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _refuse(future: asyncio.Future[Any] | None, error: MeshError) -> None:
    if future is not None and not future.done():
        future.set_exception(error)
        future.exception()  # seen: nobody may be waiting any more
