"""Ports are drained one after the other, and all within the one bound of a stop."""

import asyncio

from modelmesh.app import drain_in_turn
from modelmesh.simulation.clock import run


class Port:
    """Has a call for so long."""

    def __init__(self, busy_s: float) -> None:
        self.busy_s = busy_s
        self.bound_s = -1.0

    async def drain(self, grace_s: float) -> None:
        self.bound_s = grace_s
        await asyncio.sleep(min(self.busy_s, grace_s))


def test_what_the_first_ports_took_is_not_given_to_the_next_again() -> None:
    async def main() -> None:
        public, other, peers = Port(8.0), Port(2.0), Port(99.0)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await drain_in_turn([[public, None, other], [peers]], 10.0)
        assert (public.bound_s, other.bound_s) == (10.0, 10.0)
        assert abs(peers.bound_s - 2.0) < 0.01
        assert abs(loop.time() - began - 10.0) < 0.01

    run(main())
