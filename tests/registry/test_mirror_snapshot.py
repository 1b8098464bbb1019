"""A daemon that starts while the store does not answer, from what it saved before."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from random import Random
from typing import Any

import pytest

from modelmesh.registry.mirror import Mirror
from modelmesh.registry.snapshot import MAGIC, read
from modelmesh.registry.store import MODELS, Delete, Put
from tests.registry.doors import settle
from tests.registry.faulty import Faulty, elapse
from tests.registry.mirrors import faulty_with, models, opened, virtual
from tests.registry.virtual_loop import VirtualLoop


@virtual
async def test_a_daemon_starts_from_its_snapshot_during_an_outage(tmp_path: Path) -> None:
    path = tmp_path / "registry.snapshot"
    faulty = await faulty_with("a", "b", "vmodels/v", "instances/x")
    first = await opened(faulty, snapshot=path)
    await first.save()
    await first.save()
    assert first._saver is not None
    assert first._saver.saved == 1  # nothing new, nothing written
    await first.availability.close()
    assert path.stat().st_mode & 0o077 == 0
    inner = faulty.inner
    again = Faulty(inner, Random(3))
    again.be("silent")
    mirror = await comes_with_threads(Mirror.open(again, Random(2), snapshot_path=str(path)))
    assert mirror.from_snapshot
    assert mirror.ready
    assert not mirror.listed
    assert models(mirror) == ["a", "b"]
    assert mirror.table("vmodels/").get("v") is not None
    assert len(mirror.table("instances/")) == 0
    await inner.commit([], [Delete(MODELS + "a"), Put(MODELS + "c", b"{}")])
    again.be("good")
    await elapse(4.0)
    assert mirror.listed
    assert models(mirror) == ["b", "c"]
    assert not mirror.restores
    await mirror.close()
    await first.close()


async def comes_with_threads(work: Coroutine[Any, Any, Mirror]) -> Mirror:
    """Like `comes`, where threads have a share in it."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    while not task.done():
        loop.advance(0.5)
        await settle()
        await asyncio.to_thread(lambda: None)
    return task.result()


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "absent"])
@virtual
async def test_a_damaged_snapshot_is_ignored(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "registry.snapshot"
    first = await opened(await faulty_with("a", "b"), snapshot=path)
    await first.close()
    whole = path.read_bytes()
    assert [key for key, _ in read(path).items] == [MODELS + "a", MODELS + "b"]
    if damage == "absent":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(whole[:-20])
    elif damage == "flipped":
        path.write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
    else:
        path.write_bytes(b"x" * len(MAGIC) + whole[len(MAGIC) :])
    again = await faulty_with("c")
    again.be("refused")
    mirror = await comes_with_threads(Mirror.open(again, Random(2), snapshot_path=str(path)))
    assert not mirror.ready
    assert models(mirror) == []
    again.be("good")
    await elapse(4.0)
    assert mirror.ready
    assert models(mirror) == ["c"]
    await mirror.close()


@virtual
async def test_a_snapshot_of_what_the_store_no_longer_is_counts_as_a_restore(
    tmp_path: Path,
) -> None:
    path = tmp_path / "registry.snapshot"
    first = await opened(await faulty_with("a", "b", "c"), snapshot=path)
    await first.close()
    again = await faulty_with("c")  # a fresh store, one revision old
    again.be("silent")
    mirror = await comes_with_threads(Mirror.open(again, Random(2), snapshot_path=str(path)))
    again.be("good")
    await elapse(8.0)
    assert mirror.restores == 1
    assert models(mirror) == ["a", "b", "c"]
    assert len((await again.inner.page(MODELS)).entries) == 3
    await mirror.close()
