"""HTTP/1.1 for callers from outside: the `Server` of the transport interface, parsed by httptools.

A request's `kind` is "METHOD /raw-path"; a query string is metadata (`:query`), headers are
metadata under lower-case names, and `mm-timeout-ms` sets the deadline. Every request that was read
in one turn of the loop, pipelined or over many connections, reaches the handler in one list, and
what one connection has to say in one turn leaves in one write. Answers keep the order of their
requests. A caller that closes its end has left: like most HTTP servers this one cannot tell a
closed socket from a half-closed one, and to stop working for nobody is worth more.

It must stay lean: no task, no future and no timer per request (one sweep looks after all clocks);
and it must never know what a path means.
"""

import asyncio
from email.utils import formatdate
from typing import Final

import structlog

from modelmesh.wire.http1_connection import Connection
from modelmesh.wire.http1_port import Http1Limits, Port
from modelmesh.wire.transport import Handler

__all__ = ["Http1Limits", "Http1Server"]

log = structlog.get_logger("wire")

_SWEEP_S: Final = 1.0  # at least so often: the date in every answer is a second's
_ABORT_S: Final = 1.0  # how long the loop may take to report connections that were cut


class Http1Server:
    """One listening port. `start`, then `drain`."""

    def __init__(self, handler: Handler, limits: Http1Limits | None = None) -> None:
        self._limits = limits or Http1Limits()
        self._handler = handler
        self._port: Port | None = None
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self, host: str, port: int = 0) -> None:
        """Listen (0: on a free port). OSError if the address cannot be had."""
        loop = asyncio.get_running_loop()
        shared = self._port = Port(self._handler, self._limits, loop)
        self._listener = await loop.create_server(lambda: Connection(shared), host, port)
        self._sweep(shared, loop)

    @property
    def port(self) -> int:
        """The TCP port bound (0 before the start and after the drain)."""
        sockets = self._listener.sockets if self._listener else ()
        return int(sockets[0].getsockname()[1]) if sockets else 0

    @property
    def connections(self) -> int:
        """How many callers are connected."""
        return len(self._port.connections) if self._port else 0

    async def drain(self, grace_s: float) -> None:
        """Take no new connections, let running calls end within the bound, then cut the rest."""
        port, listener = self._port, self._listener
        if port is None or listener is None:
            return
        listener.close()
        self._listener = None
        if not await port.emptied(grace_s):
            log.warning("connections cut at the end of the drain", count=len(port.connections))
            port.cut()
            await port.emptied(_ABORT_S)
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _sweep(self, port: Port, loop: asyncio.AbstractEventLoop) -> None:
        port.date(formatdate(usegmt=True))
        now = loop.time()
        for connection in list(port.connections):
            connection.check(now)
        limits = self._limits
        shortest = min(limits.head_s, limits.body_s, limits.idle_s, limits.linger_s)
        pause = min(_SWEEP_S, max(shortest / 4, 0.01))
        self._sweeper = loop.call_later(pause, self._sweep, port, loop)
