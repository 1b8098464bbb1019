"""Peers that are real processes: stopped, woken, killed and started again."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from modelmesh.domain.fleet import Peer
from modelmesh.domain.instances import InstanceRecord
from modelmesh.errors import Code
from modelmesh.peers.channels import grpc_peers
from modelmesh.peers.members import Members
from modelmesh.wire.kinds import MODEL_INFER
from modelmesh.wire.transport import Call
from tests.peers.worlds import HIT, Answer, until

ROOT = Path(__file__).parents[2]


class Daemon:
    def __init__(self, port: int = 0) -> None:
        command = [sys.executable, "-m", "tests.peers.daemon", "b", str(port)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def state(self) -> str:
        """As the kernel sees it: T is stopped."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0]

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Daemon]]:
    started: list[Daemon] = []

    def start(port: int = 0) -> Daemon:
        started.append(Daemon(port))
        return started[-1]

    yield start
    for daemon in started:
        daemon.end()


@pytest.fixture
async def peers() -> AsyncIterator[Members]:
    made = grpc_peers("a")
    yield made
    await made.close(0)


async def meet(peers: Members, daemon: Daemon) -> Peer:
    peers.update({"b": InstanceRecord(start_ms=1, address=f"127.0.0.1:{daemon.port}")})
    peer = peers.get("b")
    assert peer is not None
    async with asyncio.timeout(60):
        while not await peers.ask_health("b"):  # it may stand still for a moment
            pass
    return peer


def send(peers: Members, body: bytes, on_suspect: Callable[[], None] | None = None) -> Answer:
    answer = Answer()
    peers.call("b", HIT, "m", Call(MODEL_INFER, body, answer), on_suspect)
    return answer


async def test_a_stopped_peer_is_a_suspect_until_it_goes_on(
    peers: Members, start: Callable[..., Daemon]
) -> None:
    daemon = start()
    peer = await meet(peers, daemon)
    daemon.send(signal.SIGSTOP)
    await until(lambda: daemon.state() == "T")
    told: list[int] = []
    answer = send(peers, b"x", lambda: told.append(1))
    await until(lambda: not peer.answers)
    assert (peer.suspect, told, answer.ends) == (True, [1], [])
    new = send(peers, b"y")  # on a new connection, which nobody welcomes
    failure = await new.failure()
    assert (failure.code, failure.executed) == (Code.UNAVAILABLE, False)
    daemon.send(signal.SIGCONT)
    assert await answer.body() == b"x"  # the late first answer
    await until(lambda: peer.answers)
    assert await send(peers, b"z").body() == b"z"
    assert told == [1]


async def test_a_killed_peer_is_excluded_until_it_is_back(
    peers: Members, start: Callable[..., Daemon]
) -> None:
    daemon = start()
    peer = await meet(peers, daemon)
    kept = send(peers, b"keep")
    assert await send(peers, b"x").body() == b"x"
    daemon.end()
    failure = await kept.failure()
    assert (failure.code, failure.executed) == (Code.UNAVAILABLE, True)
    await until(lambda: not peer.reachable)  # without another call
    assert start(daemon.port).process.pid != daemon.process.pid
    await until(lambda: peer.answers)
    assert await send(peers, b"y").body() == b"y"
