"""Threads beside the loop: so many, no more, and nobody waits for them for ever."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from modelmesh.errors import Code, Failure, MeshError, Reason
from modelmesh.runtime.aside import Aside
from tests.runtime.waiting import until


class Gate:
    """Work that holds its thread until it is opened, and counts who is in it."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._lock = threading.Lock()
        self._entries = threading.Semaphore(0)
        self.entered = 0

    def __call__(self) -> str:
        with self._lock:
            self.entered += 1
        self._entries.release()
        self._open.wait(20)
        return "done"

    def hold_until_entered(self, count: int) -> None:
        """The loop stands still until so many more are in it: nothing is late meanwhile."""
        assert all(self._entries.acquire(timeout=20) for _ in range(count))

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open()


@pytest.fixture
def aside(gate: Gate) -> Iterator[Aside]:
    made = Aside(threads=2, most=3)
    yield made
    made.close()


async def failure_of(work: asyncio.Future[str]) -> Failure:
    with pytest.raises(MeshError) as caught:
        await work
    return caught.value.failure


def begin(aside: Aside, gate: Gate, timeout_s: float = 20.0) -> asyncio.Task[str]:
    return asyncio.create_task(aside.run(gate, timeout_s))


async def test_so_many_run_so_many_wait_and_the_next_is_refused(aside: Aside, gate: Gate) -> None:
    held = [begin(aside, gate) for _ in range(3)]
    await until(lambda: gate.entered == 2)
    refused = await failure_of(begin(aside, gate))
    assert (refused.code, refused.reason) == (Code.RESOURCE_EXHAUSTED, Reason.OVERLOADED)
    assert gate.entered == 2, "the third waits"
    gate.open()
    assert await asyncio.gather(*held) == ["done"] * 3
    assert await begin(aside, gate) == "done"


async def test_what_is_late_ends_but_a_thread_keeps_its_place(aside: Aside, gate: Gate) -> None:
    late = [begin(aside, gate, 0.05) for _ in range(3)]
    await asyncio.sleep(0)
    gate.hold_until_entered(2)
    assert {(await failure_of(each)).code for each in late} == {Code.DEADLINE_EXCEEDED}
    assert gate.entered == 2
    waits = begin(aside, gate)  # in the place of the one that never had a thread
    await asyncio.sleep(0)
    assert (await failure_of(begin(aside, gate))).code is Code.RESOURCE_EXHAUSTED
    gate.open()
    assert await waits == "done"


async def test_what_raises_gives_its_place_back(aside: Aside) -> None:
    def broken() -> None:
        raise ValueError("broken")

    for _ in range(10):
        with pytest.raises(ValueError, match="broken"):
            await aside.run(broken, 5)
