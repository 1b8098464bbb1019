"""The sockets of this process on one TCP port, for a server whose library keeps them to itself.

grpc.aio can neither close its listening socket while it goes on serving, nor say how many
connections are open. Both can be seen from the process's own descriptors.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress

_DESCRIPTORS = "/dev/fd"


def shut_listeners(port: int) -> int:
    """No new connection is accepted on this port; how many sockets listened."""
    found = 0
    for sock, listens in _sockets(port):
        if listens:
            sock.shutdown(socket.SHUT_RDWR)
            found += 1
    return found


def connections(port: int) -> int:
    """How many accepted connections on this port are open."""
    return sum(not listens and _connected(sock) for sock, listens in _sockets(port))


def _sockets(port: int) -> Iterator[tuple[socket.socket, bool]]:
    """Each socket bound to the port, borrowed: it is not closed here."""
    for name in os.listdir(_DESCRIPTORS):
        with suppress(OSError):  # no socket, or closed meanwhile by its owner
            sock = socket.socket(fileno=int(name))
            try:
                if _is_on(sock, port):
                    yield sock, bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
            finally:
                sock.detach()


def _connected(sock: socket.socket) -> bool:
    """False for a listener that was shut: it listens no more, but its owner still holds it."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _is_on(sock: socket.socket, port: int) -> bool:
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        return False
    return bool(sock.getsockname()[1] == port)
