"""A TCP proxy whose links go bad to order: what a network does to daemons, without a network.

`Proxy` is a thread with a loop of its own. Each `Link` listens at one address, leads to another and
has a `Fault` per source, so that one daemon can be cut from a server that the others still reach.
What is held is held, not lost: bytes that a real network swallows are sent again by TCP once it
heals, and so they are here. A link counts what its fault struck, for tests to assert first.

    clean -> disturb(Fault) -> clean
"""

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

T = TypeVar("T")

_CALL_S: Final = 30.0
_CHUNK: Final = 65536
# Closing with this set sends RST instead of FIN.
_RESET: Final = struct.pack("ii", 1, 0)

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the connections of one source.

    `hold_there`, `hold_back`: nothing passes in that direction, and nobody is told. `refuse`: the
    open ones are reset and new ones too. `rate`: bytes a second, 0: no limit.
    """

    hold_there: bool = False
    hold_back: bool = False
    refuse: bool = False
    delay_s: float = 0.0
    rate: float = 0.0

    def holds(self, way: str) -> bool:
        return self.hold_there if way == "there" else self.hold_back


CLEAN: Final = Fault()
CUT: Final = Fault(refuse=True)
BLACKHOLE: Final = Fault(hold_there=True, hold_back=True)
ONE_WAY: Final = Fault(hold_there=True)
DEAF: Final = Fault(hold_back=True)


@dataclass(slots=True, eq=False)
class _Connection:
    source: str
    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    pumps: list["asyncio.Task[None]"] = field(default_factory=list)

    def reset(self) -> None:
        for writer in self.writers:
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


class Link:
    """One address in front of another. Made by `Proxy.link`; its methods are for the test."""

    def __init__(self, proxy: "Proxy", target: Address, who: Callable[[Address], str]) -> None:
        self._proxy = proxy
        self.target = target
        self._who = who
        self._faults: dict[str, Fault] = {}
        self._changed = asyncio.Event()
        self._open: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self.address: Address = ("", 0)
        self.carried: Counter[str] = Counter()  # bytes, by direction
        self.struck: Counter[str] = Counter()  # chunks held, delayed; connections reset
        self.look_for = b""  # counted in `seen` where it passes
        self.seen = 0

    # --- for the test's thread

    def disturb(self, fault: Fault, source: str = "") -> None:
        """From now on; `source`: only connections of this one."""
        self._proxy.run(self._disturb(fault, source))

    def heal(self) -> None:
        """As new, for every source."""
        self._proxy.run(self._heal())

    def reset(self) -> int:
        """Reset every open connection; how many there were."""
        return self._proxy.run(self._reset())

    @property
    def sources(self) -> Counter[str]:
        """Whose connections are open."""
        return Counter(connection.source for connection in list(self._open))

    # --- on the proxy's loop

    async def open(self, host: str, port: int) -> None:
        self._server = await asyncio.start_server(self._accept, host, port)
        self.address = self._server.sockets[0].getsockname()[:2]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        pumps = [pump for connection in self._open for pump in connection.pumps]
        await self._reset()
        for pump in pumps:
            pump.cancel()
        if pumps:
            await asyncio.wait(pumps, timeout=5)

    async def _disturb(self, fault: Fault, source: str) -> None:
        self._faults[source] = fault
        self._wake()
        if fault.refuse:
            await self._reset(source)

    async def _heal(self) -> None:
        self._faults.clear()
        self._wake()

    def _wake(self) -> None:
        """Those that wait look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _reset(self, source: str = "") -> int:
        chosen = [each for each in self._open if not source or each.source == source]
        for connection in chosen:
            connection.reset()
        self.struck["reset"] += len(chosen)
        return len(chosen)

    def _fault(self, source: str) -> Fault:
        return self._faults.get(source) or self._faults.get("", CLEAN)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = self._who(writer.get_extra_info("peername")[:2])
        near = _Connection(source, (writer, writer))
        if self._fault(source).refuse:
            self.struck["refused"] += 1
            near.reset()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            near.reset()
            return
        connection = _Connection(source, (writer, far_writer))
        if self._fault(source).refuse:  # meanwhile
            self.struck["reset"] += 1
            connection.reset()
            return
        self._open.add(connection)
        loop = asyncio.get_running_loop()
        for way, source_of, sink in (("there", reader, far_writer), ("back", far_reader, writer)):
            connection.pumps.append(loop.create_task(self._pump(connection, way, source_of, sink)))

    async def _pump(
        self,
        connection: _Connection,
        way: str,
        source_of: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
    ) -> None:
        passed = b""
        try:
            while received := await source_of.read(_CHUNK):
                await self._pass(connection.source, way, len(received))
                sink.write(received)
                await sink.drain()
                self.carried[way] += len(received)
                if self.look_for:  # also where it came in two pieces
                    self.seen += self.look_for in passed + received
                    passed = (passed + received)[1 - len(self.look_for) :]
        except OSError:
            pass
        finally:
            sink.close()
            if connection.pumps and all(p.done() or p is _me() for p in connection.pumps):
                self._open.discard(connection)

    async def _pass(self, source: str, way: str, size: int) -> None:
        """Let it through when and as fast as the fault lets it."""
        if self._fault(source).holds(way):
            self.struck["held"] += 1
            while self._fault(source).holds(way):
                await self._changed.wait()
        fault = self._fault(source)
        wait_s = fault.delay_s + (size / fault.rate if fault.rate else 0.0)
        if wait_s:
            self.struck["delayed"] += 1
            await asyncio.sleep(wait_s)


class Proxy:
    """A thread with links. Close it when the test ends."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._links: list[Link] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy")
        self._thread.start()

    def link(
        self,
        target: Address,
        host: str = "127.0.0.1",
        port: int = 0,
        who: Callable[[Address], str] = lambda _address: "",
    ) -> Link:
        """A clean link. `who` names the source of a connection by its address."""
        link = Link(self, target, who)
        self.run(link.open(host, port))
        self._links.append(link)
        return link

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_S)

    def close(self) -> None:
        for link in self._links:
            self.run(link.close())
        self.run(_turn())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_S)
        self._loop.close()


async def _turn() -> None:
    """Let transports that were closed call back."""
    for _ in range(3):
        await asyncio.sleep(0)


def _me() -> "asyncio.Task[Any] | None":
    return asyncio.current_task()
