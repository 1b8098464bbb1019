"""Writes that come together: few commits, and each caller gets what came of his own item."""

import asyncio
from collections.abc import Sequence

import pytest

from modelmesh.registry.gathering import LONGEST_WAIT_S, Gathering
from tests.registry.faulty import elapse
from tests.registry.mirrors import virtual

MOST = 4


class Book:
    """What is written, when the test lets it be."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.broken: set[int] = set()
        self.gathering: Gathering[int, str] = Gathering(self.write, MOST, "write a book")

    async def write(self, items: list[int]) -> Sequence[str]:
        self.batches.append(items)
        await self.gate.wait()
        if self.broken & set(items):
            raise ValueError("broken")
        return [f"wrote {item}" for item in items]

    def put(self, *items: int) -> list["asyncio.Task[str]"]:
        return [asyncio.ensure_future(self.gathering.put(item)) for item in items]


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_one_alone_goes_alone() -> None:
    async def scenario() -> None:
        book = Book()
        book.gate.set()
        assert await book.gathering.put(1) == "wrote 1"
        assert await book.gathering.put(2) == "wrote 2"
        assert book.batches == [[1], [2]]

    asyncio.run(scenario())


def test_who_comes_in_one_turn_goes_together() -> None:
    async def scenario() -> None:
        book = Book()
        book.gate.set()
        assert await asyncio.gather(*book.put(1, 2, 3)) == ["wrote 1", "wrote 2", "wrote 3"]
        assert book.batches == [[1, 2, 3]]

    asyncio.run(scenario())


def test_who_comes_during_a_write_waits_for_the_next_which_has_a_size() -> None:
    async def scenario() -> None:
        book = Book()
        first = book.put(0)
        await turns()
        others = book.put(*range(1, 7))
        await turns()
        assert book.batches == [[0]]
        book.gate.set()
        assert await asyncio.gather(*first, *others) == [f"wrote {n}" for n in range(7)]
        assert book.batches == [[0], [1, 2, 3, 4], [5, 6]]

    asyncio.run(scenario())


def test_what_a_write_raises_all_of_it_get_and_nobody_else() -> None:
    async def scenario() -> None:
        book = Book()
        book.broken = {1}
        first = book.put(1, 2)
        await turns()
        later = book.put(3)
        book.gate.set()
        outcomes = await asyncio.gather(*first, *later, return_exceptions=True)
        assert [type(each) for each in outcomes] == [ValueError, ValueError, str]

    asyncio.run(scenario())


def test_who_leaves_while_waiting_is_not_written_and_who_leaves_a_write_does_not_end_it() -> None:
    async def scenario() -> None:
        book = Book()
        first, second = book.put(1, 2)
        await turns()
        third, fourth = book.put(3, 4)
        await turns()
        first.cancel()
        third.cancel()
        await turns()
        book.gate.set()
        assert await second == "wrote 2"
        assert await fourth == "wrote 4"
        assert book.batches == [[1, 2], [4]]
        for left in (first, third):
            with pytest.raises(asyncio.CancelledError):
                await left

    asyncio.run(scenario())


async def answered(book: Book, *items: int, took_s: float) -> None:
    """These go together, and the write takes so long."""
    book.gate.clear()
    callers = book.put(*items)
    await turns()
    await elapse(took_s)
    book.gate.set()
    await asyncio.gather(*callers)


@virtual
async def test_the_next_write_waits_until_as_many_have_come_as_were_answered() -> None:
    book = Book()
    await answered(book, 1, 2, took_s=0.005)
    others = book.put(3)
    await turns()
    assert book.batches == [[1, 2]]
    others += book.put(4)
    await asyncio.gather(*others)
    assert book.batches == [[1, 2], [3, 4]]


@virtual
async def test_it_waits_no_longer_than_twice_what_the_last_one_took() -> None:
    book = Book()
    await answered(book, 1, 2, took_s=0.004)
    other = book.put(3)
    await elapse(0.007)
    assert book.batches == [[1, 2]]
    await elapse(0.002)
    assert book.batches == [[1, 2], [3]]
    await asyncio.gather(*other)


@virtual
async def test_after_a_slow_write_it_waits_for_a_moment_only() -> None:
    book = Book()
    await answered(book, 1, 2, took_s=5.0)
    other = book.put(3)
    await elapse(LONGEST_WAIT_S / 2)
    assert book.batches == [[1, 2]]
    await elapse(LONGEST_WAIT_S)
    assert book.batches == [[1, 2], [3]]
    await asyncio.gather(*other)


@virtual
async def test_after_one_alone_nobody_is_waited_for() -> None:
    book = Book()
    await answered(book, 1, took_s=0.005)
    await asyncio.gather(*book.put(2))
    assert book.batches == [[1], [2]]


@virtual
async def test_who_fills_a_write_is_not_kept_waiting() -> None:
    book = Book()
    book.gate.clear()
    first = book.put(1, 2, 3)
    await turns()
    await elapse(0.005)
    others = book.put(*range(4, 4 + MOST))
    await turns()
    book.gate.set()
    await asyncio.gather(*first, *others)
    assert book.batches == [[1, 2, 3], [4, 5, 6, 7]]
