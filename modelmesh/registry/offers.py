"""Offers back to a restored store what it has lost.

After a restore the registrations that the table has and the store lacks are created again, if they
are still absent (`create if absent`: what the store has, wins), in commits of bounded size and at
a bounded rate. All daemons do so; each begins elsewhere, and what one has brought back leaves the
others' lists by the watch. What a store refuses for good stays in the table, and is logged once.

Must never overwrite anything, and never offer what belongs to a lease.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Final

import structlog

from modelmesh.errors import Code, MeshError
from modelmesh.registry.keyspace import COMMIT_BYTES, key_bytes
from modelmesh.registry.remote_table import RemoteTable
from modelmesh.registry.store import Change, Committed, Compare, Entry, Put

log = structlog.get_logger("registry")

# etcd takes 128 operations in one transaction.
BULK: Final = 100

# Of the entries still to be offered, the bulk is drawn from the first so many.
_WINDOW: Final = 2000

Commit = Callable[[Sequence[Compare], Sequence[Change]], Awaitable[Committed]]
Item = tuple[str, Entry]


async def offer_back(
    tables: Sequence[RemoteTable], commit: Commit, rng: Random, commits_per_s: float
) -> int:
    """Offer until the store has (or has refused) every old entry of the tables; how many commits.

    `commit` must show its outcome to the tables. While the store does not answer it is asked again
    at the same rate.
    """
    refused: set[str] = set()
    commits = 0
    for table in tables:
        while bulk := _bulk(table, refused, rng):
            commits += 1
            await _offer(bulk, commit, refused)
            await asyncio.sleep(rng.uniform(0.5, 1.5) / commits_per_s)
    return commits


async def _offer(bulk: list[Item], commit: Commit, refused: set[str]) -> None:
    compares = [Compare(key, 0) for key, _ in bulk]
    try:
        await commit(compares, [Put(key, entry.value) for key, entry in bulk])
    except MeshError as error:
        if error.failure.code is not Code.INVALID_ARGUMENT:
            log.info("registrations cannot be offered back yet", why=str(error))
        elif len(bulk) > 1:
            for item in bulk:
                await _offer([item], commit, refused)
        else:
            refused.add(bulk[0][0])
            log.error("a registration is refused by the restored store", key=bulk[0][0])


def _bulk(table: RemoteTable, refused: set[str], rng: Random) -> list[Item]:
    """Some of the entries that are still to be offered, as many as one commit takes."""
    window: list[Item] = []
    for key, entry in table.old_items():
        if not entry.lease and key not in refused:
            window.append((key, entry))
        if len(window) == _WINDOW:
            break
    rng.shuffle(window)
    size_bytes = 0
    bulk: list[Item] = []
    for key, entry in window[:BULK]:
        size_bytes += 2 * key_bytes(key) + len(entry.value)
        if bulk and size_bytes > COMMIT_BYTES:
            break
        bulk.append((key, entry))
    return bulk
