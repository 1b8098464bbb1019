"""Virtual time: an hour passes at once, in order, and a hang is an error."""

import asyncio
import time

import pytest

from modelmesh.simulation.clock import Stuck, run


def test_a_day_passes_at_once_and_in_order() -> None:
    async def main() -> list[str]:
        loop, seen = asyncio.get_running_loop(), []
        start = loop.time()

        async def after(seconds: float, name: str) -> None:
            await asyncio.sleep(seconds)
            seen.append(f"{name} {round(loop.time() - start)}")

        await asyncio.gather(after(86400, "day"), after(60, "minute"), after(3600, "hour"))
        return seen

    began = time.monotonic()
    assert run(main()) == ["minute 60", "hour 3600", "day 86400"]
    assert time.monotonic() - began < 60, "it waited for real"


def test_what_waits_for_ever_is_an_error() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Stuck):
        run(main())


def test_a_timeout_strikes_in_virtual_time() -> None:
    async def main() -> None:
        async with asyncio.timeout(5):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        run(main())
