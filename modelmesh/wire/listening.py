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
    return sum(1 for _ in connected(port))


def connected(port: int) -> Iterator[tuple[socket.socket, tuple[str, int]]]:
    """Each accepted connection on this port, lent for the turn, and the address of its peer."""
    for sock, listens in _sockets(port):
        if not listens:
            with suppress(OSError):  # a listener that was shut, but that its owner still holds
                host, peer_port = sock.getpeername()[:2]
                yield sock, (host, peer_port)


def _sockets(port: int) -> Iterator[tuple[socket.socket, bool]]:
    """Each socket bound to the port, by a descriptor of our own: were the owner to close his, the
    number could mean something else the next moment."""
    for name in os.listdir(_DESCRIPTORS):
        with suppress(OSError), _own(int(name)) as sock:  # no socket, or closed meanwhile
            if _is_on(sock, port):
                yield sock, bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _own(descriptor: int) -> socket.socket:
    own = os.dup(descriptor)
    try:
        return socket.socket(fileno=own)
    except OSError:
        os.close(own)
        raise


def _is_on(sock: socket.socket, port: int) -> bool:
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        return False
    return bool(sock.getsockname()[1] == port)
