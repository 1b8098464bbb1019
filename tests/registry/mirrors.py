"""How tests of the mirror begin: a faulty store with some models in it, and a mirror over it."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any

from modelmesh.registry.follower import Bounds, Confirm
from modelmesh.registry.local import LocalStore
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.mirror import Mirror
from modelmesh.registry.store import MODELS, Put
from tests.registry.faulty import Faulty, comes, elapse
from tests.registry.virtual_loop import VirtualLoop


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run the test on a virtual loop."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return run


async def faulty_with(*names: str, inner: LocalStore | None = None) -> Faulty:
    """A store that has these models."""
    faulty = Faulty(inner or MemoryStore(), Random(1))
    await fill(faulty.inner, *names)
    return faulty


async def fill(store: Any, *names: str, value: bytes = b"{}") -> None:
    for name in names:
        await store.commit([], [Put(name if "/" in name else MODELS + name, value)])


async def opened(
    faulty: Faulty,
    confirm: Confirm | None = None,
    snapshot: Path | None = None,
    bounds: Bounds | None = None,
) -> Mirror:
    path = str(snapshot) if snapshot else None
    work = Mirror.open(faulty, Random(2), confirm=confirm, snapshot_path=path, bounds=bounds)
    return await comes(work, 12.0)


def models(mirror: Mirror) -> list[str]:
    return [*mirror.table(MODELS).names()]


async def period(mirror: Mirror) -> None:
    """One relist period at its longest."""
    await elapse(mirror.bounds.relist_s + mirror.bounds.relist_jitter_s + 1.0, 1.0)
