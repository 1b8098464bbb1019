"""The fault proxy does what the scenarios believe it does."""

import os
import socket
from collections.abc import Iterator

import pytest

from tests.app.client import until
from tests.fleet.fleet import owner_of
from tests.fleet.proxy import BLACKHOLE, CUT, DEAF, ONE_WAY, Fault, Link, Proxy


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)
        yield listening


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.close()


def joined(link: Link, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Both ends of one connection through the link."""
    near = socket.create_connection(link.address, timeout=30)
    far, _ = server.accept()
    far.settimeout(30)
    return near, far


@pytest.fixture
def link(proxy: Proxy, server: socket.socket) -> Link:
    return proxy.link(
        server.getsockname(), who=lambda address: owner_of(address, {os.getpid(): "me"})
    )


def test_clean(link: Link, server: socket.socket) -> None:
    near, far = joined(link, server)
    with near, far:
        near.sendall(b"there")
        assert far.recv(10) == b"there"
        far.sendall(b"back")
        assert near.recv(10) == b"back"
        until(lambda: link.carried == {"there": 5, "back": 4})
        assert link.sources == {"me": 1}
        near.close()
        assert far.recv(10) == b""


@pytest.mark.parametrize(
    ("fault", "arrives_there", "arrives_back"),
    [(BLACKHOLE, False, False), (ONE_WAY, False, True), (DEAF, True, False)],
)
def test_what_is_held_arrives_once_it_heals(
    fault: Fault, arrives_there: bool, arrives_back: bool, link: Link, server: socket.socket
) -> None:
    near, far = joined(link, server)
    with near, far:
        link.disturb(fault)
        near.sendall(b"1")
        far.sendall(b"2")
        held = 2 - arrives_there - arrives_back
        until(lambda: link.struck["held"] == held)
        until(lambda: link.carried.total() == 2 - held)
        for end, arrives in ((far, arrives_there), (near, arrives_back)):
            if arrives:
                assert end.recv(1)
            else:
                end.setblocking(False)
                with pytest.raises(BlockingIOError):
                    end.recv(1)
        link.heal()
        until(lambda: link.carried.total() == 2)


def test_a_cut_resets_and_refuses(link: Link, server: socket.socket) -> None:
    near, far = joined(link, server)
    with near, far:
        link.disturb(CUT)
        for end in (near, far):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
        late = socket.create_connection(link.address, timeout=30)
        with late, pytest.raises(ConnectionResetError):
            late.recv(1)
        assert link.struck["refused"] == 1
        link.heal()
    near, far = joined(link, server)
    near.close()
    far.close()


def test_a_fault_of_one_source_is_not_another_s(link: Link, server: socket.socket) -> None:
    link.disturb(BLACKHOLE, source="somebody")
    near, far = joined(link, server)
    with near, far:
        near.sendall(b"1")
        assert far.recv(1) == b"1"
        link.disturb(BLACKHOLE, source="me")
        near.sendall(b"2")
        until(lambda: link.struck["held"] == 1)
        far.setblocking(False)
        with pytest.raises(BlockingIOError):
            far.recv(1)


def test_delay_and_rate(link: Link, server: socket.socket) -> None:
    near, far = joined(link, server)
    with near, far:
        link.disturb(Fault(delay_s=0.01, rate=1_000_000))
        near.sendall(b"x" * 20_000)
        received = 0
        while received < 20_000:
            received += len(far.recv(65536))
        assert link.struck["delayed"] >= 1
        assert link.reset() == 1
        with pytest.raises(ConnectionResetError):
            near.recv(1)
