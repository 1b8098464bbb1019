"""Real etcds for tests: every version found here, on free ports, in folders that go away.

Versions: the one on PATH, the one of the wheel, and those named in MM_TEST_ETCD (paths, colons
between them). Disks are not waited for where etcd can do without (3.5 and newer).
"""

import http.client
import json
import os
import signal
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelmesh.cli.etcd_process import (
    HOST,
    EtcdProcess,
    NoEtcd,
    Place,
    Program,
    program_at,
    programs,
)
from modelmesh.registry.etcd.config import EtcdConfig, Tls

START_S = 60.0
ATTEMPTS = 3  # a free port may be taken by somebody else before etcd has it


def _found() -> dict[str, Program]:
    further = [path for path in os.environ.get("MM_TEST_ETCD", "").split(":") if path]
    named = [program for path in further if (program := program_at(path)) is not None]
    assert len(named) == len(further), f"MM_TEST_ETCD names what is no etcd: {further}"
    return {str(program).replace(" ", "-"): program for program in (*programs(), *named)}


PROGRAMS = _found()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different."""
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class EtcdServer:
    """One etcd that can be mistreated; its ports and its data outlive its process."""

    def __init__(
        self,
        program: Program,
        folder: Path,
        *,
        scheme: str = "http",
        flags: Sequence[str] = (),
        place: Place | None = None,
        members: Sequence[Place] = (),
        unsafe_no_fsync: bool = True,
    ) -> None:
        self.program = program
        self.process: EtcdProcess
        self._folder = folder
        self._scheme = scheme
        self.flags = flags
        self._members = members
        self._unsafe_no_fsync = unsafe_no_fsync
        self.place = place or self._new_place()
        self._movable = place is None

    def start(self) -> None:
        """The first time, at ports that are free; again, at the same ports with the same data."""
        for attempt in range(ATTEMPTS):
            self.launch()
            try:
                self.process.wait_until_it_answers(START_S)
            except NoEtcd as error:
                self.process.kill()
                if "address already in use" not in str(error) or not self._movable:
                    raise
                if attempt == ATTEMPTS - 1:
                    raise
                self.place = self._new_place()
            else:
                self._movable = False
                return

    def launch(self) -> None:
        """As `start`, without waiting (a member of a cluster waits for the others)."""
        self.process = EtcdProcess.start(
            self.program,
            self.place,
            members=self._members,
            unsafe_no_fsync=self._unsafe_no_fsync,
            flags=self.flags,
        )

    def stop(self) -> None:
        if not self.process.ended:
            self.process.stop()

    def kill(self) -> None:
        """kill -9; it is gone when this returns."""
        self.process.kill()
        assert self.process.ended

    def pause(self) -> None:
        """Every one of its threads stands still when this returns."""
        self.process.signal(signal.SIGSTOP)
        stopped = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        assert stopped is not None
        assert stopped.si_status == signal.SIGSTOP

    def resume(self) -> None:
        self.process.signal(signal.SIGCONT)

    @property
    def address(self) -> str:
        return f"{HOST}:{self.place.client_port}"

    def config(
        self,
        root: str = "/test/",
        *,
        user: str = "",
        password: str = "",
        tls: Tls | None = None,
    ) -> EtcdConfig:
        return EtcdConfig((self.address,), root, user, password, tls)

    def ask(self, path: str, document: dict[str, Any], token: str = "") -> Any:
        """etcd's JSON gateway: another way in than ours, for what only operators do."""
        connection = http.client.HTTPConnection(HOST, self.place.client_port, timeout=30)
        headers = {"Authorization": token} if token else {}
        try:
            connection.request("POST", f"/v3/{path}", json.dumps(document), headers)
            answer = connection.getresponse()
            body = json.loads(answer.read())
        finally:
            connection.close()
        assert answer.status == 200, body
        return body

    def compact(self, revision: int) -> None:
        self.ask("kv/compaction", {"revision": revision, "physical": True})

    def _new_place(self) -> Place:
        client, peer, health = free_ports(3)
        health = health if self._scheme == "https" else 0
        return Place(self._folder, client, peer, scheme=self._scheme, health_port=health)


def cluster(program: Program, folder: Path, size: int) -> list[EtcdServer]:
    """Members of one cluster that answer."""
    places = [
        Place(folder / f"m{n}", client, peer, name=f"m{n}")
        for n, (client, peer) in enumerate(zip(*[iter(free_ports(2 * size))] * 2, strict=True))
    ]
    servers = [EtcdServer(program, each.folder, place=each, members=places) for each in places]
    for server in servers:
        server.launch()
    for server in servers:
        server.process.wait_until_it_answers(START_S)
    return servers


_shared: dict[tuple[str, str], tuple[EtcdServer, "tempfile.TemporaryDirectory[str]"]] = {}


def shared(version: str, purpose: str) -> EtcdServer:
    """One server for many tests that leave it as it is; `stop_shared` ends it."""
    if (version, purpose) not in _shared:
        folder = tempfile.TemporaryDirectory(prefix="etcd-")
        server = EtcdServer(PROGRAMS[version], Path(folder.name))
        server.start()
        _shared[version, purpose] = server, folder
    return _shared[version, purpose][0]


def stop_shared(purpose: str) -> None:
    """Those for one purpose: another one's tests may not have ended in this process."""
    for key in [key for key in _shared if key[1] == purpose]:
        server, folder = _shared.pop(key)
        server.stop()
        folder.cleanup()
