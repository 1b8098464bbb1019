"""A TCP relay whose ways can be blocked, cut and closed: a bad network before a real server."""

import asyncio


class Relay:
    """Listens on a free port, and on the same one again after `close`."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.there = asyncio.Event()
        self.back = asyncio.Event()
        self.there.set()
        self.back.set()
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._open: list[asyncio.Event] = []
        self._pumps: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def connections(self) -> int:
        """How many are open at both ends."""
        return len(self._pumps) // 2

    def cut(self) -> int:
        """Break every connection; how many there were."""
        cut = len(self._writers) // 2
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        return cut

    def freeze(self) -> int:
        """Swallow what comes on connections that are open, for good; how many there were."""
        frozen = len(self._open)
        for alive in self._open:
            alive.clear()
        self._open.clear()
        return frozen

    def refuse(self) -> None:
        """No new connection."""
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        self.refuse()
        self.cut()
        self.there.set()
        self.back.set()
        pumps = set(self._pumps)
        for pump in pumps:
            pump.cancel()
        if pumps:
            await asyncio.wait(pumps, timeout=5)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(far_writer)
        alive = asyncio.Event()
        alive.set()
        self._open.append(alive)
        for source, sink, way in (
            (reader, far_writer, self.there),
            (far_reader, writer, self.back),
        ):
            pump = asyncio.get_running_loop().create_task(self._pump(source, sink, way, alive))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        way: asyncio.Event,
        alive: asyncio.Event,
    ) -> None:
        try:
            while received := await source.read(65536):
                await alive.wait()
                await way.wait()
                sink.write(received)
        except ConnectionError:
            pass
        finally:
            sink.close()
            self._writers.discard(sink)
