"""Ports and connections by hand, for what no client library shows."""

import socket
from contextlib import closing

from tests.app.client import Client


def free_port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def is_listening(host: str, port: int) -> bool:
    with closing(socket.socket()) as sock:
        return sock.connect_ex((host, port)) == 0


def connected(daemon: Client) -> socket.socket:
    """A connection to the REST port."""
    return socket.create_connection((daemon.host, daemon.ports["rest"]), timeout=30)


def said_of_liveness(daemon: Client) -> bytes:
    """What one request is answered until its connection is closed; b"" if that was idle for too
    long before."""
    try:
        with connected(daemon) as sock:
            sock.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
            return until_closed(sock)
    except ConnectionError:
        return b""


def until_closed(sock: socket.socket) -> bytes:
    """Everything that the daemon says before it closes (a TimeoutError if it does not)."""
    return b"".join(iter(lambda: sock.recv(65536), b""))
