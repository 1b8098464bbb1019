"""Letting the idle HTTP/2 connections of a port go, while the busy ones go on.

grpc.aio says GOAWAY to all connections when it stops, and cancels calls that are on their way by
then; to a single one only when it has reached its age. A stop that waits for the age loses no call
but takes as long as the age, be there calls or not. So the frame is written here, past the library,
to a connection's own socket. "Start nothing new" is all it says: a call that crosses it on its way
is answered as ever, and the client closes once it has no call left.

The frame must not fall into another one of which the library has written only a part. That happens
where a socket's buffer is full. Therefore it is sent only where at two looks in a row no call ran,
no large answer was given since the last look, and next to nothing was on its way. Nothing here may
touch a connection with a call on it, nor one that is encrypted (there are none yet).
"""

import fcntl
import socket
import struct
import termios
from collections.abc import Set
from contextlib import suppress
from enum import Enum
from typing import Final

from modelmesh.wire.listening import connected

SMALL_BYTES: Final = 4096  # fits into any socket's buffer, and may wait for a delayed ACK
QUIET_S: Final = 0.04  # at least so long between the two looks
LEAVE_S: Final = 1.0  # a client that has been told needs one round trip to close
_LAST_STREAM: Final = (1 << 31) - 1  # the greatest there is: all that arrive are still taken
GOAWAY: Final = struct.pack(">I B I I I", 8 << 8 | 7, 0, 0, _LAST_STREAM, 0)


class Step(Enum):
    """What to do about one connection now."""

    WAIT = "a call runs on it, or it may yet leave by itself"
    TELL = "idle at two looks: it is to start nothing new"
    CUT = "it was told, and has had its time: its client does not listen"


class Leaving:
    """What was seen of one connection so far. Times are monotonic seconds."""

    __slots__ = ("_idle_since", "_told")

    def __init__(self) -> None:
        self._idle_since: float | None = None
        self._told = False

    def look(self, idle: bool, now: float) -> Step:
        """Idle: no call runs on it, and next to nothing is on its way to the client."""
        if not idle:
            self._idle_since = None
            return Step.WAIT
        if self._idle_since is None:
            self._idle_since = now
        idle_s = now - self._idle_since
        if self._told:
            return Step.CUT if idle_s >= LEAVE_S else Step.WAIT
        if idle_s < QUIET_S:
            return Step.WAIT
        self._told, self._idle_since = True, now
        return Step.TELL


class Departures:
    """All the connections of a port, look by look, until none is left."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._seen: dict[tuple[str, int], Leaving] = {}

    def look(self, busy: Set[int], now: float) -> int:
        """Do what is due; how many are still open. `busy`: the peers' ports that have a call, or
        have had a large answer since the last look."""
        count = 0
        for sock, peer in connected(self._port):
            count += 1
            seen = self._seen.setdefault(peer, Leaving())
            with suppress(OSError):  # it has closed in the meantime
                idle = peer[1] not in busy and _unsent_bytes(sock) <= SMALL_BYTES
                _do(seen.look(idle, now), sock)
        return count


def _do(step: Step, sock: socket.socket) -> None:
    if step is Step.TELL:
        sock.send(GOAWAY, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    elif step is Step.CUT:
        sock.shutdown(socket.SHUT_RDWR)


def _unsent_bytes(sock: socket.socket) -> int:
    """Written to the socket, and not yet acknowledged by the peer."""
    count: int = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]
    return count
