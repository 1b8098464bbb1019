"""Real daemons for tests: in a process of its own as an operator starts it, or in a thread here.

`child` is the whole truth: `python -m modelmesh serve`, its log, its process tree, its exit status.
`running` is the same composition root on a loop in a thread, for the many tests of which a second
of start would be most of the time.
"""

import asyncio
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final

import uvloop

from modelmesh.app import App
from modelmesh.errors import MeshError
from modelmesh.settings import Settings
from tests.app.client import Client, tells_of_the_store, until

ROOT: Final = Path(__file__).parents[2]
START_S: Final = 60.0
STOP_S: Final = 60.0
# The environment of hosts is an allow-list; names like a locale's pass, so that a test can find
# every process of its daemon whoever their parents are by now.
_MARK: Final = "LC_MM_TEST"
_CHUNK_BYTES: Final = 65536

FREE_PORTS: Final = {
    "MM_SVC_GRPC_PORT": "0",
    "MM_REST_PORT": "0",
    "MM_METRICS": "prometheus:port=0",
    "MM_PROBE_PORT": "0",
}
# A drain waits until every gRPC connection has reached its age; tests that are not about that have
# no call on its way when they stop, and do without.
_AGELESS: Final = {"MM_SVC_GRPC_MAX_CONNECTION_AGE_SECS": "-1"}


# --- in a process of its own


class Child(Client):
    """A daemon in a process of its own. It is ready when it is made."""

    def __init__(self, process: "Process") -> None:
        ready = process.event("ready")
        super().__init__({name: ready[name] for name in PORTS if name in ready})
        self.process = process
        self.pid = process.pid


PORTS: Final = ("grpc", "rest", "metrics", "probe")


class Process:
    """`modelmesh serve` and what it says."""

    def __init__(self, environment: Mapping[str, str], within: Sequence[str] = ()) -> None:
        """`within`: a command that runs the one behind it (in another network, say)."""
        self._mark = f"{_MARK}={uuid.uuid4()}"
        name, _, value = self._mark.partition("=")
        clean = {key: text for key, text in os.environ.items() if not _is_setting(key)}
        self._process = subprocess.Popen(
            [*within, sys.executable, "-m", "modelmesh", "serve"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**clean, **environment, name: value},
        )
        self.pid = self._process.pid
        self._lines: list[str] = []
        self._half = b""  # a line whose end has not come yet
        self._ended = False
        self._hearing = threading.Lock()
        self._fresh: queue.Queue[str | None] = queue.Queue()
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stderr,), name=f"stderr of {self.pid}"
        )
        self._reader.start()

    def _read(self, stderr: IO[bytes]) -> None:
        """Until it ends: a pipe that nobody reads would stop it."""
        coming = select.poll()
        coming.register(stderr)
        with stderr:
            while not self._ended:
                coming.poll()
                self._hear(stderr)
        self._fresh.put(None)

    def _hear(self, stderr: IO[bytes]) -> None:
        """Take what is there."""
        with self._hearing:
            while not self._ended:
                try:
                    said = os.read(stderr.fileno(), _CHUNK_BYTES)
                except BlockingIOError:
                    return
                self._ended = not said
                *whole, self._half = (self._half + said).split(b"\n")
                if self._ended and self._half:
                    whole.append(self._half)
                for line in whole:
                    self._lines.append(line.decode(errors="replace"))
                    self._fresh.put(self._lines[-1])

    @property
    def lines(self) -> list[str]:
        """What it has said before now: also what the thread that reads has had no time for yet."""
        if self._process.stderr is not None:
            self._hear(self._process.stderr)
        return self._lines

    def event(self, name: str, within_s: float = START_S) -> dict[str, Any]:
        """Wait for the next JSON line with this event."""
        while True:
            line = self._fresh.get(timeout=within_s)
            assert line is not None, f"it ended without {name!r}: {self.lines}"
            if line.startswith("{"):
                event: dict[str, Any] = json.loads(line)
                if event.get("event") == name:
                    return event

    def events(self, name: str) -> list[dict[str, Any]]:
        """What was said so far under this name."""
        parsed = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [event for event in parsed if event.get("event") == name]

    @property
    def status(self) -> int | None:
        """The exit status, if it has ended."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, within_s: float = STOP_S) -> int:
        """Its exit status, once it has ended and all is said."""
        status = self._process.wait(within_s)
        self._reader.join(within_s)
        return status

    def family(self) -> dict[int, str]:
        """Every living process of this daemon, itself included, by pid, with its name."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                mine = self._mark.encode() in (entry / "environ").read_bytes().split(b"\0")
                name = (entry / "comm").read_text().strip()
            except OSError:
                continue
            if mine:
                found[int(entry.name)] = name
        return found

    def end(self) -> None:
        """End it by force, if a test has not."""
        if self._process.poll() is None:
            self._process.kill()
        self.wait()


@contextmanager
def process(**environment: str) -> Iterator[Process]:
    """`modelmesh serve` under these variables; nothing of it is left afterwards."""
    started = Process(environment)
    try:
        yield started
    finally:
        started.end()
        until(lambda: not started.family())


@contextmanager
def child(data_dir: Path | str = "", **environment: str) -> Iterator[Child]:
    """A ready daemon on free ports; asserts that SIGTERM ends it well and leaves nothing."""
    where = {"MM_DATA_DIR": str(data_dir)} if data_dir else {"KV_STORE": "memory"}
    with process(**{**FREE_PORTS, **_AGELESS, **where, **environment}) as started:
        daemon = Child(started)
        try:
            yield daemon
        finally:
            daemon.close()
        if started.status is None:
            started.signal(signal.SIGTERM)
        assert started.wait() == 0, started.lines
        until(lambda: not started.family())


def _is_setting(name: str) -> bool:
    return name.startswith(("MM_", "KV_", "INTERNAL_")) or name in (
        "PREDICT_PROBA",
        "SHUTDOWN_TIMEOUT_MS",
    )


# --- in this process


class Running(Client):
    """A daemon on a loop in a thread of this process."""

    def __init__(self, app: App, stop: "Stop") -> None:
        super().__init__(app.ports, app.settings.host)
        self.app = app
        self._stop = stop

    def stop(self) -> None:
        """Begin the stop and wait for its end."""
        self._stop().result(STOP_S)


class Stop:
    """Asks the thread of a daemon to end it; `done` tells how that went."""

    def __init__(self, loop: asyncio.AbstractEventLoop, asked: asyncio.Event) -> None:
        self._loop = loop
        self._asked = asked
        self.done: Future[None] = Future()

    def __call__(self) -> "Future[None]":
        if not self.done.done():
            self._loop.call_soon_threadsafe(self._asked.set)
        return self.done


@contextmanager
def running(**settings: Any) -> Iterator[Running]:
    """A ready daemon with these settings, on free ports, with its registry in memory.

    What a failed start raises is raised here.
    """
    base: dict[str, Any] = {
        "grpc_port": 0,
        "rest_port": 0,
        "metrics": "prometheus:port=0",
        "probe_port": "0",
        "kv_store": "memory",
        "shared_hosts": 1,
        "max_connection_age_s": -1.0,
    }
    chosen = Settings(**{**base, **settings})
    started: Future[tuple[App, Stop]] = Future()
    thread = threading.Thread(target=_live, args=(chosen, started), name="daemon")
    thread.start()
    try:
        app, stop = started.result(START_S)
        daemon = Running(app, stop)
        try:
            yield daemon
        finally:
            daemon.close()
            daemon.stop()
    finally:
        thread.join(STOP_S)


def joined(stack: ExitStack, **settings: Any) -> Running:
    """A ready daemon of a fleet, until the stack ends. One that meets an etcd that stands still
    does not start, and is started once more."""
    for _ in range(2):
        try:
            return stack.enter_context(running(**settings))
        except MeshError as error:
            if not tells_of_the_store(error.failure.message):
                raise
    return stack.enter_context(running(**settings))


def _live(settings: Settings, started: "Future[tuple[App, Stop]]") -> None:
    """The thread's whole life."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, started))


async def _serve(settings: Settings, started: "Future[tuple[App, Stop]]") -> None:
    asked = asyncio.Event()
    stop = Stop(asyncio.get_running_loop(), asked)
    app: App | None = None
    try:
        app = App(settings)
        await app.start()
        started.set_result((app, stop))
        await asked.wait()
    except Exception as error:
        started.set_exception(error)
    finally:
        try:
            if app is not None:
                await app.stop()
        except Exception as error:
            stop.done.set_exception(error)
        else:
            stop.done.set_result(None)
